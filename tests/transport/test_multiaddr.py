from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lattica import _varint
from lattica.errors import CodecError, InvalidInput
from lattica.identity import Identity, PeerId
from lattica.transport.multiaddr import (
    MAX_PARTS,
    MAX_SIZE,
    MAX_TEXT,
    AddressCodecError,
    InvalidAddress,
    Multiaddr,
    UnknownAddressProtocol,
)

PEER = Identity(bytes(32)).peer_id
OTHER = Identity(bytes([1]) * 32).peer_id
CERTIFICATE = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g"

# Text and bytes as other libp2p implementations write them.
KNOWN = [
    ("/ip4/127.0.0.1/tcp/4001", "047f000001060fa1"),
    ("/ip4/0.0.0.0/tcp/0", "0400000000060000"),
    ("/ip6/::1/tcp/80", "2900000000000000000000000000000001060050"),
    ("/ip4/1.2.3.4/udp/80/quic", "040102030491020050cc03"),
    ("/ip4/1.2.3.4/udp/80/quic-v1", "040102030491020050cd03"),
    ("/dns4/a.b/tcp/443/wss", "3603612e620601bbde03"),
    ("/dnsaddr/x.org", "3805782e6f7267"),
    ("/memory/7", "89060000000000000007"),
    ("/unix/tmp/a.sock", "90030b2f746d702f612e736f636b"),
    ("/p2p-circuit", "a202"),
]

FOREIGN = [
    f"/ip4/10.0.0.1/udp/9/quic-v1/webtransport/certhash/{CERTIFICATE}/p2p/{PEER}/p2p-circuit",
    f"/ip4/10.0.0.1/udp/9/webrtc-direct/certhash/{CERTIFICATE}",
    "/dns/relay.example/tcp/443/tls/sni/relay.example/ws",
    "/ip4/10.0.0.1/tcp/80/http",
    "/ip6zone/eth0/ip6/fe80::1/tcp/80",
]


@pytest.mark.parametrize(("text", "binary"), KNOWN)
def test_text_and_bytes_are_those_of_other_implementations(text: str, binary: str) -> None:
    address = Multiaddr.parse(text)
    assert bytes(address).hex() == binary
    assert Multiaddr.from_bytes(bytes.fromhex(binary)) == address
    assert str(address) == text


