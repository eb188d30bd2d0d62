"""Black-box checks of what runs on streams: content exchange, DHT, gossip. See `_checks`."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.cid import CID
from lattica.content import _messages as exchange
from lattica.dht import _messages as dht
from lattica.identity import Identity
from lattica.pubsub import MAX_RPC, PROTOCOLS, Rpc, encode_rpc
from lattica.transport import StreamReset

from ._checks import Check, expect_reset
from ._outcome import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.transport import Stream

    from ._target import Target

_KAD_SUFFIX = "/kad/1.0.0"
_MAX_CLOSER = 20  # k
_QUIET_S = 0.5  # nothing for so long: the node is content


@asynccontextmanager
async def _stream(target: Target, protocol: str) -> AsyncIterator[Stream]:
    async with target.connection() as connection:
        async with await connection.open_stream(protocol) as stream:
            yield stream


def _spoken(target: Target, ending: str) -> str:
    return next(one for one in sorted(target.protocols) if one.endswith(ending))


# Content exchange


async def _ask(stream: Stream, *requests: exchange.Request) -> list[exchange.AnswerHead]:
    """Send requests; return the heads of all answers up to the last END."""

    def place(head: exchange.AnswerHead) -> memoryview:
        if head.length > exchange.MAX_CONTROL:
            raise Failure(f"{head.length} bytes for content that nobody has")
        return memoryview(bytearray(head.length))

    for request in requests:
        await stream.send_message(exchange.encode_request(request))
    decoder = exchange.AnswerDecoder(place)
    heads: list[exchange.AnswerHead] = []
    while sum(head.kind == exchange.AnswerKind.END for head in heads) < len(requests):
        data = await stream.receive_some()
        if not data:
            raise Failure("the node ended the stream before it had answered")
        heads += [answer.head for answer in decoder.receive(data)]
    return heads


def _nobodys() -> CID:
    return CID.of(os.urandom(32))


async def absent_content_is_said_to_be(target: Target) -> None:
    """Unknown leaves, blocks and roots are ABSENT: each by a LEAF, or all that is left by END."""
    root = _nobodys()
    requests = (
        exchange.LeavesRequest(1, root, 0, 1),
        exchange.BlocksRequest(2, (root.multihash,)),
        exchange.HaveRequest(3, root),
    )
    async with _stream(target, exchange.PROTOCOL) as stream:
        for request in requests:
            heads = await _ask(stream, request)
            if any(head.request != request.id for head in heads):
                raise Failure(f"request {request.id} is answered under another number")
            if heads[0].status != exchange.Status.ABSENT:
                raise Failure(f"{request.kind.name} of nothing has status {heads[0].status}")


async def requests_are_answered_in_order(target: Target) -> None:
    """Answers come in the order of the requests, none is forgotten."""
    requests = [exchange.HaveRequest(number, _nobodys()) for number in (5, 1, 4, 2, 3)]
    async with _stream(target, exchange.PROTOCOL) as stream:
        heads = await _ask(stream, *requests)
    ends = [head.request for head in heads if head.kind == exchange.AnswerKind.END]
    if ends != [request.id for request in requests]:
        raise Failure(f"requests 5, 1, 4, 2, 3 were answered in the order {ends}")


async def unknown_requests_are_answered(target: Target) -> None:
    """A request of a later version is answered UNKNOWN, and the stream goes on."""
    async with _stream(target, exchange.PROTOCOL) as stream:
        (head,) = await _ask(stream, exchange.UnknownRequest(1, 99))
        if head.status != exchange.Status.UNKNOWN:
            raise Failure(f"a request of kind 99 has status {head.status}")
        await _ask(stream, exchange.HaveRequest(2, _nobodys()))


async def garbage_requests_end_the_stream(target: Target) -> None:
    """What is no request ends the stream with a reset: nothing hangs."""
    for garbage in (b"\xc1", b"\x93\x01\x01", os.urandom(200)):
        async with _stream(target, exchange.PROTOCOL) as stream:
            await stream.send_message(garbage)
            await expect_reset(stream)


async def long_requests_end_the_stream(target: Target) -> None:
    """A request that declares more than 65 536 bytes is refused before it is read."""
    async with _stream(target, exchange.PROTOCOL) as stream:
        await stream.send_all(b"\x81\x80\x04" + bytes(100))
        await expect_reset(stream)


# DHT


async def closest_peers_are_told(target: Target) -> None:
    """FIND_NODE is answered with its own type and key, at most 20 peers, and not with the asker."""
    key = Identity.generate().peer_id.raw
    async with _stream(target, _spoken(target, _KAD_SUFFIX)) as stream:
        for _ in range(2):  # a stream carries any number of requests
            await stream.send_message(dht.encode(dht.Message(dht.MessageType.FIND_NODE, key=key)))
            answer = await stream.receive_message(dht.MAX_MESSAGE)
            if answer is None:
                raise Failure("the node ended the stream before it had answered")
            message = dht.decode(answer)
            if (message.type, message.key) != (dht.MessageType.FIND_NODE, key):
                raise Failure(f"FIND_NODE is answered with {message.type.name}, or another key")
            if len(message.closer) > _MAX_CLOSER:
                raise Failure(f"FIND_NODE is answered with {len(message.closer)} peers")
            if any(peer.info.peer == target.identity.peer_id for peer in message.closer):
                raise Failure("FIND_NODE is answered with the peer who asks")


async def garbage_dht_messages_end_the_stream(target: Target) -> None:
    """What is no Kademlia message ends the stream with a reset."""
    async with _stream(target, _spoken(target, _KAD_SUFFIX)) as stream:
        await stream.send_message(b"\xff" * 32)
        await expect_reset(stream)


async def long_dht_messages_end_the_stream(target: Target) -> None:
    """A message that declares 16 MiB is refused before it is read."""
    async with _stream(target, _spoken(target, _KAD_SUFFIX)) as stream:
        await stream.send_all(b"\x80\x80\x80\x08" + bytes(100))
        await expect_reset(stream)


async def unsigned_values_are_refused(target: Target) -> None:
    """PUT_VALUE of what nobody signed is answered without a record, or with a reset."""
    key = b"/lattica/conform/" + os.urandom(8).hex().encode()
    record = dht.Record(key, b"nobody signed this")
    async with _stream(target, _spoken(target, _KAD_SUFFIX)) as stream:
        put = dht.Message(dht.MessageType.PUT_VALUE, key, record)
        await stream.send_message(dht.encode(put))
        try:
            answer = await stream.receive_message(dht.MAX_MESSAGE)
        except StreamReset:
            return
        if answer is not None and dht.decode(answer).record is not None:
            raise Failure("the node says that it keeps a value that nobody signed")


# Gossip


async def gossip_streams_stay_open(target: Target) -> None:
    """The node neither writes on our stream nor ends its half of it."""
    async with _stream(target, _gossip_protocol(target)) as stream:
        await stream.send_message(encode_rpc(Rpc(subscriptions=(("lattica-conform", True),))))
        with trio.move_on_after(_QUIET_S):
            try:
                said = await stream.receive_some()
            except StreamReset:
                raise Failure("the node reset the stream on which we speak") from None
            raise Failure(f"the node {'writes on' if said else 'ends'} the stream of its peer")


async def garbage_rpcs_end_the_stream(target: Target) -> None:
    """What is no RPC ends the stream with a reset."""
    async with _stream(target, _gossip_protocol(target)) as stream:
        await stream.send_message(b"\xff" * 32)
        await expect_reset(stream)


async def long_rpcs_end_the_stream(target: Target) -> None:
    """An RPC that declares a byte more than 1 MiB is refused before it is read."""
    async with _stream(target, _gossip_protocol(target)) as stream:
        declared = MAX_RPC + 1
        head = bytes([declared & 0x7F | 0x80, declared >> 7 & 0x7F | 0x80, declared >> 14])
        await stream.send_all(head + bytes(100))
        await expect_reset(stream)


def _gossip_protocol(target: Target) -> str:
    return next(one for one in PROTOCOLS if one in target.protocols)


SERVICE_CHECKS = (
    Check("content-absent", "exchange.md §3.2", absent_content_is_said_to_be, exchange.PROTOCOL),
    Check("content-order", "exchange.md §1.2", requests_are_answered_in_order, exchange.PROTOCOL),
    Check("content-unknown", "exchange.md §2.6", unknown_requests_are_answered, exchange.PROTOCOL),
    Check(
        "content-garbage",
        "exchange.md §2.6",
        garbage_requests_end_the_stream,
        exchange.PROTOCOL,
        hostile=True,
    ),
    Check(
        "content-long",
        "exchange.md §2.1",
        long_requests_end_the_stream,
        exchange.PROTOCOL,
        hostile=True,
    ),
    Check("dht-find-node", "dht.md §4.2", closest_peers_are_told, _KAD_SUFFIX),
    Check(
        "dht-garbage",
        "dht.md §4.5",
        garbage_dht_messages_end_the_stream,
        _KAD_SUFFIX,
        hostile=True,
    ),
    Check("dht-unsigned", "dht.md §7.7", unsigned_values_are_refused, _KAD_SUFFIX, hostile=True),
    Check("dht-long", "dht.md §4.5", long_dht_messages_end_the_stream, _KAD_SUFFIX, hostile=True),
    Check("gossip-open", "gossip.md §1.2", gossip_streams_stay_open, "/meshsub/1.1.0"),
    Check(
        "gossip-garbage",
        "gossip.md §1.3",
        garbage_rpcs_end_the_stream,
        "/meshsub/1.1.0",
        hostile=True,
    ),
    Check(
        "gossip-long", "gossip.md §1.3", long_rpcs_end_the_stream, "/meshsub/1.1.0", hostile=True
    ),
)
