"""Identify: what peers tell each other on a new connection, and again when it changes.

Each side says which protocols it speaks, where it can be reached (also as a record signed by it),
which software it runs, and from which address it sees the other come. The connection has already
proven who is talking, so a message that carries another key is a lie and is refused; all else in it
is a claim, and only remembered. An answer may come in several messages; protobuf joins them.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from lattica import _protobuf
from lattica.errors import CodecError, ProtocolError
from lattica.identity import PublicKey

from ._records import PeerRecord, RecordError, read_addresses
from .multiaddr import AddressCodecError, Multiaddr

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.identity import Identity, PeerId

    from ._stream import Stream
    from .connection import Connection
    from .limits import Limits

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
MAX_MESSAGES = 10  # that one answer may be split into; go-libp2p reads as many
MAX_ADDRESSES = 64  # read from one answer; the rest is ignored
MAX_PROTOCOL = 256  # bytes of a protocol name; longer ones are not remembered
MAX_VERSION = 128  # characters kept of what a peer calls its software
_WHOLE_UP_TO = 2048  # bytes; a larger answer has its signed record in a message of its own


class IdentifyError(ProtocolError):
    """What a peer says of itself cannot be read, or is not about itself."""

    code = "identify"


class IdentifyTooLarge(IdentifyError):
    """A peer says more of itself than is read."""

    code = "identify-too-large"


@dataclass(frozen=True, slots=True)
class IdentifyInfo:
    """What a peer says of itself. Empty fields are such that it left out.

    Attributes:
        protocols: what it speaks.
        addresses: where it says it can be reached, without `/p2p/…`.
        certified: whether it signed those addresses.
        observed: from where it sees us come.
        agent_version: its software.
        protocol_version: the family of protocols that it belongs to.
    """

    protocols: frozenset[str] = frozenset()
    addresses: tuple[Multiaddr, ...] = ()
    certified: bool = False
    observed: Multiaddr | None = None
    agent_version: str = ""
    protocol_version: str = ""


def decode_identify(data: bytes, peer: PeerId, *, max_protocols: int = 256) -> IdentifyInfo:
    """Read what `peer` sent, its messages joined to one. Raises IdentifyError."""
    try:
        message = _protobuf.decode(data)
        key = message.blob(1)
        if key and PublicKey.from_protobuf(key).peer_id != peer:
            raise IdentifyError(f"{peer} presents the key of another peer", peer=peer)
        record = _open_record(message.blob(8), peer)
        if record is not None:
            addresses = record.addresses
        else:
            addresses = tuple(read_addresses(message.blobs(2)[:MAX_ADDRESSES], peer))
        names = [name for name in message.texts(3) if _is_name(name)]
        return IdentifyInfo(
            protocols=frozenset(names[:max_protocols]),
            addresses=addresses,
            certified=record is not None,
            observed=_observed(message.blob(4)),
            agent_version=_version(message.text(6)),
            protocol_version=_version(message.text(5)),
        )
    except CodecError as error:
        raise IdentifyError(f"{peer} sent no identify message: {error}", peer=peer) from None


def encode_identify(
    identity: Identity, info: IdentifyInfo, *, sequence: int, record: bool = True
) -> list[bytes]:
    """Return what to send: one message, or two where one would be too large for older peers.

    Args:
        identity: who speaks, and signs the record.
        info: what to say; its `certified` is not looked at.
        sequence: number of the signed record; the peer's latest holds.
        record: whether to include one.
    """
    fields: list[tuple[int, int | bytes | str | None]] = [
        (5, info.protocol_version),
        (6, info.agent_version),
        (1, identity.public_key.to_protobuf()),
        *((2, bytes(address)) for address in info.addresses),
        (4, bytes(info.observed) if info.observed is not None else None),
        *((3, name) for name in sorted(info.protocols)),
    ]
    plain = _protobuf.encode(fields)
    if not record:
        return [plain]
    signed = PeerRecord(identity.peer_id, sequence, info.addresses).sign(identity)
    extra = _protobuf.encode([(8, signed)])
    if len(plain) + len(extra) <= _WHOLE_UP_TO:
        return [plain + extra]
    return [plain, extra]


class Identifier:
    """Speaks identify for one node: answers, asks, pushes."""

    def __init__(
        self,
        identity: Identity,
        limits: Limits,
        describe: Callable[[], IdentifyInfo],
        sequence: Callable[[], int],
    ) -> None:
        """Speak for `identity`.

        Args:
            identity: who speaks.
            limits: how much is read of a peer.
            describe: returns what to say of ourselves now, without `observed`.
            sequence: returns the next number of a signed record; never a smaller one, not even
                after a restart.
        """
        self._identity, self._limits = identity, limits
        self._describe, self._sequence = describe, sequence
        self._pushed: WeakKeyDictionary[Connection, _Pushed] = WeakKeyDictionary()

    async def answer(self, stream: Stream) -> None:
        """Serve one identify stream. The caller closes it."""
        await self._send(stream)

    async def ask(self, connection: Connection) -> IdentifyInfo:
        """Ask the peer who it is. Raises IdentifyError, Refused, Unreachable."""
        stream = await connection.open_stream(IDENTIFY_PROTOCOL)
        try:
            message = await self._receive(stream)
        except BaseException:
            stream.reset()
            raise
        await stream.aclose()
        return self._read(message, connection)

    async def push(self, connection: Connection) -> None:
        """Tell the peer what changed. Raises Refused, Unreachable."""
        stream = await connection.open_stream(PUSH_PROTOCOL)
        try:
            await self._send(stream)
            await stream.send_eof()
            # Reading to the end says whether the peer took it: a refusal shows only here.
            await stream.receive_some(1)
        except BaseException:
            stream.reset()
            raise
        await stream.aclose()

    async def receive_push(self, stream: Stream) -> IdentifyInfo | None:
        """Serve one push stream: return what the peer says now.

        Reading one costs us far more than sending it costs the peer, and each is an event. So it
        waits until `identify_push_interval_s` after the last one; None when a later one came in
        the meantime, which then is what the first that waited returns. Raises IdentifyError.
        """
        message = await self._receive(stream)
        pushed = self._pushed.setdefault(stream.connection, _Pushed())
        waits, pushed.latest = pushed.latest is not None, message
        if waits:
            return None
        try:
            await trio.sleep_until(pushed.read_at + self._limits.identify_push_interval_s)
        finally:
            message, pushed.latest = pushed.latest, None
        pushed.read_at = trio.current_time()
        return self._read(message, stream.connection)

    async def _send(self, stream: Stream) -> None:
        remote = stream.connection.remote_address
        ours = self._describe()
        useful = tuple(address for address in ours.addresses if travels(address, remote))
        info = replace(ours, addresses=useful, observed=remote)
        for message in encode_identify(self._identity, info, sequence=self._sequence()):
            await stream.send_message(message)

    async def _receive(self, stream: Stream) -> bytes:
        joined = b""
        for _ in range(MAX_MESSAGES + 1):
            message = await stream.receive_message(self._limits.identify_bytes)
            if message is None:
                break
            joined += message
            if len(joined) > self._limits.identify_bytes:
                raise IdentifyTooLarge(
                    f"{len(joined)} bytes of identify, limit {self._limits.identify_bytes}",
                    peer=stream.peer,
                )
        else:
            raise IdentifyTooLarge(f"more than {MAX_MESSAGES} identify messages", peer=stream.peer)
        return joined

    def _read(self, message: bytes, connection: Connection) -> IdentifyInfo:
        info = decode_identify(
            message, connection.peer, max_protocols=self._limits.identify_protocols
        )
        return heard_from(info, connection.remote_address)


@dataclass(slots=True)
class _Pushed:
    """What came of one connection's pushes."""

    read_at: float = -math.inf
    latest: bytes | None = None  # waits to be read


