"""A nursery that belongs to one object: an error of its body leaves as itself, not in a group."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def private_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose lone error is raised bare.

    Nurseries wrap every error in an ExceptionGroup, which would make `except KeyError` around a
    caller's block stop working just because we run a task behind it. Two errors at once still
    leave as a group.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        # Raised from its own cause, so the traceback reads as if there had been no nursery.
        raise error from error.__cause__
