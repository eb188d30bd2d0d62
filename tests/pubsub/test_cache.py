"""What the router remembers, and that it forgets."""

from __future__ import annotations

from lattica.identity import Identity
from lattica.pubsub._cache import MessageCache, SeenCache

PEER = Identity(bytes(32)).peer_id
OTHER = Identity(bytes(range(32))).peer_id


def make_cache(*, messages: int = 100, size_bytes: int = 10_000) -> MessageCache:
    return MessageCache(windows=5, gossip_windows=3, messages=messages, size_bytes=size_bytes)


def test_a_message_can_be_asked_for_during_five_windows() -> None:
    cache = make_cache()
    cache.put(b"id", "news", b"message")
    for _ in range(4):
        cache.shift()
        assert cache.serve(b"id", PEER, limit=10) == b"message"
    cache.shift()
    assert cache.serve(b"id", PEER, limit=10) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_a_message_is_announced_during_three_windows_and_in_its_topic_alone() -> None:
    cache = make_cache()
    cache.put(b"id", "news", b"message")
    for _ in range(3):
        assert cache.recent_ids("news") == [b"id"]
        assert cache.recent_ids("other") == []
        cache.shift()
    assert cache.recent_ids("news") == []


def test_one_peer_gets_the_same_message_a_limited_number_of_times() -> None:
    cache = make_cache()
    cache.put(b"id", "news", b"message")
    assert [cache.serve(b"id", PEER, limit=2) for _ in range(3)] == [b"message", b"message", None]
    assert cache.serve(b"id", OTHER, limit=2) == b"message"


def test_the_oldest_messages_go_when_there_are_too_many() -> None:
    cache = make_cache(messages=3)
    for number in range(5):
        cache.put(b"%d" % number, "news", b"message")
    assert sorted(cache.recent_ids("news")) == [b"2", b"3", b"4"]


def test_the_oldest_messages_go_when_they_are_too_large_together() -> None:
    cache = make_cache(size_bytes=250)
    for number in range(5):
        cache.put(b"%d" % number, "news", bytes(100))
    assert sorted(cache.recent_ids("news")) == [b"3", b"4"]
    assert cache.size_bytes == 200


def test_a_message_put_twice_counts_once() -> None:
    cache = make_cache()
    cache.put(b"id", "news", b"message")
    cache.put(b"id", "news", b"message")
    assert (len(cache), cache.size_bytes) == (1, 7)


def test_an_identifier_is_seen_until_its_time_is_over() -> None:
    seen = SeenCache(ttl_seconds=120, limit=10)
    seen.add(b"a", 0)
    seen.add(b"b", 60, rejected=True)
    seen.expire(119.9)
    assert (seen.get(b"a"), seen.get(b"b")) == (False, True)
    seen.expire(120)
    assert (seen.get(b"a"), seen.get(b"b")) == (None, True)


def test_the_oldest_identifiers_go_when_there_are_too_many() -> None:
    seen = SeenCache(ttl_seconds=120, limit=3)
    for number in range(5):
        seen.add(b"%d" % number, 0)
    assert [b"%d" % number in seen for number in range(5)] == [False, False, True, True, True]
    assert len(seen) == 3


def test_a_flood_within_one_heartbeat_leaves_no_names_behind() -> None:
    cache = MessageCache(windows=5, gossip_windows=3, messages=10, size_bytes=1 << 20)
    for number in range(1000):
        cache.put(b"%d" % number, "topic", b"x")
    assert len(cache) == 10
    assert sum(len(window) for window in cache._windows) == 10
    assert len(cache.recent_ids("topic")) == 10
