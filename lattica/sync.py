"""The node for programs that do not use Trio: `with lattica.Node() as node`.

Each method here is the method of the same name of `AsyncNode`, carried out in the node's thread
(`_node_thread`). They are written out, one by one: so an editor knows their arguments, and what
comes of them. A test holds the two classes in step.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from lattica._node_thread import InsideEventLoop as InsideEventLoop, NodeClosed as NodeClosed
from lattica._progress import shown
from lattica._sync_dht import BlockingDht
from lattica._sync_models import BlockingModelCalls
from lattica._sync_opened import BlockingObject
from lattica.node import AsyncNode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lattica._opened import OpenObject
    from lattica.cid import CID, HashFunction
    from lattica.identity import PeerId
    from lattica.models import Name, NameRecord, Rule
    from lattica.pubsub import Message
    from lattica.results import (
        Announcement,
        Collected,
        Fetched,
        ObjectStat,
        Peer,
        Pong,
        Preview,
        ProgressCallback,
        RangeRead,
        Share,
        SharedObject,
        Status,
        StoreUsage,
        Verification,
    )
    from lattica.ticket import Ticket
    from lattica.transport import Multiaddr

_N = TypeVar("_N")


def _told_in_full(blocking: type[_N]) -> type[_N]:
    """Let `help` say of each method all that it says of the one that its text refers to."""
    for part in blocking.__mro__:
        for name, method in vars(part).items():
            if f"see `AsyncNode.{name}`" in (getattr(method, "__doc__", None) or ""):
                method.__doc__ = getattr(AsyncNode, name).__doc__
    return blocking


@_told_in_full
class Node(BlockingModelCalls):
    """A node in a thread of its own. Takes what `open_node` takes; use it with `with`.

    Where a method takes `progress`, it is a callable, or True for a display on stderr.
    """

    @property
    def id(self) -> PeerId:
        """The name of this node."""
        return self._now(lambda node: node.id)

    @property
    def home(self) -> Path:
        """The folder that this node owns."""
        return self._now(lambda node: node.home)

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where others reach this node, each ending in `/p2p/<id>`, best first."""
        return self._now(lambda node: node.addresses)

    def status(self) -> Status:
        """Say who this node is and how it does."""
        return self._now(lambda node: node.status())

    def peers(self) -> list[Peer]:
        """Return the connections, the oldest first."""
        return self._now(lambda node: node.peers())

    def ping(
        self, peer: PeerId | Multiaddr | str, *, count: int = 3, timeout: float | None = None
    ) -> Pong:
        """Measure round trips to a peer; see `AsyncNode.ping`."""
        return self._call(lambda node: node.ping(peer, count=count, timeout=timeout))

    def share(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        hash_function: HashFunction | None = None,
        follow_symlinks: bool = False,
        symlinks: str = "refuse",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origin: str | None = None,
        chunk: str | None = None,
        base: Path | str | None = None,
        encrypt_to: Sequence[PeerId | str] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Share:
        """Share a file or directory in place; see `AsyncNode.share`."""
        options = {} if hash_function is None else {"hash_function": hash_function}
        with shown(progress, f"share {path}") as callback:
            return self._call(
                lambda node: node.share(
                    path,
                    name=name,
                    follow_symlinks=follow_symlinks,
                    symlinks=symlinks,
                    origin=origin,
                    include=include,
                    base=base,
                    exclude=exclude,
                    chunk=chunk,
                    encrypt_to=encrypt_to,
                    progress=callback,
                    timeout=timeout,
                    **options,
                )
            )

    def get(
        self,
        ref: Ticket | CID | str,
        destination: Path | str | None = None,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        origins: Sequence[str] = (),
        use_origin: bool = False,
        base: Path | str | None = None,
        rule: Rule | None = None,
        overwrite: bool = False,
        unseal: bool | None = None,
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object, verified leaf by leaf; see `AsyncNode.get`."""
        with shown(progress, "get") as callback:
            return self._call(
                lambda node: node.get(
                    ref,
                    destination,
                    peers=peers,
                    include=include,
                    base=base,
                    exclude=exclude,
                    origins=origins,
                    use_origin=use_origin,
                    rule=rule,
                    overwrite=overwrite,
                    unseal=unseal,
                    progress=callback,
                    timeout=timeout,
                )
            )

    def cache(
        self,
        ref: Ticket | CID | str,
        *,
        pin: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """Fetch an object for the store to keep; see `AsyncNode.cache`."""
        with shown(progress, "get") as callback:
            return self._call(
                lambda node: node.cache(
                    ref, pin=pin, peers=peers, progress=callback, timeout=timeout
                )
            )

    def pin(self, ref: Ticket | CID | str) -> None:
        """Keep an object when the store needs room; see `AsyncNode.pin`."""
        self._call(lambda node: node.pin(ref))

    def unpin(self, ref: Ticket | CID | str) -> None:
        """Let an object go when the store needs room; see `AsyncNode.unpin`."""
        self._call(lambda node: node.unpin(ref))

    def usage(self) -> StoreUsage:
        """Say what the store uses of the disk."""
        return self._call(lambda node: node.usage())

    def stat(
        self, ref: Ticket | CID | str, *, ask_peers: bool = False, timeout: float | None = None
    ) -> ObjectStat:
        """Say all that is known of an object that is here; see `AsyncNode.stat`."""
        return self._call(lambda node: node.stat(ref, ask_peers=ask_peers, timeout=timeout))

    def collect_garbage(self) -> Collected:
        """Delete what no object needs; see `AsyncNode.collect_garbage`."""
        return self._call(lambda node: node.collect_garbage())

    def open(
        self, ref: Ticket | CID | str, path: str = "", *, peers: Sequence[Multiaddr | str] = ()
    ) -> BlockingObject:
        """Open an object, to read parts of its bytes or tensors; see `AsyncNode.open`.

        It stays open until `close`, the end of its `with` block, or of the node.
        """

        async def opening(node: AsyncNode) -> OpenObject:
            return await node.open(ref, path, peers=peers)

        return BlockingObject(self._call(opening), self._call_plain)

    def read(
        self,
        ref: Ticket | CID | str,
        offset: int,
        length: int,
        *,
        path: str = "",
        out: bytearray | memoryview | None = None,
        peers: Sequence[Multiaddr | str] = (),
        unseal: bool | None = None,
        timeout: float | None = None,
    ) -> bytes | memoryview:
        """Return a part of an object, verified; see `AsyncNode.read`."""
        return self._call(
            lambda node: node.read(
                ref,
                offset,
                length,
                path=path,
                out=out,
                peers=peers,
                unseal=unseal,
                timeout=timeout,
            )
        )

    def read_to(
        self,
        ref: Ticket | CID | str,
        offset: int,
        length: int | None,
        destination: Path | str,
        *,
        path: str = "",
        peers: Sequence[Multiaddr | str] = (),
        overwrite: bool = False,
        unseal: bool | None = None,
        timeout: float | None = None,
    ) -> RangeRead:
        """Write a part of an object into a file; see `AsyncNode.read_to`."""
        return self._call(
            lambda node: node.read_to(
                ref,
                offset,
                length,
                destination,
                path=path,
                peers=peers,
                overwrite=overwrite,
                unseal=unseal,
                timeout=timeout,
            )
        )

    def preview(
        self,
        ref: Ticket | CID | str,
        *,
        peers: Sequence[Multiaddr | str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Preview:
        """Say what `get` would fetch; see `AsyncNode.preview`."""
        return self._call(
            lambda node: node.preview(
                ref, peers=peers, include=include, exclude=exclude, timeout=timeout
            )
        )

    def objects(self) -> list[SharedObject]:
        """Return what this node holds, oldest first."""
        return self._now(lambda node: node.objects())

    def verify(
        self,
        ref: Ticket | CID | str,
        *,
        repair: bool = False,
        peers: Sequence[Multiaddr | str] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Verification:
        """Hash an object on disk again, and mend it if asked to; see `AsyncNode.verify`."""
        with shown(progress, "verify") as callback:
            return self._call(
                lambda node: node.verify(
                    ref, repair=repair, peers=peers, progress=callback, timeout=timeout
                )
            )

    @property
    def dht(self) -> BlockingDht:
        """The methods of `AsyncNode.dht`, blocking."""
        return BlockingDht(self._call)

    def subscribe(self, topic: str) -> AbstractContextManager[Iterator[Message]]:
        """Subscribe to a topic: `with node.subscribe(t) as messages: for message in messages`."""
        return self._iterating(lambda node: node.subscribe(topic))

    def follow(self, name: Name | str) -> AbstractContextManager[Iterator[NameRecord]]:
        """Hear of new versions: `with node.follow(name) as versions: for record in versions`."""
        return self._iterating(lambda node: node.follow(name))

    def broadcast(self, topic: str, data: bytes) -> int:
        """Send a signed message to all who subscribe to `topic`; see `AsyncNode.broadcast`."""
        return self._call(lambda node: node.broadcast(topic, data))

    def join_swarm(self, name: str) -> None:
        """Announce what is shared to a swarm, and hear its announcements."""
        self._call(lambda node: node.join_swarm(name))

    def announcements(self) -> list[Announcement]:
        """Return what peers of the joined swarms announced, newest last."""
        return self._now(lambda node: node.announcements())

    def serve_forever(self) -> None:
        """Serve until Ctrl-C, which ends the call without an error."""
        with contextlib.suppress(KeyboardInterrupt):
            self._call(lambda node: node.serve_forever())
