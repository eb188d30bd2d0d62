"""What `noise` and `tls` promise alike, over links that are as awkward as links may be."""

from __future__ import annotations

import contextlib
import tracemalloc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import wait_all_tasks_blocked

from lattica.errors import LatticaError, ProtocolError
from lattica.identity import Identity
from lattica.transport import noise, tls
from lattica.transport._channel import HandshakeLost, KeyExhausted, PeerIdMismatch
from lattica.transport.memory import MemoryNetwork
from lattica.transport.multiaddr import Multiaddr
from lattica.transport.tcp import TcpTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from lattica.transport._links import RawLink, SecureChannel, Transport

ALICE, BOB, EVE = (Identity(bytes([seed]) * 32) for seed in (1, 2, 3))
YAMUX = ("/yamux/1.0.0",)
either = pytest.mark.parametrize("security", [noise, tls], ids=["noise", "tls"])


@dataclass(eq=False)
class Pipe:
    """One direction: bytes on their way, at most `capacity` of them."""

    capacity: int
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    unheard: bool = False
    changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)


class FakeLink:
    """A raw link that moves at most `step` bytes a call and tells `watch` of each await."""

    local_address = remote_address = Multiaddr.parse("/memory/1")

    def __init__(self, incoming: Pipe, outgoing: Pipe, step: int) -> None:
        self.incoming, self.outgoing, self.step = incoming, outgoing, step
        self.closed = self.broken = False
        self.watch: Callable[[], None] = lambda: None

    async def receive_into(self, buffer: memoryview) -> int:
        self.watch()
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self.incoming.data:
                size = min(self.step, len(buffer), len(self.incoming.data))
                buffer[:size] = self.incoming.data[:size]
                del self.incoming.data[:size]
                self.incoming.changed.unpark_all()
                return size
            if self.incoming.ended:
                return 0
            await self.incoming.changed.park()

    async def send_some(self, data: memoryview) -> int:
        assert data
        self.watch()
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self.outgoing.unheard:
                raise trio.BrokenResourceError
            room = min(self.step, self.outgoing.capacity - len(self.outgoing.data))
            if room > 0:
                sent = data[:room]
                self.outgoing.data += sent
                self.outgoing.changed.unpark_all()
                return len(sent)
            await self.outgoing.changed.park()

    def send_now(self, data: memoryview) -> int:
        self._check()
        if self.outgoing.unheard:
            raise trio.BrokenResourceError
        sent = data[: min(self.step, self.outgoing.capacity - len(self.outgoing.data))]
        self.outgoing.data += sent
        self.outgoing.changed.unpark_all()
        return len(sent)

    def close(self) -> None:
        self.closed = self.outgoing.ended = self.incoming.unheard = True
        self.incoming.changed.unpark_all()
        self.outgoing.changed.unpark_all()

    def lose(self) -> None:
        self.broken = True
        self.incoming.changed.unpark_all()

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        if self.broken:
            raise trio.BrokenResourceError


def link_pair(*, step: int = 1 << 20, capacity: int = 1 << 20) -> tuple[FakeLink, FakeLink]:
    there, back = Pipe(capacity), Pipe(capacity)
    return FakeLink(back, there, step), FakeLink(there, back, step)


@dataclass
class Secured:
    """Two ends of one secured link: Alice dialled Bob."""

    dialer: SecureChannel
    listener: SecureChannel
    links: tuple[FakeLink, FakeLink]


async def secured(
    security: ModuleType,
    *,
    step: int = 1 << 20,
    capacity: int = 1 << 20,
    dialled: Sequence[str] = (),
    listened: Sequence[str] = (),
) -> Secured:
    links = link_pair(step=step, capacity=capacity)
    ends: dict[bool, SecureChannel] = {}

    async def secure(link: FakeLink, identity: Identity, initiator: bool) -> None:
        expected = BOB.peer_id if initiator else None
        muxers = dialled if initiator else listened
        ends[initiator] = await security.secure(
            link, identity, initiator=initiator, expected=expected, muxers=muxers
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure, links[0], ALICE, True)
        nursery.start_soon(secure, links[1], BOB, False)
    return Secured(ends[True], ends[False], links)


async def read(channel: SecureChannel, size: int) -> bytes:
    data = b""
    with trio.fail_after(5):  # red, not stuck
        while len(data) < size and (pieces := await channel.receive()):
            data += b"".join(pieces)
    return data