def heard_from(info: IdentifyInfo, remote: Multiaddr) -> IdentifyInfo:
    """Return `info` without addresses that mean nothing to us, who reach the peer at `remote`."""
    useful = tuple(address for address in info.addresses if travels(address, remote))
    return replace(info, addresses=useful)


def travels(address: Multiaddr, remote: Multiaddr) -> bool:
    """Say whether `address` means the same to both ends of a link to `remote`.

    A loopback address does only where the link itself does not leave the machine.
    """
    return not address.is_loopback or remote.is_loopback or remote.parts[0][0] in _LOCAL


def _open_record(data: bytes | None, peer: PeerId) -> PeerRecord | None:
    # A record that does not verify is no record; the peer itself is still who it proved to be.
    if data is None:
        return None
    try:
        record = PeerRecord.open(data)
    except RecordError:
        return None
    return record if record.peer == peer else None


def _observed(data: bytes | None) -> Multiaddr | None:
    if not data:
        return None
    try:
        return Multiaddr.from_bytes(data)
    except AddressCodecError:
        return None


def _is_name(text: str) -> bool:
    # It is shown to people: a terminal must not be steered by it.
    return 0 < len(text.encode()) <= MAX_PROTOCOL and text.isprintable()


def _version(text: str | None) -> str:
    # As above.
    return "".join(character for character in text or "" if character.isprintable())[:MAX_VERSION]


_LOCAL = frozenset({"memory", "unix"})
