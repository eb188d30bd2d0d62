"""Private swarms: who can prove to be a member, and what everybody else sees."""

from __future__ import annotations

import itertools
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, strategies as st

from lattica.private_swarm import MAX_KEYS, KeyRing, SwarmKey
from lattica.testing import sample_identity
from lattica.transport import (
    DialError,
    Limits,
    MemoryNetwork,
    Multiaddr,
    SwarmKeyMismatch,
    TcpTransport,
    open_mesh,
)
from lattica.transport._channel import HandshakeLost, NoCommonMuxer
from lattica.transport._membership import (
    HELLO_BYTES,
    PROTOCOL_ID,
    WELCOME_BYTES,
    ChannelBinding,
    MemberProof,
    MembershipError,
)
from lattica.transport._upgrade import MUXER, upgrade
from lattica.transport.noise import secure as noise
from lattica.transport.tls import secure as tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lattica.transport import Mesh, Transport
    from lattica.transport._links import RawLink

ALICE, BOB, EVE = (sample_identity(number) for number in range(3))
BINDING = ChannelBinding("/noise", bytes(range(32)), ALICE.peer_id, BOB.peer_id)
KEYS = [SwarmKey(bytes([number]) * 32) for number in range(1, 10)]


def sides(
    dialer: Sequence[SwarmKey],
    listener: Sequence[SwarmKey],
    bindings: tuple[ChannelBinding, ChannelBinding] = (BINDING, BINDING),
) -> tuple[MemberProof, MemberProof]:
    return (
        MemberProof(dialer, bindings[0], initiator=True),
        MemberProof(listener, bindings[1], initiator=False),
    )


# --- the proof


@given(st.permutations(KEYS), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_two_are_let_in_exactly_if_they_share_a_key(
    keys: list[SwarmKey], shared: int, ours: int, theirs: int
) -> None:
    common, rest = keys[:shared], keys[shared:]
    near, far = sides(
        [*common, *rest[:ours]][:MAX_KEYS], [*common, *rest[ours : ours + theirs]][:MAX_KEYS]
    )
    welcome = far.receive(near.start())
    if not shared:
        assert far.refused
        with pytest.raises(SwarmKeyMismatch):
            near.receive(welcome)
        return
    near.receive(welcome)
    assert near.key == far.key == common[0]


@given(st.lists(st.integers(0, HELLO_BYTES)), st.lists(st.integers(0, WELCOME_BYTES + 9)))
def test_the_proof_survives_any_split(cuts: list[int], back: list[int]) -> None:
    near, far = sides(KEYS[:2], KEYS[1:3])
    welcome = _feed(far, near.start(), cuts)
    _feed(near, welcome + b"the muxer", back)
    assert near.key == far.key == KEYS[1]
    assert near.leftover == b"the muxer"


def _feed(side: MemberProof, data: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cuts), len(data)]
    rest = b""
    out = b""
    for start, end in itertools.pairwise(edges):
        if side.key is not None:
            rest += data[start:end]
        else:
            out += side.receive(data[start:end])
    side.leftover += rest
    return out


def test_how_many_keys_somebody_has_cannot_be_seen() -> None:
    for count in range(MAX_KEYS + 2):
        near, far = sides(KEYS[:count], ())
        assert len(near.start()) == HELLO_BYTES
        assert len(far.receive(bytes(HELLO_BYTES))) == WELCOME_BYTES


def test_a_hello_without_a_key_looks_like_any_other_and_is_never_the_same() -> None:
    first, second = (MemberProof((), BINDING, initiator=True).start() for _ in range(2))
    assert first != second


def test_a_proof_is_good_for_one_channel_only() -> None:
    hello = MemberProof(KEYS[:1], BINDING, initiator=True).start()
    for other in (
        ChannelBinding("/noise", bytes(32), ALICE.peer_id, BOB.peer_id),
        ChannelBinding("/tls/1.0.0", BINDING.unique, ALICE.peer_id, BOB.peer_id),
        ChannelBinding("/noise", BINDING.unique, EVE.peer_id, BOB.peer_id),
        ChannelBinding("/noise", BINDING.unique, ALICE.peer_id, EVE.peer_id),
    ):
        far = MemberProof(KEYS[:1], other, initiator=False)
        far.receive(hello)
        assert far.refused