@either
async def test_each_end_knows_who_the_other_is(security: ModuleType) -> None:
    pair = await secured(security)
    assert pair.dialer.peer == BOB.peer_id
    assert pair.dialer.remote_key == BOB.public_key
    assert pair.listener.peer == ALICE.peer_id
    assert pair.dialer.protocol == pair.listener.protocol == security.PROTOCOL_ID
    assert not pair.dialer.unsent


@either
@settings(max_examples=25, deadline=None)
@given(
    sends=st.lists(
        st.lists(st.sampled_from([0, 1, 12, 4097, 65_519, 65_536, 200_000]), max_size=4),
        max_size=4,
    ),
    step=st.sampled_from([777, 16_384, 1 << 20]),
    capacity=st.sampled_from([1000, 1 << 20]),
)
def test_any_buffers_arrive_whole_and_in_order_both_ways(
    security: ModuleType, sends: list[list[int]], step: int, capacity: int
) -> None:
    sent = [[bytes([len(sizes)]) * size for size in sizes] for sizes in sends]
    expected = b"".join(b"".join(buffers) for buffers in sent)

    async def write(channel: SecureChannel) -> None:
        for buffers in sent:
            await channel.send(buffers)

    async def check(channel: SecureChannel) -> None:
        assert await read(channel, len(expected)) == expected

    async def main() -> None:
        pair = await secured(security, step=step, capacity=capacity)
        async with trio.open_nursery() as nursery:
            for channel in (pair.dialer, pair.listener):
                nursery.start_soon(write, channel)
                nursery.start_soon(check, channel)

    trio.run(main)


@either
@pytest.mark.parametrize(
    ("dialled", "listened", "agreed"),
    [(YAMUX, YAMUX, YAMUX[0]), (YAMUX, (), None), ((), YAMUX, None), ((), (), None)],
)
async def test_a_muxer_that_both_offer_needs_no_negotiation(
    security: ModuleType, dialled: Sequence[str], listened: Sequence[str], agreed: str | None
) -> None:
    pair = await secured(security, dialled=dialled, listened=listened)
    assert pair.dialer.muxer == pair.listener.muxer == agreed


@either
async def test_bytes_that_were_read_early_belong_to_the_handshake(security: ModuleType) -> None:
    ours, theirs = link_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: security.secure(ours, ALICE, initiator=True))
        await wait_all_tasks_blocked()
        early, theirs.incoming.data = bytes(theirs.incoming.data), bytearray()
        channel = await security.secure(theirs, BOB, initiator=False, early=early)
    assert channel.peer == ALICE.peer_id


