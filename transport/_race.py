"""Several ways to the same end, the best one first: the race of RFC 8305 ("happy eyeballs").

Ways are tried in order. Each gets a head start before the next joins it, and none once it has
failed: a list whose front is dead costs no more than the failures themselves. The first to arrive
wins, and the others are cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from lattica._nursery import private_nursery
from lattica.errors import LatticaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_T = TypeVar("_T")


class AllFailed(Exception):
    """No attempt succeeded.

    Attributes:
        failures: why not, by position.
    """

    def __init__(self, failures: dict[int, LatticaError]) -> None:
        super().__init__("; ".join(str(error) for error in failures.values()))
        self.failures = failures


async def race(
    attempts: Sequence[Callable[[], Awaitable[_T]]],
    head_start_s: float,
    discard: Callable[[_T], None],
) -> _T:
    """Return what the first attempt to succeed returned; the others are over by then.

    An attempt fails by raising a LatticaError; anything else it raises is a bug, and leaves.

    Args:
        attempts: in order of preference.
        head_start_s: how long an attempt runs before the next one starts.
        discard: closes, at once, a result that came too late: two may arrive in one moment, or
            one as the caller gives up.

    Cancelled, all attempts are over, and what arrived in spite of it is returned or discarded.

    Raises:
        AllFailed: none succeeded.
    """
    runners = _Race(attempts, head_start_s, discard)
    try:
        async with private_nursery() as nursery:
            nursery.start_soon(runners.run, 0, nursery)
    except BaseException:
        if runners.winner:
            discard(runners.winner.pop())
        raise
    if not runners.winner:
        raise AllFailed(runners.failures)
    return runners.winner[0]


class _Race(Generic[_T]):
    def __init__(
        self,
        attempts: Sequence[Callable[[], Awaitable[_T]]],
        head_start_s: float,
        discard: Callable[[_T], None],
    ) -> None:
        self._attempts, self._head_start_s, self._discard = attempts, head_start_s, discard
        self._failed = [trio.Event() for _ in attempts]
        self.winner: list[_T] = []
        self.failures: dict[int, LatticaError] = {}

    async def run(self, position: int, nursery: trio.Nursery) -> None:
        if position == len(self._attempts):
            return
        nursery.start_soon(self._follow, position, nursery)
        try:
            result = await self._attempts[position]()
        except LatticaError as error:
            self.failures[position] = error
            self._failed[position].set()
            return
        if self.winner:
            self._discard(result)
        else:
            self.winner.append(result)
            nursery.cancel_scope.cancel()

    async def _follow(self, position: int, nursery: trio.Nursery) -> None:
        with trio.move_on_after(self._head_start_s):
            await self._failed[position].wait()
        nursery.start_soon(self.run, position + 1, nursery)