@pytest.mark.parametrize("text", FOREIGN)
def test_addresses_of_transports_we_do_not_speak_are_carried(text: str) -> None:
    address = Multiaddr.parse(text)
    assert str(address) == text
    assert Multiaddr.from_bytes(bytes(address)) == address


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("/ip6/0:0::0:1/tcp/080", "/ip6/::1/tcp/80"),
        ("/ip4/1.2.3.4/", "/ip4/1.2.3.4"),
        (f"/ipfs/{PEER}", f"/p2p/{PEER}"),
    ],
)
def test_another_spelling_is_the_same_address(spelling: str, canonical: str) -> None:
    assert Multiaddr.parse(spelling) == Multiaddr.parse(canonical)
    assert str(Multiaddr.parse(spelling)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "//",
        "ip4/1.2.3.4",
        "/ip4",
        "/ip4/1.2.3",
        "/ip4/01.2.3.4",
        "/ip4/1.2.3.4/tcp",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/-1",
        "/ip4/1.2.3.4/tcp/+1",
        "/ip4/1.2.3.4/tcp/\N{ARABIC-INDIC DIGIT ONE}",
        "/ip4/1.2.3.4//tcp/1",
        "/ip6/fe80::1%eth0",
        "/ip6/1.2.3.4",
        "/dns4/ /tcp/1",
        "/dns4/a\nb",
        "/dns4/" + "a" * 254,
        "/dns4/\ud800",
        "/p2p/12D3",
        "/p2p/Qm",
        "/carrier-pigeon/1",
        "/unix",
        "/unix/",
        "/memory/18446744073709551616",
        "/certhash/x00",
        "/certhash/u",
        "/certhash/u!!!",
        "/certhash/b123",
        "/tcp/" + "9" * 5000,
    ],
)
def test_text_that_is_no_address_is_a_typed_error(text: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        Multiaddr.parse(text)
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.hint


def test_size_is_bounded_in_every_form() -> None:
    hop = "/tcp/1"
    assert len(Multiaddr.parse(hop * MAX_PARTS).parts) == MAX_PARTS
    with pytest.raises(InvalidAddress, match="parts"):
        Multiaddr.parse(hop * (MAX_PARTS + 1))
    with pytest.raises(AddressCodecError, match="parts"):
        Multiaddr.from_bytes(b"\x06\x00\x01" * (MAX_PARTS + 1))
    with pytest.raises(InvalidAddress, match="bytes"):
        Multiaddr.parse(("/dns/" + "a" * 250) * 5)
    with pytest.raises(AddressCodecError, match="bytes"):
        Multiaddr.from_bytes(b"\x06\x00\x01" * (MAX_SIZE // 3 + 1))
    with pytest.raises(InvalidAddress, match="characters"):
        Multiaddr.parse("/unix/" + "a" * MAX_TEXT)
    with pytest.raises(InvalidAddress, match="parts"):
        Multiaddr(())


def test_an_unknown_protocol_says_so_that_the_address_can_be_skipped() -> None:
    with pytest.raises(UnknownAddressProtocol) as caught:
        Multiaddr.from_bytes(bytes(Multiaddr.parse("/ip4/1.2.3.4")) + _varint.encode(0x7777) + b"x")
    assert caught.value.protocol == 0x7777


@given(st.binary(max_size=80))
def test_bytes_are_an_address_or_a_typed_error(data: bytes) -> None:
    try:
        address = Multiaddr.from_bytes(data)
    except CodecError:
        return
    assert bytes(address) == data


@given(st.text(alphabet="/abcdipstnux46.:0123z ", max_size=60))
def test_text_is_an_address_or_a_typed_error(text: str) -> None:
    try:
        address = Multiaddr.parse(text)
    except InvalidAddress:
        return
    assert Multiaddr.parse(str(address)) == address


_ports = st.integers(0, 65535).map(str)
_peers = st.binary(min_size=32, max_size=32).map(lambda digest: str(PeerId(b"\x12\x20" + digest)))
_part = st.one_of(
    st.tuples(st.just("ip4"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("ip6"), st.ip_addresses(v=6).map(str)),
    st.tuples(st.sampled_from(["tcp", "udp"]), _ports),
    st.tuples(st.sampled_from(["dns", "dns4", "sni"]), st.text("abc.-é", min_size=1, max_size=20)),
    st.tuples(st.just("p2p"), _peers),
    st.tuples(st.sampled_from(["ws", "tls", "quic-v1", "p2p-circuit"]), st.just("")),
    st.tuples(st.just("memory"), st.integers(0, 2**64 - 1).map(str)),
)


@given(st.lists(_part, min_size=1, max_size=8))
def test_every_address_survives_both_forms(parts: list[tuple[str, str]]) -> None:
    address = Multiaddr(tuple(parts))
    assert Multiaddr.parse(str(address)) == address
    assert Multiaddr.from_bytes(bytes(address)) == address
    assert hash(Multiaddr.parse(str(address))) == hash(address)


def test_the_peer_is_the_one_at_the_end() -> None:
    plain = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
    assert plain.peer_id is None
    assert plain.with_peer(PEER).peer_id == PEER
    assert plain.with_peer(PEER).with_peer(PEER) == plain.with_peer(PEER)
    assert plain.with_peer(PEER).without_peer() == plain
    assert plain.without_peer() is plain
    with pytest.raises(InvalidAddress, match="another peer"):
        plain.with_peer(PEER).with_peer(OTHER)
    relayed = Multiaddr.parse(f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit")
    assert relayed.peer_id is None
    assert relayed.with_peer(OTHER).peer_id == OTHER
    with pytest.raises(InvalidAddress):
        Multiaddr.parse(f"/p2p/{PEER}").without_peer()


@pytest.mark.parametrize(
    ("text", "loopback", "private", "unspecified"),
    [
        ("/ip4/127.0.0.9/tcp/1", True, False, False),
        ("/ip6/::1/tcp/1", True, False, False),
        ("/dns4/localhost/tcp/1", True, False, False),
        ("/ip4/192.168.1.1/tcp/1", False, True, False),
        ("/ip4/100.64.0.1/tcp/1", False, True, False),
        ("/ip4/169.254.0.1/tcp/1", False, True, False),
        ("/ip6/fd00::1/tcp/1", False, True, False),
        ("/ip6/fe80::1/tcp/1", False, True, False),
        ("/ip4/8.8.8.8/tcp/1", False, False, False),
        ("/ip6/2001:4860:4860::8888/tcp/1", False, False, False),
        ("/ip4/0.0.0.0/tcp/1", False, False, True),
        ("/ip6/::/tcp/1", False, False, True),
        ("/dns4/example.org/tcp/1", False, False, False),
        ("/memory/1", False, False, False),
    ],
)
def test_an_address_knows_how_far_it_reaches(
    text: str, loopback: bool, private: bool, unspecified: bool
) -> None:
    address = Multiaddr.parse(text)
    assert (address.is_loopback, address.is_private, address.is_unspecified) == (
        loopback,
        private,
        unspecified,
    )