@either
@pytest.mark.parametrize("initiator", [True, False], ids=["dialer", "listener"])
async def test_somebody_else_is_refused_before_any_byte_of_ours(
    security: ModuleType, initiator: bool
) -> None:
    wary, other = link_pair()

    async def answer() -> None:
        # TLS may tell the dialler only after it has finished: then its first read says so.
        with pytest.raises(LatticaError):
            channel = await security.secure(other, BOB, initiator=not initiator)
            assert await channel.receive() == []
            raise HandshakeLost("it noticed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(PeerIdMismatch) as caught:
            await security.secure(wary, ALICE, initiator=initiator, expected=EVE.peer_id)
    assert caught.value.peer == EVE.peer_id
    assert caught.value.found == BOB.peer_id
    assert wary.closed


@either
async def test_a_peer_that_hangs_up_in_the_handshake_is_unreachable(security: ModuleType) -> None:
    ours, theirs = link_pair()
    theirs.close()
    with pytest.raises(HandshakeLost):
        await security.secure(ours, ALICE, initiator=True)
    assert ours.closed


@either
async def test_a_peer_that_speaks_something_else_is_told_apart(security: ModuleType) -> None:
    ours, theirs = link_pair()
    await theirs.send_some(memoryview(b"\x00\x03HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(ProtocolError):
        await security.secure(ours, ALICE, initiator=True)
    assert ours.closed


@either
@pytest.mark.parametrize("initiator", [True, False], ids=["dialer", "listener"])
async def test_a_handshake_cancelled_at_any_await_closes_the_link(
    security: ModuleType, initiator: bool
) -> None:
    for awaits in range(20):
        mine, other = link_pair()
        with trio.CancelScope() as scope:
            mine.watch = countdown(awaits, scope)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_secure_or_lose, security, other, not initiator)
                await security.secure(mine, ALICE, initiator=initiator)
        if not scope.cancelled_caught:
            assert awaits > 2
            return
        assert mine.closed
    raise AssertionError("the handshake never ended")


async def _secure_or_lose(security: ModuleType, link: FakeLink, initiator: bool) -> None:
    with contextlib.suppress(HandshakeLost):
        await security.secure(link, BOB, initiator=initiator)


def countdown(awaits: int, scope: trio.CancelScope) -> Callable[[], None]:
    """Cancel `scope` when as many awaits have gone by."""
    left = [awaits]

    def watch() -> None:
        if left[0] == 0:
            scope.cancel()
        left[0] -= 1

    return watch


@either
async def test_a_send_cancelled_at_any_await_loses_nothing_and_cuts_nothing(
    security: ModuleType,
) -> None:
    first = [b"header", b"1" * 700_000, b"small", b"2" * 65_536]
    second = [b"the next call"]
    expected = b"".join(first) + b"".join(second)
    for awaits in range(200):
        pair = await secured(security, step=70_000, capacity=100_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect, pair.listener, expected)
            with trio.CancelScope() as scope:
                pair.links[0].watch = countdown(awaits, scope)
                await pair.dialer.send(first)
            pair.links[0].watch = lambda: None
            assert pair.dialer.unsent == scope.cancelled_caught
            await pair.dialer.send(second)
            assert not pair.dialer.unsent
        if not scope.cancelled_caught:
            assert awaits > 8
            return
    raise AssertionError("the send never ended")


@either
async def test_a_flush_sends_what_was_left_and_can_be_cancelled_too(security: ModuleType) -> None:
    data = b"x" * 300_000
    pair = await secured(security, step=50_000, capacity=60_000)
    await _send_cancelled(pair.dialer, [data])
    assert pair.dialer.unsent
    with trio.CancelScope() as scope:
        pair.links[0].watch = countdown(2, scope)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.listener.receive)
            await pair.dialer.flush()
    assert scope.cancelled_caught
    pair.links[0].watch = lambda: None
    assert pair.dialer.unsent

    pair = await secured(security, step=50_000, capacity=60_000)
    await _send_cancelled(pair.dialer, [data])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect, pair.listener, data)
        await pair.dialer.flush()
    assert not pair.dialer.unsent
    await pair.dialer.flush()


async def _send_cancelled(channel: SecureChannel, buffers: Sequence[bytes]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.send(buffers)
    assert scope.cancelled_caught


async def _expect(channel: SecureChannel, expected: bytes) -> None:
    assert await read(channel, len(expected)) == expected


@either
async def test_several_cancelled_sends_are_kept_in_order(security: ModuleType) -> None:
    pair = await secured(security)
    for word in (b"one ", b"two ", b"three "):
        await _send_cancelled(pair.dialer, [word])
    await pair.dialer.send([b"four"])
    assert await read(pair.listener, 18) == b"one two three four"


@either
async def test_a_cancelled_receive_loses_nothing(security: ModuleType) -> None:
    pair = await secured(security)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pair.listener.receive()
    await pair.dialer.send([b"late"])
    with trio.CancelScope() as scope:
        scope.cancel()
        await pair.listener.receive()
    assert scope.cancelled_caught
    assert await read(pair.listener, 4) == b"late"


@either
async def test_the_caller_may_reuse_its_memory_after_a_send(security: ModuleType) -> None:
    pair = await secured(security)
    memory = bytearray(b"a" * 100_000)
    await _send_cancelled(pair.dialer, [cast("bytes", memoryview(memory))])
    memory[:] = b"b" * len(memory)
    await pair.dialer.flush()
    assert await read(pair.listener, 100_000) == b"a" * 100_000


@either
async def test_two_sends_at_once_are_refused_rather_than_mixed(security: ModuleType) -> None:
    pair = await secured(security, capacity=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.dialer.send, [bytes(10_000)])
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError), trio.fail_after(5):
            await pair.dialer.send([b"me too"])
        with pytest.raises(trio.BusyResourceError):
            await pair.dialer.flush()
        nursery.start_soon(_expect, pair.listener, bytes(10_000))


