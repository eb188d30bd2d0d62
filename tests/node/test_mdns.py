"""Peers on the local network find each other; what anybody says there is bounded and checked."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest
import trio
from hypothesis import given, strategies as st

from lattica._mdns import (
    MAX_ADDRESSES,
    SERVICE,
    MdnsRecordError,
    _look,
    _meet,
    decode_txt,
    encode_txt,
    open_mdns,
)
from lattica.identity import Identity
from lattica.transport import Multiaddr, PeerConnected, open_mesh

PEER = Identity(bytes(32)).peer_id
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


def address(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/10.0.0.{number}/tcp/4001")


def test_a_record_names_a_peer_and_its_addresses() -> None:
    addresses = [address(1), address(2)]
    record = encode_txt(addresses, PEER)
    assert b"dnsaddr=/ip4/10.0.0.1/tcp/4001/p2p/12D3KooW" in record
    assert decode_txt(record) == {PEER: addresses}


def test_a_record_stays_small() -> None:
    long = Multiaddr.parse(f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}/tcp/1")
    record = encode_txt([long, *map(address, range(1, 100))], PEER)
    assert len(record) < 1200
    assert decode_txt(record)[PEER] == [address(number) for number in range(1, MAX_ADDRESSES + 1)]


def test_strings_that_are_none_of_ours_are_skipped() -> None:
    ours = encode_txt([address(1)], PEER)
    for other in (b"txtvers=1", b"dnsaddr=", b"dnsaddr=/ip4/10.0.0.9/tcp/1", b"dnsaddr=\xff", b""):
        assert decode_txt(bytes([len(other)]) + other + ours) == {PEER: [address(1)]}


@pytest.mark.parametrize("record", [b"\x05dns", b"\x00" * 5000])
def test_a_record_that_is_cut_or_huge_is_refused(record: bytes) -> None:
    with pytest.raises(MdnsRecordError):
        decode_txt(record)


def test_a_record_with_many_addresses_counts_for_a_few() -> None:
    many = b"".join(encode_txt([address(number)], PEER) for number in range(1, 40))
    assert len(decode_txt(many)[PEER]) == MAX_ADDRESSES


@given(st.binary(max_size=300))
def test_any_record_is_addresses_or_an_error(record: bytes) -> None:
    with contextlib.suppress(MdnsRecordError):
        decode_txt(record)


class Names:
    """A stand-in for zeroconf, which gives `record` for each name. Fails for None."""

    def __init__(self, record: bytes | None) -> None:
        self.record = record

    def info(self, service_type: str, name: str) -> Names:
        return self

    def load_from_cache(self, service: object) -> bool:
        if self.record is None:
            raise AssertionError("a packet that zeroconf did not expect")
        return True

    @property
    def text(self) -> bytes | None:
        return self.record


async def _look_at(record: bytes | None, patch: pytest.MonkeyPatch, *, count: int) -> list[bytes]:
    names = Names(record)
    patch.setattr("zeroconf.ServiceInfo", names.info)
    outbox, inbox = trio.open_memory_channel[str](count)
    for number in range(count):
        outbox.send_nowait(f"{number}.{SERVICE}")
    outbox.close()
    looked: list[bytes] = []

    async def note(record: bytes) -> None:
        looked.append(record)

    await _look(cast("Any", None), inbox, {}, note)
    return looked


async def test_a_name_that_zeroconf_stumbles_over_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert await _look_at(None, monkeypatch, count=2) == [b"", b""]
    assert [each.levelname for each in caplog.records] == ["ERROR"] * 2


async def test_nobody_on_the_network_sends_us_to_our_own_machine() -> None:
    async with open_mesh(Identity(b"a" * 32)) as mesh:
        listener = trio.socket.socket()
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        inner = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")
        with trio.fail_after(10), listener:
            await _meet(mesh, encode_txt([inner], PEER), on_loopback=False)
            with trio.move_on_after(0.1) as waiting:
                await listener.accept()
            assert waiting.cancelled_caught


async def test_two_nodes_that_know_nothing_of_each_other_connect() -> None:
    # Multicast on the loopback interface: nothing leaves this machine.
    async with (
        open_mesh(Identity(b"a" * 32), listen=[LOOPBACK]) as a,
        open_mesh(Identity(b"b" * 32), listen=[LOOPBACK]) as b,
        a.events() as events,
        open_mdns(a, interfaces=["127.0.0.1"]),
        open_mdns(b, interfaces=["127.0.0.1"]),
    ):
        with trio.fail_after(10):
            async for event in events:
                if isinstance(event, PeerConnected) and event.connection.peer == b.peer_id:
                    return
