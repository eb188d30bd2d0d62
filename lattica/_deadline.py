"""Deadlines of whole calls, by the number of seconds that callers pass."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from lattica.errors import DeadlineExceeded, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lattica.cid import CID


@contextmanager
def deadline(
    seconds: float | None,
    what: str,
    cid: CID | None = None,
    last_news: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """End the block after so many seconds; None is never.

    Raises:
        DeadlineExceeded: it was not done; the message says `what`, and the last news.
        InvalidInput: `seconds` is no time to wait.
    """
    if seconds is not None and not seconds >= 0:
        raise InvalidInput(f"a timeout of {seconds} seconds, expected 0 or more")
    with trio.move_on_after(float("inf") if seconds is None else seconds) as scope:
        yield
    if scope.cancelled_caught:
        news = f"; last heard: {last_news()}" if last_news() else ""
        raise DeadlineExceeded(f"{what}: not done within {seconds:g} s{news}", cid=cid)
