"""One router against hand-written peers: what it answers, whom it trusts, what it refuses."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from lattica.identity import Identity, PeerId
from lattica.pubsub import (
    InvalidTopic,
    Message,
    MessageTooLarge,
    Parameters,
    Router,
    RpcError,
    ScoreParameters,
    Verdict,
    Version,
)
from lattica.pubsub._message_id import IdForm, write_id
from lattica.pubsub._messages import (
    Announcement,
    Prune,
    Rpc,
    SignedMessage,
    decode_rpc,
    encode_rpc,
)

TOPIC = "news"
IDENTITIES = [Identity(bytes([number]) * 32) for number in range(1, 40)]
AUTHOR, STRANGER, *OTHERS = IDENTITIES


class Bench:
    """A router with a clock and hands to play its peers."""

    def __init__(
        self, parameters: Parameters | None = None, score_parameters: ScoreParameters | None = None
    ) -> None:
        self.now = 1000.0
        self.identity = Identity(bytes(32))
        self.router = Router(
            self.identity,
            now=self.now,
            rng=random.Random(1),
            first_sequence=0,
            parameters=parameters,
            score_parameters=score_parameters,
        )

    def connect(
        self, *identities: Identity, outbound: bool = False, version: Version = Version.V1_2
    ) -> list[PeerId]:
        """Peers that subscribed to the topic; what waited for them is thrown away."""
        for one in identities:
            self.router.add_peer(one.peer_id, version, outbound=outbound, now=self.now)
            self.hear(one, Rpc(subscriptions=((TOPIC, True),)))
            self.sent_to(one)
        return [one.peer_id for one in identities]

    def hear(self, sender: Identity, rpc: Rpc) -> list[Message]:
        return self.router.receive(sender.peer_id, encode_rpc(rpc), self.now)

    def hear_message(
        self, sender: Identity, *, seqno: int = 1, data: bytes = b"x"
    ) -> list[Message]:
        return self.hear(sender, Rpc(publish=(message(seqno=seqno, data=data).encode(),)))

    def sent_to(self, receiver: Identity) -> Rpc:
        """All that waits for a peer, as one RPC."""
        wires = []
        while (wire := self.router.next_rpc(receiver.peer_id)) is not None:
            wires.append(wire)
        return decode_rpc(b"".join(wires))

    def beat(self, count: int = 1) -> None:
        for _ in range(count):
            self.now = self.router.next_timeout()
            self.router.handle_timeout(self.now)


def message(
    *, author: Identity = AUTHOR, topic: str = TOPIC, seqno: int = 1, data: bytes = b"x"
) -> SignedMessage:
    return SignedMessage.sign(author, topic=topic, data=data, seqno=seqno)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.router.join(TOPIC, bench.now)
    return bench


# Subscriptions and the mesh.


def test_a_new_peer_is_told_our_subscriptions(bench: Bench) -> None:
    bench.router.join("other", bench.now)
    bench.router.add_peer(AUTHOR.peer_id, Version.V1_1, outbound=True, now=bench.now)
    assert bench.sent_to(AUTHOR) == Rpc(subscriptions=((TOPIC, True), ("other", True)))


def test_peers_are_told_when_we_join_and_leave() -> None:
    bench = Bench()
    bench.connect(AUTHOR)
    bench.router.join(TOPIC, bench.now)
    assert bench.sent_to(AUTHOR) == Rpc(subscriptions=((TOPIC, True),), graft=(TOPIC,))
    bench.router.leave(TOPIC, bench.now)
    assert bench.sent_to(AUTHOR) == Rpc(subscriptions=((TOPIC, False),), prune=(Prune(TOPIC, 10),))
    bench.router.leave(TOPIC, bench.now)
    assert bench.sent_to(AUTHOR) == Rpc()


def test_a_subscriber_is_grafted_at_once_while_the_mesh_is_thin(bench: Bench) -> None:
    for one in OTHERS[:8]:
        bench.router.add_peer(one.peer_id, Version.V1_1, outbound=False, now=bench.now)
        bench.hear(one, Rpc(subscriptions=((TOPIC, True),)))
    assert [len(bench.sent_to(one).graft) for one in OTHERS[:8]] == [1] * 6 + [0] * 2
    assert len(bench.router.mesh(TOPIC)) == 6


def test_a_peer_that_unsubscribes_leaves_the_mesh(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear(AUTHOR, Rpc(subscriptions=((TOPIC, False),)))
    assert bench.router.mesh(TOPIC) == bench.router.subscribers(TOPIC) == []


def test_a_peer_that_goes_leaves_nothing_behind(bench: Bench) -> None:
    peers = bench.connect(AUTHOR)
    bench.router.publish(TOPIC, b"x", bench.now)
    bench.router.remove_peer(AUTHOR.peer_id, bench.now)
    bench.router.remove_peer(AUTHOR.peer_id, bench.now)
    assert peers not in (bench.router.peers, bench.router.mesh(TOPIC))
    assert bench.router.next_rpc(AUTHOR.peer_id) is None
    assert bench.router.take_ready() == []
    assert bench.hear_message(AUTHOR) == []


def test_a_graft_is_mutual(bench: Bench) -> None:
    for one in OTHERS[:7]:
        bench.connect(one)
    outsider = next(one for one in OTHERS if one.peer_id not in bench.router.mesh(TOPIC))
    bench.hear(outsider, Rpc(graft=(TOPIC,)))
    assert outsider.peer_id in bench.router.mesh(TOPIC)
    assert bench.sent_to(outsider) == Rpc()


def test_a_graft_of_an_unknown_topic_gets_no_answer(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear(AUTHOR, Rpc(graft=("unknown",)))
    assert bench.sent_to(AUTHOR) == Rpc()


def test_a_full_mesh_refuses_grafts_of_peers_that_dialled_us(bench: Bench) -> None:
    bench.connect(*OTHERS[:14])
    for one in OTHERS[:14]:
        bench.hear(one, Rpc(graft=(TOPIC,)))
    assert len(bench.router.mesh(TOPIC)) == 12
    assert bench.sent_to(OTHERS[13]) == Rpc(prune=(Prune(TOPIC, 60),))
    bench.connect(AUTHOR, outbound=True)
    bench.hear(AUTHOR, Rpc(graft=(TOPIC,)))
    assert AUTHOR.peer_id in bench.router.mesh(TOPIC)


def test_a_pruned_peer_is_not_grafted_again_before_its_time(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear(AUTHOR, Rpc(prune=(Prune(TOPIC, 20),)))
    start = bench.now
    while AUTHOR.peer_id not in bench.router.mesh(TOPIC):
        bench.beat()
        assert bench.now < start + 30
    assert bench.now >= start + 20


def test_a_prune_without_a_time_and_a_far_one_are_kept_to_ours(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    bench.hear(AUTHOR, Rpc(prune=(Prune(TOPIC),)))
    bench.hear(STRANGER, Rpc(prune=(Prune(TOPIC, 2**63),)))
    bench.beat(66)
    assert bench.router.mesh(TOPIC) == [AUTHOR.peer_id]
    bench.beat(540)
    assert len(bench.router.mesh(TOPIC)) == 2


def test_grafting_during_the_backoff_is_answered_and_held_against_the_peer(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear(AUTHOR, Rpc(prune=(Prune(TOPIC, 60),)))
    for _ in range(4):
        bench.hear(AUTHOR, Rpc(graft=(TOPIC,)))
        assert bench.sent_to(AUTHOR).prune == (Prune(TOPIC, 60),)
    assert bench.router.mesh(TOPIC) == []
    assert bench.router.score(AUTHOR.peer_id, bench.now) < 0


def test_a_peer_that_prunes_without_a_backoff_cannot_graft_again_at_once(bench: Bench) -> None:
    bench.connect(AUTHOR)
    for _ in range(8):
        bench.hear(AUTHOR, Rpc(graft=(TOPIC,), prune=(Prune(TOPIC, 0),)))
    assert bench.router.mesh(TOPIC) == []
    assert bench.router.score(AUTHOR.peer_id, bench.now) < 0


def test_the_heartbeat_fills_a_thin_mesh(bench: Bench) -> None:
    bench.connect(*OTHERS[:10])
    for peer in bench.router.mesh(TOPIC)[:3]:
        bench.router.remove_peer(peer, bench.now)
    bench.beat()
    assert len(bench.router.mesh(TOPIC)) == 6


def test_the_heartbeat_thins_a_thick_mesh_and_keeps_the_best_and_some_we_dialled() -> None:
    bench = Bench(Parameters(degree_high=8))
    bench.router.join(TOPIC, bench.now)
    bench.connect(*OTHERS[:10])
    best = OTHERS[3:7]
    bench.connect(*OTHERS[20:23], outbound=True)
    for one in (*OTHERS[:10], *OTHERS[20:23]):
        bench.hear(one, Rpc(graft=(TOPIC,)))
    for number, one in enumerate(best):
        bench.hear_message(one, seqno=number)
    assert len(bench.router.mesh(TOPIC)) > 8
    bench.beat()
    mesh = bench.router.mesh(TOPIC)
    assert len(mesh) == 6
    assert {one.peer_id for one in best} <= set(mesh)
    assert len({one.peer_id for one in OTHERS[20:23]} & set(mesh)) == 2


def test_the_heartbeat_adds_peers_we_dialled_to_a_mesh_without(bench: Bench) -> None:
    bench.connect(*OTHERS[:6])
    bench.connect(*OTHERS[20:25], outbound=True)
    assert len(bench.router.mesh(TOPIC)) == 6
    bench.beat()
    assert len(set(bench.router.mesh(TOPIC)) & {one.peer_id for one in OTHERS[20:25]}) == 2


def test_a_poor_mesh_is_offered_better_peers() -> None:
    bench = Bench(Parameters(opportunistic_heartbeats=2), ScoreParameters(delivery_weight=1))
    bench.router.join(TOPIC, bench.now)
    bench.connect(*OTHERS[:10])
    outside = [one for one in OTHERS[:10] if one.peer_id not in bench.router.mesh(TOPIC)]
    for number, one in enumerate(outside):
        bench.hear_message(one, seqno=number)
    bench.beat(2)
    assert len(set(bench.router.mesh(TOPIC)) & {one.peer_id for one in outside}) == 2


def test_topics_of_a_peer_are_bounded() -> None:
    bench = Bench(Parameters(max_peer_topics=3))
    bench.connect(AUTHOR)
    topics = [f"t{number}" for number in range(10)]
    bench.hear(AUTHOR, Rpc(subscriptions=tuple((topic, True) for topic in topics)))
    assert sum(bool(bench.router.subscribers(topic)) for topic in [TOPIC, *topics]) == 3


def test_the_size_of_all_topics_of_a_peer_is_bounded() -> None:
    bench = Bench(Parameters(max_peer_topics_bytes=1000))
    bench.router.add_peer(AUTHOR.peer_id, Version.V1_2, outbound=False, now=bench.now)
    long = [f"{number:0400}" for number in range(5)]
    bench.hear(AUTHOR, Rpc(subscriptions=tuple((topic, True) for topic in long)))
    bench.hear(AUTHOR, Rpc(subscriptions=((long[0], False), (long[0], False), (long[4], True))))
    bench.hear(AUTHOR, Rpc(subscriptions=((long[4], True), (TOPIC, True))))
    heard = [topic for topic in (*long, TOPIC) if bench.router.subscribers(topic)]
    assert heard == [long[1], long[4], TOPIC]


def test_a_peer_that_says_too_much_at_a_time_is_not_heard_and_then_not_read() -> None:
    bench = Bench(Parameters(max_items=100))
    bench.router.join(TOPIC, bench.now)
    bench.connect(AUTHOR, STRANGER)
    unknown = tuple(message(seqno=number).id for number in range(1000, 1040))
    bench.beat()
    for _ in range(20):
        bench.hear(STRANGER, Rpc(iwant=unknown + unknown))
        for _ in range(4):
            bench.hear(AUTHOR, Rpc(iwant=unknown))
        bench.router.publish(TOPIC, b"x", bench.now)
        bench.sent_to(AUTHOR)
        bench.hear(AUTHOR, Rpc(iwant=tuple(bench.router._cache.recent_ids(TOPIC))))
        bench.beat()
    assert bench.router.statistics.recovered == 0
    assert bench.router.statistics.graylisted > 0
    assert bench.router.score(STRANGER.peer_id, bench.now) == 0


def test_backoffs_are_bounded() -> None:
    bench = Bench(Parameters(max_backoffs=5))
    bench.router.join(TOPIC, bench.now)
    bench.connect(*OTHERS[:10])
    for one in OTHERS[:10]:
        bench.hear(one, Rpc(prune=(Prune(TOPIC, 60),)))
    assert len(bench.router._overlay._backoffs) == 5


# Messages.


def test_a_message_is_delivered_once_and_passed_on_to_the_mesh(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER, *OTHERS[:2])
    received = bench.hear_message(STRANGER, data=b"hello")
    assert received == [Message(TOPIC, b"hello", AUTHOR.peer_id, 1, STRANGER.peer_id)]
    assert bench.hear_message(OTHERS[0], data=b"hello") == []
    wire = message(data=b"hello").encode()
    assert [bench.sent_to(one).publish for one in OTHERS[:2]] == [(wire,), (wire,)]
    assert bench.sent_to(AUTHOR).publish == bench.sent_to(STRANGER).publish == ()
    assert bench.router.statistics.duplicates == 1


def test_a_message_of_a_topic_we_did_not_join_is_dropped(bench: Bench) -> None:
    bench.connect(AUTHOR)
    assert bench.hear(AUTHOR, Rpc(publish=(message(topic="other").encode(),))) == []
    assert bench.router.score(AUTHOR.peer_id, bench.now) == 0


def test_our_own_message_that_comes_back_is_dropped(bench: Bench) -> None:
    bench.connect(AUTHOR)
    own = message(author=bench.identity, seqno=2**40).encode()
    assert bench.hear(AUTHOR, Rpc(publish=(own,))) == []
    assert bench.router.score(AUTHOR.peer_id, bench.now) == 0


def test_a_forger_is_pruned_then_ignored_and_cannot_displace_the_author(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    honest = message(data=b"true").encode()
    forged = honest.replace(b"true", b"lies")
    assert bench.hear(STRANGER, Rpc(publish=(forged,))) == []
    bench.beat()
    assert bench.router.mesh(TOPIC) == [AUTHOR.peer_id]
    bench.hear(STRANGER, Rpc(publish=(forged,) * 100))
    assert bench.router.statistics.invalid < 5
    assert bench.hear(STRANGER, Rpc(publish=(message(seqno=9).encode(),))) == []
    assert bench.router.statistics.graylisted == 1
    assert [one.data for one in bench.hear(AUTHOR, Rpc(publish=(honest,)))] == [b"true"]


def test_a_graylisted_peer_is_heard_again_in_time(bench: Bench) -> None:
    bench.connect(STRANGER)
    bench.hear(STRANGER, Rpc(publish=(b"garbage",) * 3))
    assert bench.hear_message(STRANGER) == []
    bench.now += 60
    assert len(bench.hear_message(STRANGER)) == 1


def test_one_bad_message_does_not_cost_the_good_ones_around_it(bench: Bench) -> None:
    bench.connect(STRANGER)
    wires = [message(seqno=1).encode(), b"garbage", message(seqno=2).encode()]
    assert len(bench.hear(STRANGER, Rpc(publish=tuple(wires)))) == 2


def test_garbage_is_an_error_that_counts_against_the_peer(bench: Bench) -> None:
    bench.connect(STRANGER)
    for _ in range(7):
        with pytest.raises(RpcError):
            bench.router.receive(STRANGER.peer_id, b"\xff\xff", bench.now)
    assert bench.router.receive(STRANGER.peer_id, b"\xff\xff", bench.now) == []
    assert bench.router.statistics.malformed == 7


def test_a_validator_decides_and_a_rejected_message_costs_all_who_send_it(bench: Bench) -> None:
    bench.connect(AUTHOR, *OTHERS[:3])
    verdicts = iter([Verdict.IGNORE, Verdict.REJECT, Verdict.ACCEPT])
    bench.router.set_validator(TOPIC, lambda _: next(verdicts))
    assert bench.hear_message(AUTHOR, seqno=1) == []
    assert bench.router.score(AUTHOR.peer_id, bench.now) == 0
    assert bench.hear_message(OTHERS[0], seqno=2) == []
    assert bench.hear_message(OTHERS[1], seqno=2) == []
    assert all(bench.router.score(one.peer_id, bench.now) < 0 for one in OTHERS[:2])
    assert len(bench.hear_message(OTHERS[2], seqno=3)) == 1
    assert len(bench.sent_to(AUTHOR).publish) == 0
    bench.router.set_validator(TOPIC, None)
    assert len(bench.hear_message(OTHERS[2], seqno=4)) == 1


# Publishing.


def test_what_we_publish_goes_to_every_subscriber(bench: Bench) -> None:
    bench.connect(*OTHERS[:20])
    assert bench.router.publish(TOPIC, b"hello", bench.now) == 20
    wires = {bench.sent_to(one).publish for one in OTHERS[:20]}
    assert len(wires) == 1
    signed = SignedMessage.decode(wires.pop()[0])
    signed.verify()
    assert (signed.author, signed.data) == (bench.identity.peer_id, b"hello")


def test_sequence_numbers_grow(bench: Bench) -> None:
    bench.connect(AUTHOR)
    for _ in range(5):
        bench.router.publish(TOPIC, b"same", bench.now)
    numbers = [SignedMessage.decode(one).seqno for one in bench.sent_to(AUTHOR).publish]
    assert all(earlier < later for earlier, later in pairwise(numbers))


def test_what_we_publish_is_not_sent_to_peers_of_very_bad_score(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    bench.hear(STRANGER, Rpc(publish=(b"garbage",) * 2))
    assert bench.router.publish(TOPIC, b"hello", bench.now) == 1


def test_publishing_what_cannot_be_published_changes_nothing(bench: Bench) -> None:
    with pytest.raises(MessageTooLarge):
        bench.router.publish(TOPIC, bytes(2 << 20), bench.now)
    with pytest.raises(InvalidTopic):
        bench.router.publish("", b"x", bench.now)
    with pytest.raises(InvalidTopic):
        bench.router.join("", bench.now)
    assert bench.router.statistics.published == 0


def test_without_flooding_a_topic_we_did_not_join_has_a_fanout_that_ends() -> None:
    bench = Bench(Parameters(flood_publish=False))
    bench.connect(*OTHERS[:20])
    assert bench.router.publish(TOPIC, b"one", bench.now) == 6
    first = {one.peer_id for one in OTHERS[:20] if bench.sent_to(one).publish}
    bench.router.remove_peer(next(iter(first)), bench.now)
    bench.beat()
    assert bench.router.publish(TOPIC, b"two", bench.now) == 6
    second = {one.peer_id for one in OTHERS[:20] if bench.sent_to(one).publish}
    assert len(first & second) == 5
    bench.beat(61)
    assert not bench.router._fanout
    bench.router.publish(TOPIC, b"three", bench.now)
    bench.router.join(TOPIC, bench.now)
    assert not bench.router._fanout
    assert bench.router.publish(TOPIC, b"four", bench.now) == 6


def test_a_slow_peer_loses_its_oldest_messages_and_they_are_counted() -> None:
    bench = Bench(Parameters(queue_messages=4))
    bench.router.join(TOPIC, bench.now)
    bench.connect(AUTHOR)
    assert not bench.router.congested(TOPIC, bench.now)
    for number in range(10):
        bench.router.publish(TOPIC, b"%d" % number, bench.now)
    assert bench.router.congested(TOPIC, bench.now)
    assert bench.router.statistics.queue_drops == 6
    sent = [SignedMessage.decode(one).data for one in bench.sent_to(AUTHOR).publish]
    assert sent == [b"6", b"7", b"8", b"9"]


# Gossip.


def outsiders(bench: Bench) -> list[Identity]:
    return [
        one
        for one in OTHERS
        if one.peer_id in bench.router.subscribers(TOPIC)
        and one.peer_id not in bench.router.mesh(TOPIC)
    ]


def test_peers_outside_the_mesh_hear_of_messages_for_three_heartbeats(bench: Bench) -> None:
    bench.connect(*OTHERS[:9])
    bench.hear_message(OTHERS[0])
    heard = []
    for _ in range(4):
        bench.beat()
        heard.append([bench.sent_to(one).ihave for one in outsiders(bench)])
    announcement = (Announcement(TOPIC, (message().id,)),)
    assert heard == [[announcement] * 3] * 3 + [[()] * 3]


def test_a_new_subscriber_hears_at_once_of_what_it_has_just_missed(bench: Bench) -> None:
    bench.router.publish(TOPIC, b"early", bench.now)
    bench.router.add_peer(AUTHOR.peer_id, Version.V1_1, outbound=False, now=bench.now)
    toggles = ((TOPIC, True), (TOPIC, False)) * 100
    bench.hear(AUTHOR, Rpc(subscriptions=(*toggles, (TOPIC, True))))
    sent = bench.sent_to(AUTHOR)
    assert sent.graft == (TOPIC,)
    assert [len(one.ids) for one in sent.ihave] == [1]
    bench.hear(AUTHOR, Rpc(iwant=sent.ihave[0].ids))
    assert SignedMessage.decode(bench.sent_to(AUTHOR).publish[0]).data == b"early"


def test_gossip_goes_to_a_quarter_of_many_peers() -> None:
    bench = Bench(Parameters(degree_high=6))
    bench.router.join(TOPIC, bench.now)
    bench.connect(*OTHERS[:36])
    bench.hear_message(OTHERS[0])
    bench.beat()
    assert sum(bool(bench.sent_to(one).ihave) for one in OTHERS[:36]) == 8


def test_a_peer_that_asks_gets_the_message_three_times(bench: Bench) -> None:
    bench.connect(*OTHERS[:9])
    bench.hear_message(OTHERS[0])
    asker = outsiders(bench)[0]
    answers = []
    for _ in range(4):
        bench.hear(asker, Rpc(iwant=(message().id, b"unknown")))
        answers.append(bench.sent_to(asker).publish)
    assert answers == [(message().encode(),)] * 3 + [()]
    assert bench.router.statistics.recovered == 3


def test_what_was_not_seen_is_asked_for(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear_message(AUTHOR, seqno=1)
    names = (message(seqno=1).id, message(seqno=2).id)
    bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, names), Announcement("other", names))))
    assert bench.sent_to(AUTHOR).iwant == names[1:]


@pytest.mark.parametrize("form", IdForm)
def test_a_peer_is_spoken_to_in_its_own_spelling_of_names(bench: Bench, form: IdForm) -> None:
    bench.connect(*OTHERS[:9])
    peer = outsiders(bench)[0]
    name = write_id(message(seqno=1).id, form)
    bench.hear(peer, Rpc(ihave=(Announcement(TOPIC, (name,)),)))
    assert bench.sent_to(peer).iwant == (name,)
    bench.hear_message(peer, seqno=1)
    bench.beat(4)
    assert bench.router.statistics.broken_promises == 0
    bench.hear_message(OTHERS[0], seqno=2)
    bench.beat()
    later = write_id(message(seqno=2).id, form)
    assert bench.sent_to(peer).ihave == (Announcement(TOPIC, (later,)),)
    bench.hear(peer, Rpc(iwant=(later,)))
    assert bench.sent_to(peer).publish == (message(seqno=2).encode(),)


def test_a_new_subscriber_is_told_names_in_the_spelling_that_it_may_use(bench: Bench) -> None:
    bench.router.publish(TOPIC, b"early", bench.now)
    bench.router.add_peer(
        AUTHOR.peer_id, Version.V1_1, outbound=False, now=bench.now, id_form=IdForm.KEY
    )
    bench.hear(AUTHOR, Rpc(subscriptions=((TOPIC, True),)))
    assert bench.sent_to(AUTHOR).ihave[0].ids[0].startswith(b"\x08\x01")


def test_names_in_a_foreign_spelling_are_passed_over(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, (b"foreign",)),)))
    assert bench.sent_to(AUTHOR) == Rpc()
    assert bench.router.statistics.foreign_ids == 1


def test_one_peer_makes_us_ask_a_limited_number_of_times_in_a_heartbeat() -> None:
    bench = Bench(Parameters(max_ihave_messages=3, max_ihave_ids=8))
    bench.router.join(TOPIC, bench.now)
    bench.connect(AUTHOR)

    def announced(first: int, count: int) -> int:
        names = tuple(message(seqno=first + one).id for one in range(count))
        bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, names),)))
        return len(bench.sent_to(AUTHOR).iwant)

    assert [announced(0, 5), announced(10, 5), announced(20, 5)] == [5, 3, 0]
    bench.beat()
    assert [announced(30 + one, 1) for one in range(4)] == [1, 1, 1, 0]


def test_announcing_what_never_comes_is_held_against_the_peer(bench: Bench) -> None:
    bench.connect(AUTHOR)
    for number in range(8):
        bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, (message(seqno=number).id,)),)))
    bench.beat(5)
    assert bench.router.statistics.broken_promises == 8
    assert bench.router.score(AUTHOR.peer_id, bench.now) < 0


def test_a_promise_holds_if_anybody_brings_the_message(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, (message().id,)),)))
    bench.hear_message(STRANGER)
    bench.beat(5)
    assert bench.router.statistics.broken_promises == 0


def test_a_promise_is_not_broken_because_we_left_the_topic(bench: Bench) -> None:
    bench.connect(AUTHOR)
    bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, (message().id,)),)))
    bench.router.leave(TOPIC, bench.now)
    bench.hear_message(AUTHOR)
    bench.beat(5)
    assert bench.router.statistics.broken_promises == 0


def test_a_promise_is_not_kept_by_a_forgery_in_a_topic_that_we_did_not_join(bench: Bench) -> None:
    bench.connect(AUTHOR)
    for number in range(8):
        forged = replace(message(seqno=number, topic="elsewhere"), signature=bytes(64))
        bench.hear(AUTHOR, Rpc(ihave=(Announcement(TOPIC, (forged.id,)),)))
        bench.hear(AUTHOR, Rpc(publish=(forged.encode(),)))
    assert bench.router.score(AUTHOR.peer_id, bench.now) < 0


def test_gossip_of_a_peer_of_bad_score_is_not_heard_and_not_answered(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    bench.hear_message(AUTHOR)
    bench.hear(STRANGER, Rpc(publish=(b"garbage",)))
    bench.hear(
        STRANGER,
        Rpc(ihave=(Announcement(TOPIC, (message(seqno=5).id,)),), iwant=(message().id,)),
    )
    sent = bench.sent_to(STRANGER)
    assert sent.iwant == ()
    assert sent.publish == (message().encode(),)  # passed on before, not asked for
    bench.beat()
    assert bench.sent_to(STRANGER).ihave == ()


def test_a_large_message_is_declined_from_the_rest_of_the_mesh(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    bench.connect(OTHERS[0], version=Version.V1_1)
    bench.hear_message(AUTHOR, data=bytes(2000))
    assert bench.sent_to(STRANGER).idontwant == (message().id,)
    assert bench.sent_to(OTHERS[0]).idontwant == bench.sent_to(AUTHOR).idontwant == ()


def test_what_a_peer_declines_is_not_sent_to_it(bench: Bench) -> None:
    bench.connect(AUTHOR, STRANGER)
    bench.hear(STRANGER, Rpc(idontwant=(message(seqno=1).id,)))
    bench.hear_message(AUTHOR, seqno=1)
    bench.hear_message(AUTHOR, seqno=2)
    bench.hear(STRANGER, Rpc(idontwant=(message(seqno=2).id,)))
    assert bench.sent_to(STRANGER).publish == ()


def test_what_a_peer_declines_is_bounded_and_forgotten() -> None:
    bench = Bench(Parameters(max_idontwant_ids=10))
    bench.connect(AUTHOR)
    names = tuple(message(seqno=number).id for number in range(50))
    bench.hear(AUTHOR, Rpc(idontwant=names))
    assert len(bench.router._peers[AUTHOR.peer_id].unwanted) == 10
    bench.beat(4)
    assert not bench.router._peers[AUTHOR.peer_id].unwanted


def test_heartbeats_that_were_missed_are_not_made_up_for(bench: Bench) -> None:
    bench.now += 100
    bench.router.handle_timeout(bench.now)
    assert bench.router.next_timeout() == bench.now + 1
    before = bench.router.next_timeout()
    bench.router.handle_timeout(before - 0.5)
    assert bench.router.next_timeout() == before


def test_counters_have_names(bench: Bench) -> None:
    bench.router.publish(TOPIC, b"x", bench.now)
    assert bench.router.statistics.as_dict()["published"] == 1
