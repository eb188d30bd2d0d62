"""Peers are judged by what they did, forgiven in time, and not by dialling again."""

from __future__ import annotations

from lattica.identity import Identity, PeerId
from lattica.pubsub import ScoreParameters
from lattica.pubsub._score import Scores

PEER = Identity(bytes(32)).peer_id


def make_scores(**changes: float) -> Scores:
    scores = Scores(ScoreParameters(**changes))  # type: ignore[arg-type]  # one field is an int
    scores.add_peer(PEER, 0)
    return scores


def test_a_stranger_scores_nothing() -> None:
    assert make_scores().score(PEER, 0) == 0


def test_the_third_invalid_message_in_a_row_graylists() -> None:
    scores = make_scores()
    seen = []
    for _ in range(3):
        scores.invalid_message(PEER, 0)
        seen.append(scores.graylisted(PEER, 0))
    assert seen == [False, False, True]


def test_one_invalid_message_is_forgiven_after_some_minutes() -> None:
    scores = make_scores()
    scores.invalid_message(PEER, 0)
    assert scores.score(PEER, 60) < 0
    assert scores.score(PEER, 240) == 0


def test_a_few_penalties_are_forgiven_and_more_are_not() -> None:
    scores = make_scores()
    scores.misbehaved(PEER, 0, times=4)
    assert scores.score(PEER, 0) == 0
    scores.misbehaved(PEER, 0, times=3)
    assert scores.graylisted(PEER, 0)


def test_first_deliveries_count_a_little_up_to_a_cap() -> None:
    scores = make_scores()
    for _ in range(1000):
        scores.delivered_first(PEER, 0)
    assert scores.score(PEER, 0) == 10
    scores.invalid_message(PEER, 0)
    assert scores.score(PEER, 0) < 0


def test_a_bad_score_outlives_the_connection_for_a_while() -> None:
    scores = make_scores(invalid_decay=1.0)
    scores.invalid_message(PEER, 0)
    scores.remove_peer(PEER, 10)
    scores.add_peer(PEER, 500)
    assert scores.score(PEER, 500) < 0
    scores.remove_peer(PEER, 500)
    scores.add_peer(PEER, 1200)
    assert scores.score(PEER, 1200) == 0


def test_a_good_score_is_not_kept_for_those_who_leave() -> None:
    scores = make_scores()
    scores.delivered_first(PEER, 0)
    scores.remove_peer(PEER, 0)
    assert len(scores) == 0


def test_bad_scores_of_the_absent_are_bounded() -> None:
    scores = make_scores(max_retained=10)
    for number in range(50):
        peer = PeerId(b"\0\x01" + bytes([number]))
        scores.add_peer(peer, 0)
        scores.invalid_message(peer, 0)
        scores.remove_peer(peer, 0)
    assert len(scores) == 11


def test_judging_the_absent_keeps_nothing() -> None:
    scores = make_scores()
    scores.misbehaved(PeerId(b"\0\x01a"), 0)
    assert scores.score(PeerId(b"\0\x01a"), 0) == 0
    assert len(scores) == 1
