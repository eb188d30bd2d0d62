from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.transport.memory import (
    MemoryAddressError,
    MemoryLink,
    MemoryNetwork,
    NobodyListens,
)
from lattica.transport.multiaddr import Multiaddr

ANY = Multiaddr.parse("/memory/0")


async def link_pair(network: MemoryNetwork) -> tuple[MemoryLink, MemoryLink]:
    listener = await network.transport("bob").listen(ANY)
    near = await network.transport("alice").dial(listener.addresses[0])
    return near, await listener.accept()


async def receive(link: MemoryLink, size: int = 1 << 16) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: await link.receive_into(memoryview(buffer))])


async def send_all(link: MemoryLink, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await link.send_some(view) :]


async def receive_all(link: MemoryLink) -> bytes:
    data = b""
    while piece := await receive(link):
        data += piece
    return data


async def test_bytes_arrive_in_order_and_then_the_end() -> None:
    near, far = await link_pair(MemoryNetwork())
    await send_all(near, b"hello ")
    await send_all(near, b"world")
    near.close()
    assert await receive_all(far) == b"hello world"
    with pytest.raises(trio.BrokenResourceError):
        await far.send_some(memoryview(b"x"))
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_into(memoryview(bytearray(1)))
    with pytest.raises(trio.ClosedResourceError):
        await near.send_some(memoryview(b"x"))


async def test_latency_and_bandwidth_are_read_off_the_clock(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(latency=0.5, bandwidth=1000.0)
    start = trio.current_time()
    near, far = await link_pair(network)
    assert trio.current_time() - start == pytest.approx(1.0)
    start = trio.current_time()
    await send_all(near, bytes(1000))
    assert trio.current_time() == start
    await send_all(near, bytes(500))
    near.close()
    assert len(await receive(far)) == 1000
    assert trio.current_time() - start == pytest.approx(1.5)
    assert len(await receive_all(far)) == 500
    assert trio.current_time() - start == pytest.approx(2.0)


async def test_a_sender_waits_for_a_slow_reader() -> None:
    near, far = await link_pair(MemoryNetwork(window_bytes=100))
    assert await near.send_some(memoryview(bytes(1000))) == 100
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, near, b"x")
        await wait_all_tasks_blocked()
        assert await receive(far, 60) == bytes(60)
    assert await receive(far, 60) == bytes(40) + b"x"


async def test_a_cancelled_call_moves_nothing() -> None:
    near, far = await link_pair(MemoryNetwork(window_bytes=4))
    await send_all(near, b"full")
    for call in (near.send_some(memoryview(b"lost")), near.receive_into(memoryview(bytearray(9)))):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call
        assert scope.cancelled_caught
    assert await receive(far) == b"full"
    await send_all(far, b"back")
    assert await receive(near) == b"back"


@pytest.mark.parametrize("seed", range(5))
async def test_odd_splits_and_jitter_keep_the_order(autojump_clock: MockClock, seed: int) -> None:
    rng = random.Random(seed)
    network = MemoryNetwork(latency=0.01, jitter=0.02, rng=rng, window_bytes=777)
    near, far = await link_pair(network)
    data = rng.randbytes(5000)

    async def sender() -> None:
        await send_all(near, data)
        near.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender)
        assert await receive_all(far) == data


async def test_closing_wakes_whoever_waits_on_either_end() -> None:
    near, far = await link_pair(MemoryNetwork(window_bytes=1))
    await send_all(near, b"x")
    outcomes: list[str] = []

    async def waits(call: trio.abc.ReceiveStream | object, name: str) -> None:
        try:
            await call  # type: ignore[misc]  # a coroutine
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            outcomes.append(f"{name} {type(error).__name__}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits, near.send_some(memoryview(b"y")), "near sends")
        nursery.start_soon(waits, near.receive_into(memoryview(bytearray(1))), "near receives")
        await wait_all_tasks_blocked()
        near.close()
    assert sorted(outcomes) == [
        "near receives ClosedResourceError",
        "near sends ClosedResourceError",
    ]

    near, far = await link_pair(MemoryNetwork(window_bytes=1))
    await send_all(near, b"x")
    outcomes.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits, near.send_some(memoryview(b"y")), "near sends")
        await wait_all_tasks_blocked()
        far.close()
    assert outcomes == ["near sends BrokenResourceError"]


async def test_a_cut_is_silent_and_healing_delivers_what_waited(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    near, far = await link_pair(network)
    network.cut("alice", "bob")
    await send_all(near, b"later")
    near.close()
    with trio.move_on_after(60) as scope:
        await receive(far)
    assert scope.cancelled_caught
    listener = await network.transport("bob").listen(ANY)
    with trio.move_on_after(60) as scope:
        await network.transport("alice").dial(listener.addresses[0])
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.transport("carol").dial, listener.addresses[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.transport("alice").dial, listener.addresses[0])
        await wait_all_tasks_blocked()
        network.heal("bob", "alice")
        assert await receive_all(far) == b"later"


async def test_a_crash_breaks_links_at_once_and_frees_the_number() -> None:
    network = MemoryNetwork()
    bound = Multiaddr.parse("/memory/7")
    listener = await network.transport("bob").listen(bound)
    near = await network.transport("alice").dial(bound)
    far = await listener.accept()
    network.crash("bob")
    for link in (near, far):
        with pytest.raises(trio.BrokenResourceError):
            await receive(link)
        with pytest.raises(trio.BrokenResourceError):
            await link.send_some(memoryview(b"x"))
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    with pytest.raises(NobodyListens):
        await network.transport("alice").dial(bound)
    await network.transport("bob").listen(bound)
    near.close()
    far.close()
    assert network.open_links == 0


async def test_addresses_that_cannot_be_bound_or_dialled_are_typed_errors() -> None:
    network = MemoryNetwork()
    transport = network.transport()
    listener = await transport.listen(Multiaddr.parse("/memory/1"))
    for text in ("/memory/1", "/ip4/127.0.0.1/tcp/1", "/memory/2/tls"):
        with pytest.raises(MemoryAddressError):
            await transport.listen(Multiaddr.parse(text))
    assert not transport.can_dial(Multiaddr.parse("/ip4/127.0.0.1/tcp/1"))
    with pytest.raises(NobodyListens):
        await transport.dial(Multiaddr.parse("/ip4/127.0.0.1/tcp/1"))
    with pytest.raises(NobodyListens):
        await transport.dial(Multiaddr.parse("/memory/9"))
    listener.close()
    listener.close()
    await transport.listen(Multiaddr.parse("/memory/1"))


async def test_a_full_backlog_refuses_and_closing_it_closes_what_nobody_took() -> None:
    network = MemoryNetwork()
    listener = await network.transport().listen(Multiaddr.parse("/memory/1"), backlog=1)
    near = await network.transport().dial(listener.addresses[0])
    with pytest.raises(NobodyListens, match="no more"):
        await network.transport().dial(listener.addresses[0])
    listener.close()
    assert await receive(near) == b""
    near.close()
    assert network.open_links == 0


async def test_a_dialer_that_listens_is_seen_under_its_own_number() -> None:
    network = MemoryNetwork()
    listener = await network.transport("bob").listen(ANY)
    own = await network.transport("alice").listen(Multiaddr.parse("/memory/5"))
    await network.transport("alice").dial(listener.addresses[0])
    assert (await listener.accept()).remote_address == own.addresses[0]
