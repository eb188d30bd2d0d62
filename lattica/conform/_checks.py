"""Black-box checks of a running node: links, streams, identify, ping. One function per clause.

A check passes by returning, and fails with a `Failure` that says what was seen. Hostile ones send
what only an attacker or a broken peer sends; after each of those a new connection has to be served.
The table at the end is the whole plan; the runner (`_run`) knows nothing about any of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.errors import LatticaError
from lattica.transport import ProtocolNotSupported, StreamReset, noise, tls
from lattica.transport.identify import IDENTIFY_PROTOCOL, PUSH_PROTOCOL, decode_identify
from lattica.transport.ping import PAYLOAD_BYTES, PING_PROTOCOL, measure_round_trip

from ._outcome import Failure, Skip
from ._target import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE, RawStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lattica.transport import Stream

    from ._target import Target

_UNKNOWN_PROTOCOL = "/lattica-conform/nobody-speaks-this/1.0.0"
_QUIET_S = 0.5  # no frame for so long: the node grants no more for now
_MAX_CREDIT = 64 << 20  # a node that grants more to a stream nobody reads has no window
_STREAMS = 100


@dataclass(frozen=True, slots=True)
class Check:
    """One clause, and how to see whether a node keeps it.

    Attributes:
        id: stable name.
        clause: document and section.
        run: the check itself.
        speaks: what a protocol that the node announces must end with, for the check to apply.
        hostile: the node has to live on afterwards.
    """

    id: str
    clause: str
    run: Callable[[Target], Awaitable[None]]
    speaks: str | None = None
    hostile: bool = False


async def check_alive(target: Target) -> None:
    """Raise Failure unless the node serves a new connection."""
    try:
        async with target.connection() as connection:
            await measure_round_trip(connection)
    except (LatticaError, trio.BrokenResourceError) as error:
        raise Failure(f"afterwards the node does not answer: {error}") from error


async def expect_reset(stream: Stream) -> None:
    """Read until the node resets the stream. Raises Failure if it ends in another way."""
    try:
        while await stream.receive_some():
            pass
    except StreamReset:
        return
    raise Failure("the node ended the stream as if all were well, expected a reset")


# Negotiation


async def node_is_reached(target: Target) -> None:
    """Somebody listens there."""
    async with target.link():
        pass


async def security_is_agreed(target: Target) -> None:
    """The dialer's header and proposal come in one flight; both are echoed."""
    async with target.link() as link:
        await link.negotiate(noise.PROTOCOL_ID)


async def unknown_security_is_refused(target: Target) -> None:
    """`na` to what is not spoken, and the next proposal is heard."""
    async with target.link() as link:
        await link.negotiate(_UNKNOWN_PROTOCOL, noise.PROTOCOL_ID)


async def long_line_ends_the_link(target: Target) -> None:
    """A line that declares 2 MiB ends the link before it is buffered."""
    async with target.link() as link:
        await link.send(b"\x13/multistream/1.0.0\n" + b"\x80\x80\x80\x01" + b"/" * 4096)
        await link.wait_closed()


async def junk_ends_the_link(target: Target) -> None:
    """What is no negotiation ends the link."""
    async with target.link() as link:
        await link.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" + os.urandom(64))
        await link.wait_closed()


# Security


async def _identity_is_proven(target: Target, security: str) -> None:
    async with target.channel(security) as channel:
        if target.expected is not None and channel.peer != target.expected:
            raise Failure(f"{channel.peer} answers, expected {target.expected}")
        if channel.remote_key.peer_id != channel.peer:
            raise Failure("the key is not the peer's")
        target.expected = channel.peer


async def noise_proves_the_peer(target: Target) -> None:
    """The Noise payload carries the identity key and its signature."""
    await _identity_is_proven(target, noise.PROTOCOL_ID)


