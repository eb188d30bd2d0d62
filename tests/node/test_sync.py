"""The blocking node: the same methods, from threads without a loop, and nowhere else."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

import lattica
from lattica.errors import DeadlineExceeded, InvalidInput
from lattica.node import NodeOptions
from lattica.sync import InsideEventLoop, NodeClosed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL: dict[str, Any] = {"listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": False}
NOT_IN_THE_BLOCKING_ONE = {
    *("mesh", "pubsub", "store", "exchange", "ticket", "wait_unused"),
    *("tell_own_names", "tell_statements"),  # for commands that end at once
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[lattica.Node, lattica.Node]]:
    with lattica.Node(tmp_path / "a", **LOCAL) as a, lattica.Node(tmp_path / "b", **LOCAL) as b:
        yield a, b


def test_a_file_is_shared_and_got(pair: tuple[lattica.Node, lattica.Node], tmp_path: Path) -> None:
    a, b = pair
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 4000)
    shared = a.share(tmp_path / "model.bin")
    got = b.get(shared.ticket, tmp_path / "copy.bin")
    assert got.path.read_bytes() == (tmp_path / "model.bin").read_bytes()
    assert [row.cid for row in b.objects()] == [shared.cid]
    assert b.peers()[0].peer == a.id
    assert b.ping(a.id, count=1).peer == a.id
    assert a.verify(shared.cid).damaged_count == 0
    assert a.status().home == a.home


def test_parts_of_a_file_are_read(pair: tuple[lattica.Node, lattica.Node], tmp_path: Path) -> None:
    a, b = pair
    content = bytes(range(256)) * 8000
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "model.bin").write_bytes(content)
    shared = a.share(tmp_path / "tree")
    with b.open(shared.ticket) as tree:
        assert [(file.path, file.size) for file in tree.files()] == [("model.bin", len(content))]
        reader = tree.open("model.bin")
        assert reader.read(1_000_000, 77) == content[1_000_000:1_000_077]
        assert b"".join(reader.stream(5)) == content[5:]
    out = bytearray(10)
    assert b.read(shared.ticket, 256, 9, path="model.bin", out=out) == bytes(range(9))
    written = b.read_to(shared.ticket, 3, 4, tmp_path / "part", path="model.bin")
    assert written.path.read_bytes() == bytes(range(3, 7))
    with pytest.raises(InvalidInput, match="exists"):
        b.read_to(shared.ticket, 3, 4, tmp_path / "part", path="model.bin")
    with pytest.raises(InvalidInput, match="of a file of"), b.open(shared.ticket, "model.bin") as r:
        r.read(len(content), 1)


def test_the_store_keeps_what_is_pinned_and_mends_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "other.bin").write_bytes(os.urandom(700_000))
    with (
        lattica.Node(tmp_path / "a", **LOCAL) as a,
        lattica.Node(tmp_path / "b", quota="2M", **LOCAL) as b,
    ):
        first, second = a.share(tmp_path / "model.bin"), a.share(tmp_path / "other.bin")
        cached = b.cache(first.ticket, pin=True)
        assert cached.path.is_relative_to(tmp_path / "b")
        with cached.path.open("r+b") as file:
            file.write(b"damage")
        assert b.verify(first.cid).damaged_count == 1
        mended = b.verify(first.ticket, repair=True)
        assert (mended.damaged_count, mended.repaired_bytes) == (0, 256 << 10)
        b.cache(second.ticket)
        b.pin(second.cid)
        b.unpin(second.cid)
        usage = b.usage()
        assert usage.quota == 2 << 20
        assert {item.cid: item.pinned for item in usage.objects} == {
            first.cid: True,
            second.cid: False,
        }
        assert b.collect_garbage().forgotten == ()


def test_messages_are_an_iterator(pair: tuple[lattica.Node, lattica.Node]) -> None:
    a, b = pair
    b.ping(a.addresses[0], count=1)
    with b.subscribe("rounds") as messages:
        sender = threading.Thread(target=_publish_until_heard, args=(a,))
        sender.start()
        assert next(messages).data == b"hello"
        sender.join()


def _publish_until_heard(node: lattica.Node) -> None:
    while not node.broadcast("rounds", b"hello"):
        pass


def test_errors_and_deadlines_come_through(
    pair: tuple[lattica.Node, lattica.Node], tmp_path: Path
) -> None:
    _, b = pair
    with pytest.raises(InvalidInput, match="neither a ticket nor a CID"):
        b.get("nonsense")
    with pytest.raises(DeadlineExceeded):
        b.get(lattica.CID.of(b"absent"), tmp_path / "x", timeout=0.2)


def test_it_offers_what_the_async_node_offers() -> None:
    theirs = {name for name in dir(lattica.AsyncNode) if not name.startswith("_")}
    ours = {name for name in dir(lattica.Node) if not name.startswith("_")}
    ours.remove("dht")  # an attribute over there, with methods of its own
    assert theirs - NOT_IN_THE_BLOCKING_ONE == ours
    for name in ours:
        blocking, waiting = getattr(lattica.Node, name), getattr(lattica.AsyncNode, name)
        if inspect.isfunction(blocking) and name not in ("subscribe", "open", "open_latest"):
            assert list(inspect.signature(blocking).parameters) == list(
                inspect.signature(waiting).parameters
            )


def test_help_explains_what_a_method_takes() -> None:
    told = {name: inspect.getdoc(getattr(lattica.Node, name)) or "" for name in dir(lattica.Node)}
    assert "seconds for all of it" in told["get"]
    assert "an SPDX expression" in told["publish"]
    assert not [name for name, text in told.items() if "see `AsyncNode" in text]


def test_it_takes_what_open_node_takes() -> None:
    taken = inspect.signature(lattica.open_node).parameters.values()
    keywords = {one.name: one.annotation for one in taken if one.kind is one.KEYWORD_ONLY}
    assert {
        name: form.__forward_arg__ for name, form in NodeOptions.__annotations__.items()
    } == keywords


def test_inside_trio_it_names_what_to_use(tmp_path: Path) -> None:
    async def main() -> None:
        with lattica.Node(tmp_path, **LOCAL):
            pass

    with pytest.raises(InsideEventLoop) as caught:
        trio.run(main)
    assert "open_node" in caught.value.hint


def test_inside_asyncio_it_names_what_to_use(tmp_path: Path) -> None:
    async def main() -> None:
        with lattica.Node(tmp_path, **LOCAL):
            pass

    with pytest.raises(InsideEventLoop):
        asyncio.run(main())


def test_outside_its_block_it_is_closed(tmp_path: Path) -> None:
    node = lattica.Node(tmp_path / "a", **LOCAL)
    with pytest.raises(NodeClosed):
        node.peers()
    with node:
        assert node.peers() == []
    with pytest.raises(NodeClosed):
        node.peers()


def test_a_node_that_cannot_start_says_why_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(InvalidInput):
        with lattica.Node(tmp_path / "a", listen=["nonsense"]):
            pass
    assert threading.active_count() == before


def test_the_end_of_the_block_ends_calls_that_wait(tmp_path: Path) -> None:
    outcome: list[BaseException] = []

    def wait_forever(node: lattica.Node, begun: threading.Event) -> None:
        begun.set()
        try:
            node.serve_forever()
        except NodeClosed as error:
            outcome.append(error)

    begun = threading.Event()
    with lattica.Node(tmp_path / "a", **LOCAL) as node:
        waiter = threading.Thread(target=wait_forever, args=(node, begun))
        waiter.start()
        begun.wait()
        node.peers()  # by now the other call, handed over before, waits in the node
    waiter.join()
    assert len(outcome) == 1


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_the_call_in_the_node(tmp_path: Path) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def wait(_node: lattica.AsyncNode) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    main = threading.get_ident()

    def press_ctrl_c() -> None:
        begun.wait()
        while sys._current_frames()[main].f_code.co_name != "wait":
            pass  # until the main thread waits for the call's end
        os.kill(os.getpid(), signal.SIGINT)

    with lattica.Node(tmp_path / "a", **LOCAL) as node:
        thread = threading.Thread(target=press_ctrl_c)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            node._call(wait)
        assert cancelled.is_set()
        thread.join()
        assert node.peers() == []


def test_a_subscription_to_a_node_that_stops_does_not_wait_for_ever(
    pair: tuple[lattica.Node, lattica.Node],
) -> None:
    pair[0]._running().stop()  # what is begun from now on is settled without being carried out
    with pytest.raises(NodeClosed), pair[0].subscribe("rounds"):
        pytest.fail("it is not subscribed")


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_senseless_timeout_is_wrong_input(
    pair: tuple[lattica.Node, lattica.Node], tmp_path: Path, timeout: float
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="timeout"):
        pair[0].share(tmp_path / "file", timeout=timeout)