@either
async def test_the_end_of_the_link_is_told_again_and_again(security: ModuleType) -> None:
    pair = await secured(security)
    await pair.dialer.send([b"bye"])
    pair.dialer.close()
    assert await read(pair.listener, 100) == b"bye"
    assert await pair.listener.receive() == []
    with pytest.raises(trio.BrokenResourceError):
        await pair.listener.send([b"anybody?"])


async def test_an_end_inside_a_noise_frame_is_an_error() -> None:
    pair = await secured(noise)
    await pair.dialer.send([b"whole"])
    assert await pair.listener.receive() == [b"whole"]
    await pair.dialer.send([b"cut"])
    pair.links[1].incoming.data.pop()
    pair.dialer.close()
    with pytest.raises(ProtocolError, match="ended inside a frame"):
        await pair.listener.receive()


@either
async def test_one_changed_bit_kills_the_link_for_good(security: ModuleType) -> None:
    pair = await secured(security)
    await pair.dialer.send([b"y" * 1000])
    pair.links[1].incoming.data[500] ^= 1
    with pytest.raises(ProtocolError) as first:
        await pair.listener.receive()
    assert pair.links[1].closed
    for call in (pair.listener.receive(), pair.listener.send([b"x"]), pair.listener.flush()):
        with pytest.raises(ProtocolError) as again:
            await call
        assert again.value is first.value


@either
async def test_a_used_up_key_ends_the_link(security: ModuleType) -> None:
    pair = await secured(security)
    sealer = pair.dialer._sealer  # type: ignore[attr-defined]  # years of traffic in one line
    sealer._counter = sealer._records = 2**64 - 1
    if security is noise:
        sealer._keys.last = 2**64 - 1
    with pytest.raises(KeyExhausted):
        await pair.dialer.send([b"one more"])
    assert pair.links[0].closed


@either
async def test_a_closed_channel_wakes_whoever_waits(security: ModuleType) -> None:
    pair = await secured(security, capacity=100)

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pair.dialer.receive()

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pair.dialer.send([bytes(1000)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        pair.dialer.close()
        pair.dialer.close()


@either
async def test_a_lost_link_is_not_a_clean_end(security: ModuleType) -> None:
    pair = await secured(security)
    pair.links[0].lose()
    with pytest.raises(trio.BrokenResourceError):
        await pair.dialer.receive()
    with pytest.raises(trio.BrokenResourceError):
        await pair.dialer.send([b"x"])


@either
async def test_links_share_the_receive_buffer_without_mixing(security: ModuleType) -> None:
    pairs = [await secured(security, step=3000) for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for index, pair in enumerate(pairs):
            nursery.start_soon(_expect, pair.listener, bytes([index]) * 50_000)
            nursery.start_soon(pair.dialer.send, [bytes([index]) * 50_000])


async def test_an_idle_noise_link_costs_little_even_after_it_was_busy() -> None:
    pairs = [await secured(noise) for _ in range(2)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pairs += [await secured(noise) for _ in range(40)]
        for pair in pairs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect, pair.listener, bytes(1_000_000))
                nursery.start_soon(pair.dialer.send, [bytes(1_000_000)])
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    shared = 3 << 20  # the buffers that all links share
    assert (grown - shared) / 80 < 20_000, "bytes a link end"


@either
@pytest.mark.parametrize("kind", ["tcp", "memory"])
async def test_many_links_of_our_transports_carry_data_both_ways_at_once(
    security: ModuleType, kind: str
) -> None:
    transport: Transport = TcpTransport() if kind == "tcp" else MemoryNetwork().transport()
    where = "/ip4/127.0.0.1/tcp/0" if kind == "tcp" else "/memory/1"
    listener = await transport.listen(Multiaddr.parse(where))
    data = bytes(range(256)) * 4000

    async def talk(link: RawLink, identity: Identity, initiator: bool) -> None:
        channel = await security.secure(link, identity, initiator=initiator)
        async with trio.open_nursery() as talking:
            talking.start_soon(channel.send, [data])
            await _expect(channel, data)
        channel.close()

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(talk, await transport.dial(listener.addresses[0]), ALICE, True)
            nursery.start_soon(talk, await listener.accept(), BOB, False)
    listener.close()
