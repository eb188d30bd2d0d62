"""What waits for a peer: control first, bounded, the last word only."""

from __future__ import annotations

from lattica.pubsub._messages import (
    MAX_MESSAGE,
    MAX_RPC,
    MAX_TOPIC,
    Announcement,
    Prune,
    Rpc,
    decode_rpc,
)
from lattica.pubsub._outbox import Outbox


def make_outbox(*, messages: int = 100, size_bytes: int = 4 << 20, ids: int = 5000) -> Outbox:
    return Outbox(lambda: None, messages=messages, size_bytes=size_bytes, ids=ids)


def drain(outbox: Outbox) -> list[Rpc]:
    rpcs = []
    while (wire := outbox.next_rpc()) is not None:
        assert len(wire) <= MAX_RPC
        rpcs.append(decode_rpc(wire))
        assert len(rpcs) < 1000
    return rpcs


def test_an_empty_outbox_has_no_rpc() -> None:
    assert make_outbox().next_rpc() is None


def test_all_that_waits_goes_in_one_rpc_if_it_fits() -> None:
    outbox = make_outbox()
    outbox.message(b"id", b"message")
    outbox.subscription("a", wanted=True)
    outbox.graft("a")
    outbox.prune("b", 60)
    outbox.want([b"x", b"y"])
    outbox.decline(b"z")
    outbox.announce("a", [b"1", b"2"])
    assert drain(outbox) == [
        Rpc(
            subscriptions=(("a", True),),
            publish=(b"message",),
            ihave=(Announcement("a", (b"1", b"2")),),
            iwant=(b"x", b"y"),
            graft=("a",),
            prune=(Prune("b", 60),),
            idontwant=(b"z",),
        )
    ]


def test_control_goes_before_messages_that_waited_longer() -> None:
    outbox = make_outbox()
    for number in range(3):
        outbox.message(b"%d" % number, bytes(MAX_MESSAGE))
    outbox.graft("a")
    rpcs = drain(outbox)
    assert [len(rpc.graft) for rpc in rpcs] == [1, 0, 0]
    assert [len(rpc.publish) for rpc in rpcs] == [1, 1, 1]


def test_small_messages_leave_in_rpcs_of_modest_size() -> None:
    outbox = make_outbox()
    for number in range(100):
        outbox.message(b"%d" % number, bytes(10_000))
    rpcs = drain(outbox)
    assert [len(rpc.publish) for rpc in rpcs] == [14] * 7 + [2]


def test_of_each_topic_the_last_word_waits() -> None:
    outbox = make_outbox()
    for _ in range(1000):
        outbox.subscription("a", wanted=True)
        outbox.graft("a")
        outbox.subscription("a", wanted=False)
        outbox.prune("a", 10)
        outbox.announce("a", [b"old"])
    outbox.announce("a", [b"new"])
    assert drain(outbox) == [
        Rpc(
            subscriptions=(("a", False),),
            ihave=(Announcement("a", (b"new",)),),
            prune=(Prune("a", 10),),
        )
    ]


def test_too_many_messages_drop_the_oldest_and_say_so() -> None:
    outbox = make_outbox(messages=3)
    dropped = sum(outbox.message(b"%d" % number, b"m%d" % number) for number in range(5))
    assert dropped == 2
    assert drain(outbox)[0].publish == (b"m2", b"m3", b"m4")


def test_messages_too_large_together_drop_the_oldest() -> None:
    outbox = make_outbox(size_bytes=250)
    for number in range(5):
        outbox.message(b"%d" % number, bytes(100))
    assert outbox.size_bytes == 200
    drain(outbox)
    assert outbox.size_bytes == 0


def test_a_message_that_the_peer_declined_is_taken_back() -> None:
    outbox = make_outbox()
    outbox.message(b"id", b"message")
    outbox.cancel(b"id")
    outbox.cancel(b"id")
    assert outbox.next_rpc() is None
    assert outbox.size_bytes == 0


def test_the_same_message_waits_once() -> None:
    outbox = make_outbox()
    outbox.message(b"id", b"message")
    outbox.message(b"id", b"message")
    assert drain(outbox)[0].publish == (b"message",)


def test_more_requests_than_an_outbox_holds_are_not_made() -> None:
    outbox = make_outbox(ids=3)
    outbox.want(b"%d" % number for number in range(5))
    assert drain(outbox)[0].iwant == (b"0", b"1", b"2")


def test_an_outbox_is_congested_when_half_full() -> None:
    outbox = make_outbox(messages=10)
    for number in range(5):
        outbox.message(b"%d" % number, b"m")
    assert not outbox.congested
    outbox.message(b"more", b"m")
    assert outbox.congested


def test_the_largest_of_everything_still_leaves_in_whole_rpcs() -> None:
    outbox = make_outbox(size_bytes=16 << 20)
    for number in range(1024):
        topic = f"{number:04}".ljust(MAX_TOPIC, "x")
        outbox.subscription(topic, wanted=True)
        outbox.graft(topic)
    ids = [b"%044d" % number for number in range(5000)]
    outbox.want(ids)
    for topic in "abcd":
        outbox.announce(topic, ids)
    for number in range(4):
        outbox.message(b"%d" % number, bytes(MAX_MESSAGE))
    rpcs = drain(outbox)
    assert sum(len(rpc.subscriptions) for rpc in rpcs) == 1024
    assert sum(len(rpc.graft) for rpc in rpcs) == 1024
    assert sum(len(rpc.iwant) for rpc in rpcs) == 5000
    assert sum(len(one.ids) for rpc in rpcs for one in rpc.ihave) == 20_000
    assert sum(len(rpc.publish) for rpc in rpcs) == 4


def test_what_is_put_in_is_told() -> None:
    told: list[int] = []
    outbox = Outbox(lambda: told.append(1), messages=1, size_bytes=100, ids=1)
    outbox.subscription("a", wanted=True)
    outbox.graft("a")
    outbox.prune("a", 1)
    outbox.want([b"x"])
    outbox.decline(b"x")
    outbox.announce("a", [b"x"])
    outbox.message(b"x", b"m")
    assert len(told) == 7