async def tls_proves_the_peer(target: Target) -> None:
    """The certificate carries the identity key and its signature."""
    try:
        await _identity_is_proven(target, tls.PROTOCOL_ID)
    except ProtocolNotSupported:
        raise Skip("the node does not offer /tls/1.0.0") from None


async def handshake_garbage_ends_the_link(target: Target) -> None:
    """A first message that is no Noise message ends the link."""
    async with target.link() as link:
        await link.negotiate(noise.PROTOCOL_ID)
        await link.send(b"\x00\x60" + bytes(0x60))
        await link.wait_closed()


async def forged_frame_ends_the_link(target: Target) -> None:
    """A frame that was not sealed with the session's key ends the link."""
    async with target.link() as link:
        early = await link.negotiate(noise.PROTOCOL_ID)
        await noise.secure(
            link.raw, target.identity, initiator=True, expected=target.expected, early=early
        )
        await link.send(b"\x00\x40" + os.urandom(0x40))
        await link.wait_closed()


# Multiplexing


async def muxer_answers_pings(target: Target) -> None:
    """A ping is answered with its value."""
    async with target.muxed() as muxed:
        await muxed.send(PING, SYN, 0, 0xC0FFEE)
        while (frame := await muxed.receive()).type != PING:
            pass
        if (frame.flags, frame.stream, frame.value) != (ACK, 0, 0xC0FFEE):
            raise Failure(f"answered with {frame}")


async def unknown_version_ends_the_session(target: Target) -> None:
    """A frame of version 1 is answered with go-away 1, or the end of the link."""
    async with target.muxed() as muxed:
        await muxed.send(DATA, SYN, 1, version=1)
        await muxed.wait_refused()


async def unknown_type_ends_the_session(target: Target) -> None:
    """A frame of type 9 is answered with go-away 1, or the end of the link."""
    async with target.muxed() as muxed:
        await muxed.send(9, 0, 1)
        await muxed.wait_refused()


async def wrong_side_ends_the_session(target: Target) -> None:
    """A dialer that opens a stream with an even number is refused."""
    async with target.muxed() as muxed:
        await muxed.send(WINDOW_UPDATE, SYN, 2)
        await muxed.wait_refused(2)


async def unopened_stream_ends_the_session(target: Target) -> None:
    """Data for a stream that was never opened means that the sides count differently."""
    async with target.muxed() as muxed:
        await muxed.send_data(0, 7, b"data")
        await muxed.wait_refused()


async def window_is_enforced(target: Target) -> None:
    """What was granted may be sent; one byte more is answered with a go-away or a reset.

    Echoes are asked for and never read, so that the node stops reading in the end.
    """
    async with target.muxed() as muxed:
        stream = RawStream(muxed, 1)
        await stream.negotiate(PING_PROTOCOL)
        sent = 0
        while True:
            while stream.credit > 0:
                size = min(stream.credit, 16 << 10)
                await stream.send(bytes(size))
                sent += size
                if sent > _MAX_CREDIT:
                    raise Failure(f"{sent} bytes were granted to a stream whose echo nobody reads")
            with trio.move_on_after(_QUIET_S):
                while stream.credit <= 0:
                    await stream.pump()
            if stream.credit <= 0:
                break
        await stream.send(b"x")
        with trio.move_on_after(5 * _QUIET_S) as scope:
            await muxed.wait_refused(1)
        if scope.cancelled_caught:
            raise Failure(f"a byte beyond the {sent} granted ones was taken without a word")


async def half_close_leaves_the_other_half(target: Target) -> None:
    """A stream whose one half has ended still carries the answer, and then ends."""
    async with target.muxed() as muxed:
        stream = RawStream(muxed, 1)
        await stream.negotiate(PING_PROTOCOL)
        payload = os.urandom(PAYLOAD_BYTES)
        await stream.send(payload, flags=FIN)
        if await stream.receive(PAYLOAD_BYTES) != payload:
            raise Failure("the echo differs")
        while not stream.ended:
            await stream.pump()


