from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import InvalidInput, Unreachable
from lattica.transport.multiaddr import Multiaddr
from lattica.transport.tcp import (
    AddressInUse,
    CannotListen,
    ConnectFailed,
    NameNotFound,
    TcpLink,
    TcpTransport,
)

SIOCOUTQNSD = 0x894B  # bytes that were not sent yet
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


async def link_pair(address: Multiaddr = LOOPBACK) -> tuple[TcpLink, TcpLink]:
    transport = TcpTransport()
    listener = await transport.listen(address)
    near = await transport.dial(listener.addresses[0])
    far = await listener.accept()
    listener.close()
    return near, far


async def receive(link: TcpLink, size: int = 1 << 16) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: await link.receive_into(memoryview(buffer))])


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/0",
        pytest.param(
            "/ip6/::1/tcp/0", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
        ),
    ],
)
async def test_bytes_pass_both_ways_and_then_the_end(text: str) -> None:
    near, far = await link_pair(Multiaddr.parse(text))
    assert near.remote_address == far.local_address
    assert near.local_address == far.remote_address
    assert await near.send_some(memoryview(b"ping")) == 4
    assert await receive(far) == b"ping"
    assert await far.send_some(memoryview(b"pong")) == 4
    assert await receive(near) == b"pong"
    near.close()
    near.close()
    assert await receive(far) == b""
    far.close()


async def test_a_megabyte_goes_through_in_parts() -> None:
    near, far = await link_pair()
    data = os.urandom(4 << 20)

    async def send() -> None:
        view = memoryview(data)
        while view:
            view = view[await near.send_some(view) :]
        near.close()

    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await receive(far, 1 << 18):
            got += piece
    assert got == data
    far.close()