def test_a_proof_cannot_be_sent_back_as_the_answer() -> None:
    near, _ = sides(KEYS[:1], ())
    hello = near.start()
    for start in range(0, HELLO_BYTES, 32):
        fresh = MemberProof(KEYS[:1], BINDING, initiator=True)
        with pytest.raises(SwarmKeyMismatch, match="cannot prove"):
            fresh.receive(b"\0" + hello[start : start + 32])


def test_an_ended_key_proves_nothing() -> None:
    ring = KeyRing.generate().rotated(overlap=10, now=1000)
    near, far = sides(ring.live(1005), ring.keys[1:])
    near.receive(far.receive(near.start()))
    assert near.key == ring.keys[1]
    near, far = sides(ring.live(1011), ring.keys[1:])
    far.receive(near.start())
    assert far.refused


def test_who_goes_on_before_being_let_in_is_cut_off() -> None:
    near, far = sides(KEYS[:1], KEYS[:1])
    with pytest.raises(MembershipError):
        far.receive(near.start() + b"x")


def test_an_answer_of_no_known_kind_is_refused() -> None:
    with pytest.raises(MembershipError):
        MemberProof(KEYS[:1], BINDING, initiator=True).receive(b"\2" + bytes(32))


# --- meshes


class Held:
    """A ring in memory."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def live(self) -> Sequence[SwarmKey]:
        return self.ring.live(time.time())


RINGS = {"red": Held(KeyRing.generate()), "blue": Held(KeyRing.generate()), "none": None}
either = pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
transports = pytest.mark.parametrize("kind", ["memory", "tcp"])


@asynccontextmanager
async def two(
    kind: str, security: str, one: Held | None, other: Held | None, limits: Limits | None = None
) -> AsyncIterator[tuple[Mesh, Mesh, Multiaddr]]:
    network = MemoryNetwork()
    where = Multiaddr.parse("/memory/0" if kind == "memory" else "/ip4/127.0.0.1/tcp/0")

    def ways(host: str) -> Sequence[Transport]:
        return [network.transport(host) if kind == "memory" else TcpTransport()]

    async with (
        open_mesh(
            ALICE,
            listen=[where],
            transports=ways("a"),
            security=[security],
            swarm=one,
            limits=limits,
        ) as near,
        open_mesh(
            BOB,
            listen=[where],
            transports=ways("b"),
            security=[security],
            swarm=other,
            limits=limits,
        ) as far,
    ):
        yield near, far, far.listen_addresses[0].with_peer(BOB.peer_id)


@either
@transports
async def test_members_talk(kind: str, security: str) -> None:
    async with two(kind, security, RINGS["red"], RINGS["red"]) as (near, far, address):
        connection = await near.dial(address)
        assert connection.key is not None
        assert await near.ping(far.peer_id) > 0
        assert await far.ping(near.peer_id) > 0


@either
@transports
@pytest.mark.parametrize(("ours", "theirs"), [("red", "blue"), ("red", "none"), ("none", "red")])
async def test_others_are_refused_at_once_and_both_learn_why(
    kind: str, security: str, ours: str, theirs: str
) -> None:
    async with two(kind, security, RINGS[ours], RINGS[theirs]) as (near, far, address):
        with trio.fail_after(5):  # the deadline of a handshake is twice that
            with pytest.raises(SwarmKeyMismatch) as caught:
                await near.dial(address)
            assert caught.value.exit_code == 6
            with pytest.raises(SwarmKeyMismatch):
                await near.connect(BOB.peer_id, [address.without_peer()])
        assert not near.connections()
        assert not far.connections()
        assert not near.book.protocols(BOB.peer_id)
        assert not far.book.protocols(ALICE.peer_id)
        while far.refused.get("swarm-key-mismatch", 0) < 2:
            await trio.lowlevel.checkpoint()


async def test_a_refusal_outweighs_addresses_that_lead_nowhere() -> None:
    async with two("memory", "/noise", RINGS["red"], RINGS["blue"]) as (near, _, address):
        dead = Multiaddr.parse("/memory/9")
        with pytest.raises(SwarmKeyMismatch) as caught:
            await near.connect(BOB.peer_id, [dead, address.without_peer()])
        assert caught.value.peer == BOB.peer_id
        with pytest.raises(DialError):
            await near.connect(BOB.peer_id, [dead])


@either
async def test_a_stranger_gets_nothing_but_a_name(security: str) -> None:
    """Whatever it asks for on the secured channel, it hears `na` or nothing, and is cut off."""
    network = MemoryNetwork()
    secure = noise if security == "/noise" else tls
    async with open_mesh(
        BOB,
        listen=[Multiaddr.parse("/memory/0")],
        transports=[network.transport("b")],
        security=[security],
        swarm=RINGS["red"],
    ) as mesh:
        for ask in (b"\x13/multistream/1.0.0\n\x0d/yamux/1.0.0\n", b"\x03ls\n", bytes(12)):
            link = await network.transport("e").dial(mesh.listen_addresses[0])
            with trio.fail_after(5):
                # Without muxers in the handshake, as some libp2p peers come.
                channel = await secure(await _past_negotiation(link, security), EVE, initiator=True)
                assert channel.peer == BOB.peer_id
                await channel.send([ask])
                heard = b""
                try:
                    while pieces := await channel.receive():
                        heard += b"".join(pieces)
                        if b"na\n" in heard:
                            channel.close()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
            assert heard in (b"", b"\x13/multistream/1.0.0\n", b"\x13/multistream/1.0.0\n\x03na\n")
        assert not mesh.connections()


async def _past_negotiation(link: RawLink, security: str) -> RawLink:
    line = security.encode() + b"\n"
    expected = b"\x13/multistream/1.0.0\n" + bytes([len(line)]) + line
    data, buffer = b"", memoryview(bytearray(100))
    rest = memoryview(expected)
    while rest:
        rest = rest[await link.send_some(rest) :]
    while len(data) < len(expected):
        data += bytes(buffer[: await link.receive_into(buffer[: len(expected) - len(data)])])
    assert data == expected
    return link


@either
async def test_a_stranger_that_offers_a_muxer_is_refused_in_the_handshake(security: str) -> None:
    network = MemoryNetwork()
    secure = noise if security == "/noise" else tls
    async with open_mesh(
        BOB,
        listen=[Multiaddr.parse("/memory/0")],
        transports=[network.transport("b")],
        security=[security],
        swarm=RINGS["red"],
    ) as mesh:
        link = await _past_negotiation(
            await network.transport("e").dial(mesh.listen_addresses[0]), security
        )
        if security == "/noise":
            with pytest.raises(NoCommonMuxer) as caught:
                await secure(link, EVE, initiator=True, muxers=[MUXER])
            assert caught.value.offered == (PROTOCOL_ID,)
        else:  # the next negotiation says no, see above
            channel = await secure(link, EVE, initiator=True, muxers=[MUXER])
            assert channel.muxer is None


async def test_a_relaying_stranger_brings_two_members_no_nearer() -> None:
    """Eve stands between, with a channel to each, and passes on what they say."""
    network = MemoryNetwork()
    eve = network.transport("e")
    listener = await eve.listen(Multiaddr.parse("/memory/0"))
    async with (
        open_mesh(ALICE, transports=[network.transport("a")], swarm=RINGS["red"]) as near,
        open_mesh(
            BOB,
            listen=[Multiaddr.parse("/memory/0")],
            transports=[network.transport("b")],
            swarm=RINGS["red"],
        ) as far,
        trio.open_nursery() as nursery,
    ):
        outcome: list[Exception] = []

        async def dial() -> None:
            try:
                await near.dial(listener.addresses[0])
            except Exception as error:  # noqa: BLE001  # looked at below
                outcome.append(error)

        nursery.start_soon(dial)
        left = await listener.accept()
        await _answer_negotiation(left)
        to_alice = await noise(left, EVE, initiator=False, muxers=[PROTOCOL_ID])
        right = await _past_negotiation(await eve.dial(far.listen_addresses[0]), "/noise")
        to_bob = await noise(right, EVE, initiator=True, muxers=[PROTOCOL_ID])
        await to_bob.send(await to_alice.receive())
        with trio.fail_after(5):
            await to_alice.send(await to_bob.receive())
            while not outcome:
                await trio.lowlevel.checkpoint()
        assert isinstance(outcome[0], SwarmKeyMismatch)
        assert not near.connections()
        assert not far.connections()


async def _answer_negotiation(link: RawLink) -> None:
    buffer = memoryview(bytearray(100))
    expected = b"\x13/multistream/1.0.0\n\x07/noise\n"
    size = 0
    while size < len(expected):
        size += await link.receive_into(buffer[: len(expected) - size])
    rest = memoryview(expected)
    while rest:
        rest = rest[await link.send_some(rest) :]


async def test_an_adopted_link_has_to_prove_membership_too() -> None:
    """Relayed links, those that py-libp2p brings, come in this way."""
    network = MemoryNetwork()
    listener = await network.transport("l").listen(Multiaddr.parse("/memory/0"))
    async with open_mesh(BOB, swarm=RINGS["red"]) as mesh:
        for ring in (RINGS["none"], RINGS["blue"]):
            async with trio.open_nursery() as nursery:
                link = await network.transport("c").dial(listener.addresses[0])
                nursery.start_soon(_fails, await listener.accept(), ring)
                with trio.fail_after(5), pytest.raises(SwarmKeyMismatch):
                    await mesh.adopt(link, inbound=True)
        assert not mesh.connections()


async def _fails(link: RawLink, ring: Held | None) -> None:
    with pytest.raises((SwarmKeyMismatch, HandshakeLost)):
        await upgrade(link, EVE, initiator=True, expected=None, security=["/noise"], swarm=ring)


async def test_a_member_that_says_nothing_is_given_up(autojump_clock: object) -> None:
    network = MemoryNetwork()
    async with open_mesh(
        BOB,
        listen=[Multiaddr.parse("/memory/0")],
        transports=[network.transport("b")],
        swarm=RINGS["red"],
    ) as mesh:
        link = await network.transport("e").dial(mesh.listen_addresses[0])
        channel = await noise(
            await _past_negotiation(link, "/noise"), EVE, initiator=True, muxers=[PROTOCOL_ID]
        )
        with trio.fail_after(Limits().handshake_timeout_s + 1):
            with suppress(trio.BrokenResourceError):
                assert not await channel.receive()
        assert mesh.refused == {"deadline": 1}


# --- a change of key


async def test_connections_end_with_their_key_and_come_back_under_the_next(
    autojump_clock: object,
) -> None:
    ring = KeyRing.generate()
    ours, theirs = Held(ring), Held(ring)
    async with two("memory", "/noise", ours, theirs) as (near, far, address):
        first = await near.dial(address)
        running = await near.open_stream(BOB.peer_id, "/test")
        rotated = ring.rotated(overlap=0, now=time.time())
        ours.ring = theirs.ring = rotated
        far.handle("/test", _echo)
        await running.send_all(b"before ")
        await trio.sleep(Limits().swarm_key_check_s + 1)
        assert first.closing
        await running.send_all(b"and after")
        await running.send_eof()
        assert await running.receive_exactly(16) == b"before and after"
        second = await near.connect(BOB.peer_id, [address.without_peer()])
        assert second is not first
        assert second.key == rotated.keys[0]
        await running.aclose()
        await first.closed.wait()


async def test_a_stream_under_an_ended_key_does_not_go_on_for_ever(autojump_clock: object) -> None:
    ring = KeyRing.generate()
    ours, theirs = Held(ring), Held(ring)
    limits = Limits()
    async with two("memory", "/noise", ours, theirs) as (near, far, address):
        far.handle("/test", _echo)
        connection = await near.dial(address)
        stream = await near.open_stream(BOB.peer_id, "/test")
        await stream.send_all(b"x")
        ours.ring = theirs.ring = ring.rotated(overlap=0, now=time.time())
        started = trio.current_time()
        with trio.fail_after(limits.swarm_key_grace_s + 3 * limits.swarm_key_check_s):
            await connection.closed.wait()
        assert trio.current_time() - started > limits.swarm_key_grace_s


async def _echo(stream: trio.abc.HalfCloseableStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def test_members_with_different_generations_share_one(autojump_clock: object) -> None:
    ring = KeyRing.generate()
    rotated = ring.rotated(overlap=60, now=time.time())
    async with two("memory", "/noise", Held(rotated), Held(ring)) as (near, _, address):
        connection = await near.dial(address)
        assert connection.key is not None
        assert connection.key.secret == ring.keys[0].secret