async def reset_ends_one_stream_alone(target: Target) -> None:
    """A reset stream is gone; its neighbour on the connection lives on."""
    async with target.muxed() as muxed:
        doomed, neighbour = RawStream(muxed, 1), RawStream(muxed, 3)
        await doomed.negotiate(PING_PROTOCOL)
        await neighbour.negotiate(PING_PROTOCOL)
        await doomed.send(bytes(7))
        await muxed.send(WINDOW_UPDATE, RST, 1)
        payload = os.urandom(PAYLOAD_BYTES)
        await neighbour.send(payload)
        if await neighbour.receive(PAYLOAD_BYTES) != payload:
            raise Failure("the echo on the other stream differs")


async def goodbye_leaves_open_streams(target: Target) -> None:
    """After our go-away of code 0 a stream that is open goes on to its end."""
    async with target.muxed() as muxed:
        stream = RawStream(muxed, 1)
        await stream.negotiate(PING_PROTOCOL)
        await muxed.send(GO_AWAY, 0, 0, 0)
        payload = os.urandom(PAYLOAD_BYTES)
        await stream.send(payload, flags=FIN)
        if await stream.receive(PAYLOAD_BYTES) != payload:
            raise Failure("the echo differs")


async def many_streams_are_served(target: Target) -> None:
    """A hundred streams of one connection, at once."""
    async with target.muxed() as muxed:
        streams = [RawStream(muxed, 1 + 2 * number) for number in range(_STREAMS)]
        served: set[int] = set()
        for stream in streams:
            await stream.send(b"\x13/multistream/1.0.0\n" + _line(IDENTIFY_PROTOCOL))
        while len(served) < _STREAMS:
            frame = await muxed.receive()
            if frame.flags & RST and frame.stream % 2:
                raise Failure(f"a stream was reset with {len(served)} of {_STREAMS} served")
            if frame.flags & FIN and frame.stream % 2:
                served.add(frame.stream)


# Streams


async def unknown_protocol_is_refused(target: Target) -> None:
    """`na` to what is not spoken; the stream lives on for the next proposal."""
    async with target.muxed() as muxed:
        await RawStream(muxed, 1).negotiate(_UNKNOWN_PROTOCOL, PING_PROTOCOL)


async def first_flight_carries_everything(target: Target) -> None:
    """Opening, negotiation and first bytes in one frame are understood."""
    async with target.muxed() as muxed:
        stream = RawStream(muxed, 1)
        payload = os.urandom(PAYLOAD_BYTES)
        greeting = b"\x13/multistream/1.0.0\n" + _line(PING_PROTOCOL)
        await stream.send(greeting + payload)
        if await stream.receive(len(greeting)) != greeting:
            raise Failure("the negotiation is not echoed")
        if await stream.receive(PAYLOAD_BYTES) != payload:
            raise Failure("the first bytes are not echoed")


async def long_stream_line_is_refused(target: Target) -> None:
    """A line on a stream that declares 2 MiB costs that stream, at least, and no memory."""
    async with target.muxed() as muxed:
        stream = RawStream(muxed, 1)
        await stream.send(b"\x13/multistream/1.0.0\n" + b"\x80\x80\x80\x01" + b"/" * 4096)
        await muxed.wait_refused(1)


# Identify and ping


async def identify_is_answered(target: Target) -> None:
    """Who the node is, where, and what it speaks; the key is the one the link proved."""
    async with target.connection() as connection:
        async with await connection.open_stream(IDENTIFY_PROTOCOL) as stream:
            joined = b""
            while (message := await stream.receive_message(64 << 10)) is not None:
                joined += message
        info = decode_identify(joined, connection.peer)
    target.protocols = info.protocols
    for protocol in (IDENTIFY_PROTOCOL, PING_PROTOCOL):
        if protocol not in info.protocols:
            raise Failure(f"{protocol} is not among the protocols {sorted(info.protocols)}")
    if not info.agent_version or not info.protocol_version:
        raise Failure("the agent version or the protocol version is missing")
    if info.observed is None:
        raise Failure("the address that it sees us at is missing")


