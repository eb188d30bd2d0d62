"""What all tests share: a virtual clock that real threads cannot upset, and time enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

# A machine that others use is slow now and then: no test may fail for that.
settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that jumps to the next deadline whenever all tasks wait; worker threads take no time.

    Trio's clock counts a task that waits for a thread as one that waits: hours would pass while
    SQLite opens a file, and what was to be read would have expired. So the work of threads is done
    at once, where it is asked for.
    """
    monkeypatch.setattr(trio.to_thread, "run_sync", _run_at_once)
    monkeypatch.setattr(trio.from_thread, "check_cancelled", lambda: None)
    monkeypatch.setattr(trio.from_thread, "run_sync", lambda work, *args: work(*args))
    return MockClock(autojump_threshold=0)


async def _run_at_once(work: Callable[..., _T], *args: object, **_options: object) -> _T:
    await trio.lowlevel.checkpoint_if_cancelled()
    result = work(*args)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return result
