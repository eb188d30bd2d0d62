"""What a node answers: from pure state, without a network."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from lattica.dht._answers import Responder, ValuesRefused
from lattica.dht._keys import K, position
from lattica.dht._messages import (
    MAX_ANSWER,
    MAX_PEERS,
    ConnectionType,
    Message,
    MessageError,
    MessageType,
    Peer,
    Record,
    encode,
)
from lattica.dht._providers import MAX_PROVIDER_KEY, ProviderStore, ProvideSchedule
from lattica.dht._table import RoutingTable
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLIC = Multiaddr.parse("/ip4/8.8.8.8/tcp/4001")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.7/tcp/4001")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
ANYWHERE = Multiaddr.parse("/ip4/0.0.0.0/tcp/4001")
KEY = b"\x1e\x20" + bytes(32)


def some_peers(count: int) -> list[PeerId]:
    rng = random.Random(1)
    return [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(count)]


LOCAL, SENDER, *OTHERS = some_peers(60)


class Addresses:
    """A directory in which everybody has the same addresses."""

    def __init__(self, *addresses: Multiaddr) -> None:
        self.everywhere = addresses
        self.learnt: dict[PeerId, Sequence[Multiaddr]] = {}
        self.unknown: set[PeerId] = set()

    def addresses(self, peer: PeerId) -> Sequence[Multiaddr]:
        return [] if peer in self.unknown else self.everywhere

    def is_connected(self, peer: PeerId) -> bool:
        return peer == OTHERS[0]

    def learn(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        self.learnt[peer] = addresses


class Node:
    def __init__(self, *addresses: Multiaddr) -> None:
        self.table = RoutingTable(LOCAL)
        self.store, self.schedule = ProviderStore(), ProvideSchedule()
        self.directory = Addresses(*(addresses or (PUBLIC,)))
        self.responder = Responder(
            table=self.table,
            store=self.store,
            schedule=self.schedule,
            directory=self.directory,
            rng=random.Random(2),
        )
        for peer in OTHERS[:30]:
            self.table.add(peer, now=0.0)

    def ask(self, message: Message, *, asker: Multiaddr = PUBLIC) -> Message | None:
        return self.responder.answer(message, sender=SENDER, address=asker, now=0.0)

    def names(self, message: Message, *, asker: Multiaddr = PUBLIC) -> list[PeerId]:
        answer = self.ask(message, asker=asker)
        assert answer is not None
        return [peer.info.peer for peer in answer.closer]


def test_the_nearest_contacts_are_named_nearest_first() -> None:
    node = Node()
    answer = node.ask(Message(MessageType.GET_VALUE, KEY))
    assert answer is not None
    named = [peer.info.peer for peer in answer.closer]
    assert named == node.table.closest(position(KEY), K)
    assert answer.record is None
    kinds = {peer.info.peer: peer.connection for peer in answer.closer}
    assert kinds.get(OTHERS[0], ConnectionType.CONNECTED) is ConnectionType.CONNECTED
    assert set(kinds.values()) <= {ConnectionType.CONNECTED, ConnectionType.NOT_CONNECTED}


def test_who_asks_for_a_value_and_no_peers_is_named_none() -> None:
    assert Node().names(Message(MessageType.GET_VALUE, KEY)) != []
    assert Node().names(Message(MessageType.GET_VALUE, KEY, brief=True)) == []


def test_a_contact_that_has_moved_is_told_with_its_new_addresses() -> None:
    node, elsewhere = Node(PUBLIC), Multiaddr.parse("/ip4/9.9.9.9/tcp/4001")
    request = Message(MessageType.FIND_NODE, KEY)
    for where in (PUBLIC, elsewhere):
        node.directory.everywhere = (where,)
        answer = node.ask(request)
        assert answer is not None
        assert {peer.info.addresses for peer in answer.closer} == {(where,)}


def test_few_descriptions_of_peers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.dht._answers.MAX_DESCRIBED", 10)
    node = Node()
    assert len(node.names(Message(MessageType.FIND_NODE, KEY))) == K
    assert 0 < len(node.responder._described) <= 10


def test_a_peer_is_not_told_about_itself() -> None:
    node = Node()
    node.table.add(SENDER, now=0.0)
    named = node.names(Message(MessageType.FIND_NODE, SENDER.raw))
    assert SENDER not in named
    assert len(named) == K


def test_a_peer_that_is_sought_comes_first_whether_or_not_it_is_in_the_table() -> None:
    node = Node()
    for sought in (OTHERS[5], OTHERS[50], LOCAL):
        named = node.names(Message(MessageType.FIND_NODE, sought.raw))
        assert named[0] == sought
        assert len(named) == len(set(named)) == K
    node.directory.unknown.add(OTHERS[50])
    assert OTHERS[50] not in node.names(Message(MessageType.FIND_NODE, OTHERS[50].raw))


def test_peers_without_a_known_address_are_not_named() -> None:
    node = Node()
    node.directory.unknown.update(OTHERS)
    assert node.names(Message(MessageType.FIND_NODE, KEY)) == []


@pytest.mark.parametrize(
    ("asker", "told"),
    [
        (PUBLIC, [PUBLIC]),
        (PRIVATE, [PUBLIC, PRIVATE]),
        (LOOPBACK, [PUBLIC, PRIVATE, LOOPBACK]),
        (Multiaddr.parse("/memory/7"), [PUBLIC, PRIVATE, LOOPBACK]),
    ],
)
def test_addresses_are_told_to_those_for_whom_they_mean_something(
    asker: Multiaddr, told: list[Multiaddr]
) -> None:
    node = Node(PUBLIC, PRIVATE, LOOPBACK, ANYWHERE)
    answer = node.ask(Message(MessageType.FIND_NODE, KEY), asker=asker)
    assert answer is not None
    assert all(list(peer.info.addresses) == told for peer in answer.closer)


def test_only_the_sender_becomes_a_provider() -> None:
    node = Node()
    theirs = Peer(PeerInfo(SENDER, (PUBLIC, PRIVATE)))
    others = Peer(PeerInfo(OTHERS[1], (PUBLIC,)))
    assert node.ask(Message(MessageType.ADD_PROVIDER, KEY, providers=(others, theirs))) is None
    assert node.store.providers(KEY, now=0.0) == [SENDER]
    assert node.directory.learnt == {SENDER: [PUBLIC]}
    assert node.ask(Message(MessageType.ADD_PROVIDER, b"other", providers=(others,))) is None
    assert len(node.store) == 1


def test_a_provider_is_believed_only_addresses_that_mean_the_same_here() -> None:
    claimed = (PUBLIC, PRIVATE, LOOPBACK, ANYWHERE)
    message = Message(MessageType.ADD_PROVIDER, KEY, providers=(Peer(PeerInfo(SENDER, claimed)),))
    for asker, believed in ((PUBLIC, 1), (PRIVATE, 2), (LOOPBACK, 3)):
        node = Node()
        node.ask(message, asker=asker)
        assert node.directory.learnt[SENDER] == list(claimed[:believed])


@pytest.mark.parametrize("size", [0, MAX_PROVIDER_KEY + 1])
def test_a_provider_record_needs_a_key(size: int) -> None:
    provider = Peer(PeerInfo(SENDER, (PUBLIC,)))
    with pytest.raises(MessageError, match=f"{size} bytes"):
        Node().ask(Message(MessageType.ADD_PROVIDER, bytes(size), providers=(provider,)))


def test_providers_are_named_with_ourselves_among_them_but_not_the_asker() -> None:
    node = Node()
    for peer in (SENDER, OTHERS[1], OTHERS[2]):
        node.store.add(KEY, peer, now=0.0)
    node.schedule.add(KEY, now=0.0)
    answer = node.ask(Message(MessageType.GET_PROVIDERS, KEY))
    assert answer is not None
    assert [peer.info.peer for peer in answer.providers] == [LOCAL, OTHERS[2], OTHERS[1]]
    assert len(answer.closer) == K


def test_of_many_providers_each_asker_hears_of_others_within_the_size_of_an_answer() -> None:
    node = Node(*(Multiaddr.parse(f"/ip4/8.8.8.8/tcp/{port}") for port in range(1, 9)))
    for number in range(400):
        node.store.add(KEY, PeerId(b"\x12\x20" + number.to_bytes(32, "big")), now=0.0)
    answers = [node.ask(Message(MessageType.GET_PROVIDERS, KEY)) for _ in range(2)]
    heard = []
    for answer in answers:
        assert answer is not None
        assert len(encode(answer)) <= MAX_ANSWER
        assert 0 < len(answer.providers) <= MAX_PEERS
        heard.append({peer.info.peer for peer in answer.providers})
    assert heard[0] != heard[1]


def test_values_are_refused() -> None:
    record = Record(KEY, b"value")
    with pytest.raises(ValuesRefused):
        Node().ask(Message(MessageType.PUT_VALUE, KEY, record))


@pytest.mark.parametrize(
    "kind", [MessageType.FIND_NODE, MessageType.GET_VALUE, MessageType.GET_PROVIDERS]
)
def test_a_question_without_a_key_is_refused(kind: MessageType) -> None:
    with pytest.raises(MessageError, match="without a key"):
        Node().ask(Message(kind))


def test_a_ping_is_answered() -> None:
    assert Node().ask(Message(MessageType.PING, b"whatever")) == Message(MessageType.PING)