async def test_the_buffer_is_written_in_the_step_that_returns() -> None:
    near, far = await link_pair()
    buffer = bytearray(8)
    await near.send_some(memoryview(b"x"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.receive_into(memoryview(buffer))
    assert scope.cancelled_caught
    assert buffer == bytes(8)
    assert await receive(far) == b"x"
    near.close()
    far.close()


async def test_a_cancelled_send_has_sent_nothing() -> None:
    near, far = await link_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.send_some(memoryview(b"lost"))
    assert scope.cancelled_caught
    await near.send_some(memoryview(b"kept"))
    assert await receive(far) == b"kept"
    near.close()
    far.close()


async def test_closing_wakes_whoever_waits() -> None:
    near, far = await link_pair()

    async def reader() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await receive(near)

    async def writer() -> None:
        with pytest.raises(trio.ClosedResourceError):
            while True:
                await near.send_some(memoryview(bytes(1 << 16)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        nursery.start_soon(writer)
        await wait_all_tasks_blocked(0.05)
        near.close()
    with pytest.raises(trio.ClosedResourceError):
        await receive(near)
    with pytest.raises(trio.ClosedResourceError):
        await near.send_some(memoryview(b"x"))
    far.close()


async def test_a_reset_breaks_the_link() -> None:
    near, far = await link_pair()
    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    with pytest.raises(trio.BrokenResourceError):
        await receive(near)
    near.close()


async def test_sockets_are_tuned_for_frames_and_find_the_dead() -> None:
    near, far = await link_pair()
    for link in (near, far):
        assert link.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert link.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        link.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' count of unsent bytes")
async def test_little_waits_in_the_kernel_where_nothing_can_overtake_it() -> None:
    near, far = await link_pair()
    chunk = memoryview(bytes(1 << 16))
    with trio.move_on_after(0.1):
        while True:
            await near.send_some(chunk)
    counted = fcntl.ioctl(near.socket.fileno(), SIOCOUTQNSD, bytes(4))
    assert int.from_bytes(counted, sys.byteorder) <= 512 << 10
    near.close()
    far.close()


async def test_a_port_in_use_is_named_with_the_remedy() -> None:
    listener = await TcpTransport().listen(LOOPBACK)
    bound = listener.addresses[0]
    with pytest.raises(AddressInUse) as caught:
        await TcpTransport().listen(bound)
    assert caught.value.port == int(bound.parts[1][1])
    assert str(caught.value.port) in str(caught.value)
    assert "another port" in caught.value.hint
    listener.close()
    again = await TcpTransport().listen(bound)
    again.close()


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/tcp/0",
        "/dns4/localhost/tcp/0",
        "/ip4/127.0.0.1/udp/0",
        "/ip4/127.0.0.1/tcp/0/ws",
        "/memory/1",
    ],
)
async def test_an_address_that_cannot_be_bound_is_a_typed_error(text: str) -> None:
    with pytest.raises(CannotListen) as caught:
        await TcpTransport().listen(Multiaddr.parse(text))
    assert isinstance(caught.value, InvalidInput)


@pytest.mark.parametrize(
    ("text", "dialable"),
    [
        ("/ip4/127.0.0.1/tcp/1", True),
        ("/ip6/::1/tcp/1", True),
        ("/dns/example.org/tcp/1", True),
        ("/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", True),
        ("/ip4/127.0.0.1/tcp/0", False),
        ("/ip4/0.0.0.0/tcp/1", False),
        ("/ip4/127.0.0.1/tcp/1/ws", False),
        ("/ip4/127.0.0.1/udp/1", False),
        ("/dnsaddr/example.org", False),
        ("/ip4/127.0.0.1", False),
    ],
)
def test_it_dials_tcp_and_nothing_else(text: str, dialable: bool) -> None:
    assert TcpTransport().can_dial(Multiaddr.parse(text)) is dialable


async def test_a_closed_port_is_unreachable() -> None:
    listener = await TcpTransport().listen(LOOPBACK)
    listener.close()
    with pytest.raises(ConnectFailed, match="refused") as caught:
        await TcpTransport().dial(listener.addresses[0])
    assert isinstance(caught.value, Unreachable)
    with pytest.raises(ConnectFailed, match="not a TCP address"):
        await TcpTransport().dial(Multiaddr.parse("/memory/1"))


def fake_getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002
    """Know one name; never ask the network."""
    if host != "twice.example":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
        for text in ("127.0.0.2", "127.0.0.1")
    ]


async def test_each_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = await TcpTransport().listen(LOOPBACK)
    port = listener.addresses[0].parts[1][1]
    monkeypatch.setattr(socket, "getaddrinfo", fake_getaddrinfo)
    address = Multiaddr.parse(f"/dns4/twice.example/tcp/{port}")
    link = await TcpTransport().dial(address)
    assert link.remote_address == listener.addresses[0]
    link.close()
    listener.close()
    with pytest.raises(ConnectFailed, match=r"twice\.example: .*refused; .*refused"):
        await TcpTransport().dial(address)
    with pytest.raises(NameNotFound, match=r"once\.example"):
        await TcpTransport().dial(Multiaddr.parse(f"/dns/once.example/tcp/{port}"))


async def test_a_name_that_a_stranger_told_leads_to_the_internet_or_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = await TcpTransport().listen(LOOPBACK)
    port = listener.addresses[0].parts[1][1]
    monkeypatch.setattr(socket, "getaddrinfo", fake_getaddrinfo)
    address = Multiaddr.parse(f"/dns4/twice.example/tcp/{port}")
    with pytest.raises(ConnectFailed, match=r"twice\.example leads to no public address"):
        await TcpTransport().dial_public(address)
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
        await listener.accept()  # nobody has knocked
    listener.close()


async def test_names_that_nobody_answers_for_hold_up_no_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer.wait(10) and [])
    transport = TcpTransport()

    async def dial(number: int) -> None:
        with pytest.raises(NameNotFound):
            await transport.dial(Multiaddr.parse(f"/dns4/slow{number}.example/tcp/1"))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for number in range(60):  # more than the program has threads
                nursery.start_soon(dial, number)
            await wait_all_tasks_blocked()
            assert transport._lookups.borrowed_tokens == 16
            await trio.to_thread.run_sync(answer.set)


async def test_a_process_out_of_descriptors_says_so_and_can_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = await TcpTransport().listen(LOOPBACK)
    near = await TcpTransport().dial(listener.addresses[0])

    class Exhausted:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def fileno(self) -> int:
            return self.sock.fileno()

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

    real = listener._sock
    monkeypatch.setattr(listener, "_sock", Exhausted(real))
    with pytest.raises(trio.BusyResourceError, match="too many open files"):
        await listener.accept()
    monkeypatch.setattr(listener, "_sock", real)
    (await listener.accept()).close()
    near.close()
    listener.close()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_a_closed_listener_wakes_its_accepter() -> None:
    listener = await TcpTransport().listen(LOOPBACK)

    async def accepter() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accepter)
        await wait_all_tasks_blocked()
        listener.close()
