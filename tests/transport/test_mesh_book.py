from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lattica.identity import Identity, PeerId
from lattica.transport import AddressBook, Multiaddr, PeerInfo


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def address(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}")


ALICE, BOB = peer(1), peer(2)


def test_addresses_lapse_unless_they_are_heard_of_again() -> None:
    book = AddressBook()
    book.add(ALICE, [address(1), address(2)], now=0, ttl=10)
    book.add(ALICE, [address(2)], now=5, ttl=10)
    assert book.info(ALICE) == PeerInfo(ALICE, (address(1), address(2)))
    book.advance(10)
    assert book.addresses(ALICE) == [address(2)]
    book.advance(3)
    assert book.addresses(ALICE) == [address(2)]
    book.advance(15)
    assert book.addresses(ALICE) == []
    assert book.addresses(BOB) == []


def test_a_shorter_time_to_live_takes_nothing_away() -> None:
    book = AddressBook()
    book.add(ALICE, [address(1)], now=0, ttl=100)
    book.add(ALICE, [address(1)], now=1, ttl=1)
    book.advance(50)
    assert book.addresses(ALICE) == [address(1)]


def test_only_addresses_of_that_peer_are_kept_and_without_its_name() -> None:
    book = AddressBook()
    named = [
        address(1).with_peer(ALICE),
        address(2).with_peer(BOB),
        Multiaddr((("p2p", str(ALICE)),)),
    ]
    book.add(ALICE, named, now=0, ttl=10)
    assert book.addresses(ALICE) == [address(1)]
    book.add(BOB, [address(1).with_peer(ALICE)], now=0, ttl=10)
    assert len(book) == 1


def test_the_address_that_worked_comes_first() -> None:
    book = AddressBook()
    book.add(ALICE, [address(1), address(2), address(3)], now=0, ttl=10)
    book.note_success(ALICE, address(3).with_peer(ALICE), now=1, ttl=10)
    assert book.addresses(ALICE) == [address(3), address(1), address(2)]
    book.forget_address(ALICE, address(3))
    assert book.addresses(ALICE) == [address(1), address(2)]


def test_addresses_of_a_peer_are_bounded_and_the_first_to_lapse_go() -> None:
    book = AddressBook(addresses_per_peer=2)
    book.add(ALICE, [address(1)], now=0, ttl=99)
    book.add(ALICE, [address(port) for port in range(2, 50)], now=0, ttl=10)
    assert len(book.addresses(ALICE)) == 2
    assert address(1) in book.addresses(ALICE)


def test_peers_are_bounded_and_those_not_heard_of_for_longest_go() -> None:
    book = AddressBook(peers=3)
    for number in (1, 2, 3):
        book.add(peer(number), [address(number)], now=0, ttl=10)
    book.add(peer(1), [address(1)], now=1, ttl=10)
    book.add(peer(4), [address(4)], now=1, ttl=10)
    assert book.peers() == [peer(3), peer(1), peer(4)]


def test_a_connected_peer_is_not_pushed_out() -> None:
    book = AddressBook(peers=3)
    book.add(ALICE, [address(1)], now=0, ttl=1000)
    book.keep(ALICE)
    for number in range(10, 60):
        book.add(peer(number), [address(number)], now=0, ttl=10)
    assert len(book) == 3
    assert book.addresses(ALICE) == [address(1)]
    book.release(ALICE)
    for number in range(10, 60):
        book.add(peer(number), [address(number)], now=0, ttl=10)
    assert book.addresses(ALICE) == []


def test_hearsay_pushes_out_nothing_but_hearsay() -> None:
    book = AddressBook(peers=4, addresses_per_peer=3)
    book.add(ALICE, [address(1), address(2)], now=0, ttl=10)
    book.add(ALICE, [address(port) for port in range(20, 60)], now=1, ttl=1000, hearsay=True)
    assert book.addresses(ALICE, hearsay=False) == [address(1), address(2)]
    assert book.addresses(ALICE)[:2] == [address(1), address(2)]
    assert len(book.addresses(ALICE)) == 2 + 3
    for number in range(10, 60):
        book.add(peer(number), [address(number)], now=2, ttl=1000, hearsay=True)
    assert book.addresses(ALICE) == [address(1), address(2)]
    assert book.addresses(peer(59)) == [address(59)]
    assert book.addresses(peer(58)) == []  # room for a quarter as many peers
    assert book.peers() == [ALICE]


def test_hearsay_lapses_and_what_turned_out_wrong_is_forgotten() -> None:
    book = AddressBook()
    book.add(ALICE, [address(1), address(2)], now=0, ttl=10, hearsay=True)
    book.forget_address(ALICE, address(1))
    assert book.addresses(ALICE) == [address(2)]
    book.advance(10)
    assert book.addresses(ALICE) == []


def test_the_addresses_of_a_protected_peer_are_not_pushed_out_and_do_not_lapse() -> None:
    book = AddressBook(peers=3)
    wanted = {ALICE}
    book.protect(wanted.__contains__)
    book.add(ALICE, [address(1)], now=0, ttl=1000)
    for number in range(10, 60):
        book.add(peer(number), [address(number)], now=0, ttl=10)
    assert len(book) == 3
    book.advance(5000)
    assert book.addresses(ALICE) == [address(1)]
    book.unprotect(wanted.__contains__)
    assert book.addresses(ALICE) == []


def test_a_book_full_of_connected_peers_still_takes_another() -> None:
    book = AddressBook(peers=2)
    for number in (1, 2, 3):
        book.add(peer(number), [address(number)], now=0, ttl=10)
        book.keep(peer(number))
    assert len(book) == 3


def test_what_a_peer_speaks_is_known_while_it_is_connected() -> None:
    book = AddressBook()
    book.keep(ALICE)
    book.set_identified(ALICE, protocols=["/a/1"], agent="test/1", protocol_version="v")
    assert book.protocols(ALICE) == {"/a/1"}
    assert (book.agent(ALICE), book.protocol_version(ALICE)) == ("test/1", "v")
    assert (book.agent(BOB), book.protocols(BOB)) == ("", frozenset())
    assert book.protocol_version(BOB) == ""
    book.release(ALICE)
    assert book.protocols(ALICE) == set()
    assert len(book) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 20), st.integers(1, 20)),
        max_size=60,
    )
)
def test_the_book_never_grows_past_its_bounds(steps: list[tuple[int, int, int, int]]) -> None:
    book = AddressBook(peers=4, addresses_per_peer=3)
    for number, port, now, ttl in steps:
        book.add(peer(number), [address(port), address(port + 1)], now=now, ttl=ttl)
        assert len(book) <= 4
        assert all(len(book.addresses(known)) <= 3 for known in book.peers())


@pytest.mark.parametrize("known", [0, 1])
def test_success_is_worth_noting_for_a_peer_not_heard_of_before(known: int) -> None:
    stranger = Identity.generate().peer_id
    book = AddressBook()
    book.add(stranger, [address(9)] * known, now=0, ttl=5)
    book.note_success(stranger, address(1), now=1, ttl=10)
    assert book.addresses(stranger)[0] == address(1)


def test_only_names_are_distrusted_and_only_so_many_are_remembered() -> None:
    book = AddressBook()
    names = [Multiaddr.parse(f"/dns4/n{number}.example/tcp/1") for number in range(9000)]
    book.distrust([address(1), *names])
    assert not book.is_distrusted(address(1))
    assert book.is_distrusted(names[-1])
    assert len(book._distrusted) == 8192
