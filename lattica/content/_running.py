"""The fetches that run: one to an object and a place, whoever else wants the same joins it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ._events import Fetched, FetchEvent, FetchProgress, FetchStarted
from ._joint import Joint
from ._values import DestinationTaken

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    import trio

    from lattica.cid import CID
    from lattica.transport import PeerInfo

    from ._build import Segments
    from ._origin import Origin
    from .fetch import Fetch

    # What a caller knows: providers, where more come from, origins, and for how long it waits.
    Known: TypeAlias = tuple[
        Iterable[PeerInfo], AsyncIterable[PeerInfo | None] | None, Sequence[Origin], float
    ]


@dataclass(frozen=True, slots=True)
class _Run:
    """A fetch that others may join."""

    joint: Joint[Fetched, FetchEvent]
    fetch: Fetch
    overwrite: bool


class Running:
    """The fetches of one exchange.

    Attributes:
        fetches: by what they bring; of several with one root, the one that began first.
        left: objects of which a part is here that no fetch is adding to.
    """

    def __init__(self) -> None:
        self.fetches: dict[CID, Fetch] = {}
        self.left: set[CID] = set()
        self._on_part: Callable[[CID, bool], object] = _nobody
        self._runs: dict[tuple[CID, Path], _Run] = {}
        self._parts: set[CID] = set()  # of these, those that some leaves are here of

    def __len__(self) -> int:
        return len(self._runs)

    def watch_parts(self, listener: Callable[[CID, bool], object]) -> None:
        """See `Exchange.watch_parts`."""
        self._on_part = listener
        for root in self.left | self._parts:
            listener(root, True)

    def note_left(self, root: CID) -> None:
        """Note that a part of `root` is here, from an earlier fetch."""
        if root not in self.left:
            self.left.add(root)
            self._on_part(root, True)

    async def run(
        self,
        nursery: trio.Nursery,
        make: Callable[[Callable[[FetchEvent], object]], Fetch],
        root: CID,
        destination: Path,
        known: Known,
        progress: Callable[[FetchEvent], object] | None,
        *,
        overwrite: bool = False,
        name: str | None = None,
        segments: Segments | None = None,
    ) -> Fetched:
        """Run what `make` makes, or wait for what runs already with the same object and place.

        Who must not overwrite what another call may: it looks at what stands there afterwards.
        """
        key = _place(root, destination)
        while (running := self._runs.get(key)) is not None:
            joint = running.joint
            if joint.ending or (running.overwrite and not overwrite):
                await joint.over.wait()
                continue
            running.fetch.join(*known)
            try:
                return await joint.wait(progress, running.fetch.so_far())
            except DestinationTaken:
                if running.overwrite or not overwrite:
                    raise
        joint = Joint()
        fetch = make(partial(self._told, joint))
        fetch.join(*known)
        self._runs[key] = _Run(joint, fetch, overwrite)
        run = partial(fetch.run, overwrite=overwrite, name=name, segments=segments)
        nursery.start_soon(joint.run, partial(self._run_alone, fetch, key, run))
        return await joint.wait(progress)

    def _told(self, joint: Joint[Fetched, FetchEvent], event: FetchEvent) -> None:
        if (
            isinstance(event, FetchStarted | FetchProgress)
            and event.verified_bytes
            and event.root not in self._parts
        ):
            self._parts.add(event.root)
            self._on_part(event.root, True)
        joint.tell(event)

    async def _run_alone(
        self, fetch: Fetch, key: tuple[CID, Path], run: Callable[[], Awaitable[Fetched]]
    ) -> Fetched:
        first = self.fetches.setdefault(fetch.root, fetch)
        self.left.discard(fetch.root)
        try:
            return await run()
        except BaseException:
            if fetch.left:
                self.left.add(fetch.root)
            elif first is fetch and fetch.root in self._parts:
                self._on_part(fetch.root, False)
            raise
        finally:
            del self._runs[key]
            self._parts.discard(fetch.root)
            if first is fetch:
                del self.fetches[fetch.root]


def _place(root: CID, destination: Path) -> tuple[CID, Path]:
    return root, destination.absolute()


def _nobody(_root: CID, _here: bool) -> None:
    """Nobody wants to know of parts."""
