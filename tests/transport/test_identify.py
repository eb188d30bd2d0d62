"""Identify and push: what peers tell each other, and what they may not."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica import _protobuf
from lattica.testing import open_memory_meshes, sample_identity
from lattica.transport import (
    IdentifyError,
    IdentifyInfo,
    Limits,
    Multiaddr,
    PeerIdentified,
    open_mesh,
)
from lattica.transport.identify import (
    IDENTIFY_PROTOCOL,
    MAX_MESSAGES,
    MAX_PROTOCOL,
    MAX_VERSION,
    PUSH_PROTOCOL,
    IdentifyTooLarge,
    decode_identify,
    encode_identify,
    heard_from,
    travels,
)

if TYPE_CHECKING:
    from lattica.transport import MemoryNetwork, Mesh, Stream

ALICE, BOB = sample_identity(60), sample_identity(61)
HOME = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
INFO = IdentifyInfo(
    protocols=frozenset({"/a/1", "/b/2"}),
    addresses=(HOME, LOOPBACK),
    certified=True,
    observed=Multiaddr.parse("/ip4/198.51.100.7/tcp/50000"),
    agent_version="test/1",
    protocol_version="family/1",
)


def encoded(info: IdentifyInfo = INFO, *, record: bool = True) -> bytes:
    return b"".join(encode_identify(ALICE, info, sequence=1, record=record))


def test_what_is_said_is_what_is_heard() -> None:
    assert decode_identify(encoded(), ALICE.peer_id) == INFO
    plain = decode_identify(encoded(record=False), ALICE.peer_id)
    assert plain == replace(INFO, certified=False)


def test_fields_have_the_numbers_of_the_specification() -> None:
    message = _protobuf.decode(encoded())
    assert message.blob(1) == ALICE.public_key.to_protobuf()
    assert message.blobs(2) == [bytes(HOME), bytes(LOOPBACK)]
    assert message.texts(3) == ["/a/1", "/b/2"]
    assert INFO.observed is not None
    assert message.blob(4) == bytes(INFO.observed)
    assert (message.text(5), message.text(6)) == ("family/1", "test/1")
    assert 8 in message


def test_nobody_presents_the_key_of_another() -> None:
    with pytest.raises(IdentifyError, match="key of another"):
        decode_identify(encoded(), BOB.peer_id)


def test_a_record_of_another_or_a_broken_one_is_no_record() -> None:
    theirs = _protobuf.decode(b"".join(encode_identify(BOB, INFO, sequence=1))).blob(8)
    for record in (theirs, b"junk"):
        fields: list[tuple[int, int | bytes | str | None]] = [(8, record)]
        data = encoded(record=False) + _protobuf.encode(fields)
        assert decode_identify(data, ALICE.peer_id) == replace(INFO, certified=False)


def test_an_empty_message_says_nothing() -> None:
    assert decode_identify(b"", ALICE.peer_id) == IdentifyInfo()


@given(st.binary(max_size=100))
def test_bytes_are_a_message_or_a_typed_error(data: bytes) -> None:
    with suppress(IdentifyError):
        decode_identify(data, ALICE.peer_id)


def test_what_is_remembered_is_bounded_and_harmless_to_show() -> None:
    fields: list[tuple[int, int | bytes | str | None]]
    fields = [(3, f"/p/{number}") for number in range(1000)]
    fields += [(3, "/" + "x" * MAX_PROTOCOL), (3, "")]
    fields += [(6, "evil\x1b[2J\n" + "x" * 1000), (4, b"\xff\xff")]
    info = decode_identify(_protobuf.encode(fields), ALICE.peer_id, max_protocols=10)
    assert info.protocols == {f"/p/{number}" for number in range(10)}
    assert info.agent_version.startswith("evil[2Jxxx")
    assert len(info.agent_version) == MAX_VERSION
    assert info.observed is None


def test_a_large_answer_has_its_record_in_a_message_of_its_own() -> None:
    large = replace(INFO, protocols=frozenset(f"/protocol/{number}/1.0.0" for number in range(200)))
    messages = encode_identify(ALICE, large, sequence=1)
    assert len(messages) == 2
    assert 8 not in _protobuf.decode(messages[0])
    assert decode_identify(b"".join(messages), ALICE.peer_id) == large
    assert len(encode_identify(ALICE, INFO, sequence=1)) == 1


def test_loopback_addresses_do_not_travel() -> None:
    far = Multiaddr.parse("/ip4/203.0.113.5/tcp/1")
    assert heard_from(INFO, far).addresses == (HOME,)
    for near in (LOOPBACK, Multiaddr.parse("/ip6/::1/tcp/9"), Multiaddr.parse("/memory/1")):
        assert heard_from(INFO, near) == INFO
    assert travels(HOME, far)


# On a mesh


async def test_both_ends_know_each_other_after_connecting(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair

    async def serve(stream: Stream) -> None: ...

    bob.handle("/served/1", serve)
    await alice.connect(bob.peer_id)
    await wait_all_tasks_blocked()
    assert "/served/1" in alice.book.protocols(bob.peer_id)
    assert alice.book.agent(bob.peer_id).startswith("lattica-mesh/")
    assert alice.book.protocol_version(bob.peer_id) == "lattica-mesh/common/1"
    assert {IDENTIFY_PROTOCOL, PUSH_PROTOCOL} <= bob.book.protocols(alice.peer_id)
    assert bob.book.addresses(alice.peer_id) == alice.addresses
    assert list(alice.observed_addresses) == alice.addresses
    assert set(alice.observed_addresses.values()) == {1}


async def test_names_can_be_chosen(network: MemoryNetwork) -> None:
    async with (
        open_memory_meshes(1, network=network) as (alice,),
        open_mesh(
            BOB,
            transports=[network.transport()],
            agent_version="other/2",
            protocol_version="family/2",
        ) as bob,
    ):
        await bob.connect(alice.peer_id, alice.addresses)
        await wait_all_tasks_blocked()
        assert alice.book.agent(BOB.peer_id) == "other/2"
        assert alice.book.protocol_version(BOB.peer_id) == "family/2"


async def test_changes_are_pushed_once_for_a_burst(autojump_clock: MockClock) -> None:
    async with open_memory_meshes(2) as (alice, bob):

        async def serve(stream: Stream) -> None: ...

        await alice.connect(bob.peer_id)
        async with alice.events() as events:
            await trio.sleep(1)
            while events.statistics().current_buffer_used:
                events.receive_nowait()
            for number in range(5):
                bob.handle(f"/late/{number}", serve)
                await trio.sleep(0.001)
            await trio.sleep(1)
            event = events.receive_nowait()
            assert isinstance(event, PeerIdentified)
            assert {f"/late/{number}" for number in range(5)} <= event.info.protocols
            assert alice.book.protocols(bob.peer_id) == event.info.protocols
            bob.unhandle("/late/0")
            bob.handle("/late/0", serve)
            await trio.sleep(1)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
            bob.unhandle("/late/0")
            await trio.sleep(1)
            assert "/late/0" not in alice.book.protocols(bob.peer_id)


async def hold(stream: Stream) -> None:
    await trio.sleep_forever()


async def answer_with(stream: Stream, *messages: bytes) -> None:
    for message in messages:
        await stream.send_message(message)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([bytes([8, 1]) * 600], "limit 1000"),
        ([bytes([8, 1]) * 300] * 2, "limit 1000"),
        ([b""] * (MAX_MESSAGES + 1), "more than"),
        ([b"\xff"], "no identify message"),
        ([encoded()], "key of another"),
    ],
)
async def test_a_peer_that_does_not_identify_itself_properly_stays_unknown(
    messages: list[bytes],
    reason: str,
    network: MemoryNetwork,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    limits = Limits(identify_bytes=1000)
    async with (
        open_memory_meshes(1, network=network, limits=limits) as (node,),
        open_memory_meshes(1, network=network, seed=1) as (odd,),
    ):
        odd.unhandle(IDENTIFY_PROTOCOL)
        odd.handle(IDENTIFY_PROTOCOL, lambda stream: answer_with(stream, *messages))
        connection = await node.connect(odd.peer_id, odd.addresses)
        await wait_all_tasks_blocked()
        assert reason in caplog.text
        assert not node.book.protocols(odd.peer_id)
        assert not connection.closed.is_set()


async def test_an_answer_may_come_in_parts(network: MemoryNetwork) -> None:
    async with open_memory_meshes(2, network=network) as (node, other):
        parts = [_protobuf.encode([(3, f"/part/{number}")]) for number in range(MAX_MESSAGES)]
        other.unhandle(IDENTIFY_PROTOCOL)
        other.handle(IDENTIFY_PROTOCOL, lambda stream: answer_with(stream, *parts))
        await node.connect(other.peer_id)
        await wait_all_tasks_blocked()
        assert len(node.book.protocols(other.peer_id)) == MAX_MESSAGES


async def test_a_peer_that_never_answers_is_left_at_the_deadline(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_memory_meshes(2, network=network) as (node, mute):
        mute.unhandle(IDENTIFY_PROTOCOL)
        mute.handle(IDENTIFY_PROTOCOL, hold)
        connection = await node.connect(mute.peer_id)
        await trio.sleep(node.limits.identify_timeout_s + 1)
        assert connection.stream_count == 0
        assert not connection.closed.is_set()


async def test_a_peer_without_push_is_not_bothered(
    autojump_clock: MockClock, network: MemoryNetwork
) -> None:
    async with open_memory_meshes(2, network=network) as (node, old):
        old.unhandle(PUSH_PROTOCOL)
        await node.connect(old.peer_id)
        await trio.sleep(1)
        asked: list[str] = []

        async def note(stream: Stream) -> None:
            asked.append(stream.protocol)

        old._handlers.add(PUSH_PROTOCOL, note)
        node.handle("/new/1", note)
        await trio.sleep(1)
        assert asked == []


async def test_a_push_that_says_nothing_of_protocols_changes_none(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    await alice.connect(bob.peer_id)
    await wait_all_tasks_blocked()
    before = alice.book.protocols(bob.peer_id)
    async with await bob.open_stream(alice.peer_id, PUSH_PROTOCOL) as stream:
        await stream.send_message(_protobuf.encode([(6, "renamed/1")]))
    await wait_all_tasks_blocked()
    assert alice.book.agent(bob.peer_id) == "renamed/1"
    assert alice.book.protocols(bob.peer_id) == before


async def test_a_lying_push_changes_nothing(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    await alice.connect(bob.peer_id)
    await wait_all_tasks_blocked()
    async with await bob.open_stream(alice.peer_id, PUSH_PROTOCOL) as stream:
        await stream.send_message(encoded())
    await wait_all_tasks_blocked()
    assert alice.book.agent(bob.peer_id) != INFO.agent_version
    assert alice.book.addresses(bob.peer_id) == bob.addresses


async def test_ask_is_sound_when_cancelled(mesh_pair: list[Mesh]) -> None:
    alice, bob = mesh_pair
    connection = await alice.connect(bob.peer_id)
    await wait_all_tasks_blocked()
    identifier = alice._introductions._identifier
    for call in (identifier.ask, identifier.push):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(connection)
        assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert connection.stream_count == 0
    assert (await identifier.ask(connection)).protocols


def test_too_large_is_an_identify_error() -> None:
    assert issubclass(IdentifyTooLarge, IdentifyError)