async def identify_push_garbage_is_refused(target: Target) -> None:
    """A push that is no identify message costs its stream alone."""
    async with target.connection() as connection:
        async with await connection.open_stream(PUSH_PROTOCOL) as stream:
            await stream.send_message(b"\xff" * 64)
            await stream.send_eof()
            await expect_reset(stream)
        await measure_round_trip(connection)


async def ping_is_echoed(target: Target) -> None:
    """32 bytes come back, again and again, however they are cut."""
    async with target.connection() as connection:
        async with await connection.open_stream(PING_PROTOCOL) as stream:
            for cut in (PAYLOAD_BYTES, 1, 16):
                payload = os.urandom(PAYLOAD_BYTES)
                await stream.send_all(payload[:cut])
                await stream.send_all(payload[cut:])
                if await stream.receive_exactly(PAYLOAD_BYTES) != payload:
                    raise Failure("the echo differs")


async def idle_connection_ends_cleanly(target: Target) -> None:
    """A dialer that leaves without a word, with a stream half open, is no trouble."""
    async with target.muxed() as muxed:
        await RawStream(muxed, 1).send(b"\x13/multistream/1.0.0\n")
        await muxed.send_data(SYN, 3, b"\x13/multi")


def _line(protocol: str) -> bytes:
    return bytes([len(protocol) + 1]) + protocol.encode() + b"\n"


LINK_CHECKS = (
    Check("reached", "links.md §1.1", node_is_reached),
    Check("negotiates", "links.md §2.1", security_is_agreed),
    Check("refuses-security", "links.md §2.1", unknown_security_is_refused),
    Check("long-line", "links.md §2.4", long_line_ends_the_link, hostile=True),
    Check("junk", "links.md §2.4", junk_ends_the_link, hostile=True),
    Check("noise", "links.md §3.2", noise_proves_the_peer),
    Check("noise-garbage", "links.md §3.1", handshake_garbage_ends_the_link, hostile=True),
    Check("noise-forged", "links.md §3.3", forged_frame_ends_the_link, hostile=True),
    Check("tls", "links.md §4.1", tls_proves_the_peer),
    Check("yamux-ping", "links.md §5.5.1", muxer_answers_pings),
    Check("yamux-version", "links.md §5.1.3", unknown_version_ends_the_session, hostile=True),
    Check("yamux-type", "links.md §5.1.3", unknown_type_ends_the_session, hostile=True),
    Check("yamux-parity", "links.md §5.2.2", wrong_side_ends_the_session, hostile=True),
    Check("yamux-unopened", "links.md §5.2.3", unopened_stream_ends_the_session, hostile=True),
    Check("yamux-window", "links.md §5.3.1", window_is_enforced, hostile=True),
    Check("yamux-half-close", "links.md §5.2.4", half_close_leaves_the_other_half),
    Check("yamux-reset", "links.md §5.2.5", reset_ends_one_stream_alone),
    Check("yamux-go-away", "links.md §5.5.3", goodbye_leaves_open_streams),
    Check("streams", "links.md §5.4.2", many_streams_are_served),
    Check("unknown-protocol", "links.md §2.1", unknown_protocol_is_refused),
    Check("first-flight", "links.md §2.2", first_flight_carries_everything),
    Check("long-stream-line", "links.md §2.4", long_stream_line_is_refused, hostile=True),
    Check("identify", "links.md §6.1", identify_is_answered),
    Check("identify-push", "links.md §6.1", identify_push_garbage_is_refused, hostile=True),
    Check("ping", "links.md §6.2", ping_is_echoed),
    Check("vanishing", "links.md §5.5.4", idle_connection_ends_cleanly, hostile=True),
)
