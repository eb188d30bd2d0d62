"""Links under libp2p's pre-shared key: the cipher, the files, and who gets in."""

from __future__ import annotations

import base64
import os
import random
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings, strategies as st
from nacl.bindings import crypto_secretbox

from lattica.testing import sample_identity
from lattica.transport import DialError, MemoryNetwork, Multiaddr, TcpTransport, open_mesh
from lattica.transport.pnet import (
    FILE_HEAD,
    PskError,
    PskTransport,
    XSalsa20,
    parse_psk,
    read_psk,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lattica.transport import Stream, Transport

KEY, OTHER = bytes(range(32)), bytes(32)
MEMORY, TCP = Multiaddr.parse("/memory/0"), Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
ADA, BOB = sample_identity(1), sample_identity(2)


# --- the cipher


@settings(max_examples=30)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=24, max_size=24),
    st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 100)), max_size=8),
)
def test_the_stream_is_libsodium_s_however_it_is_read(
    key: bytes, nonce: bytes, reads: list[tuple[int, int]]
) -> None:
    stream, found = XSalsa20(key, nonce), b""
    for size, percent in reads:
        used = size * percent // 100
        found += bytes(stream.peek(size))[:used]
        stream.advance(used)
    # A secret box is sealed with the same stream, from byte 32 on.
    expected = crypto_secretbox(bytes(len(found) + 32), nonce, key)[16:]
    assert found[32:] == expected[: max(0, len(found) - 32)]


def test_the_stream_goes_on_over_many_batches() -> None:
    stream, found = XSalsa20(KEY, bytes(24)), b""
    for size in (100_000, 131_072, 1, 400_000, 64):
        found += bytes(stream.peek(size))
        stream.advance(size)
    expected = crypto_secretbox(bytes(len(found)), bytes(24), KEY)[16:]
    assert found[32:] == expected[: len(found) - 32]


# --- the files


@pytest.mark.parametrize(
    "body",
    [
        b"/base16/\n" + KEY.hex().encode(),
        b"/base16/\n" + KEY.hex().upper().encode() + b"\n",
        b"/base64/\n" + base64.b64encode(KEY) + b"\n",
        b"/bin/\n" + KEY,
    ],
)
def test_a_key_file_of_go_or_js_is_read(body: bytes) -> None:
    assert parse_psk(f"{FILE_HEAD}\n".encode() + body) == KEY


@given(
    st.binary(max_size=120)
    | st.binary(max_size=80).map(f"{FILE_HEAD}\n/base16/\n".encode().__add__)
)
def test_any_bytes_are_a_key_file_or_refused(data: bytes) -> None:
    try:
        assert len(parse_psk(data)) == 32
    except PskError:
        return


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    path.write_text(f"{FILE_HEAD}\n/base16/\n{KEY.hex()}")
    path.chmod(0o600)
    assert read_psk(path) == KEY
    path.chmod(0o644)
    with pytest.raises(PskError, match="others may read"):
        read_psk(path)
    with pytest.raises(PskError, match="cannot read"):
        read_psk(tmp_path / "nowhere")


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(PskError):
        PskTransport(TcpTransport(), bytes(31))


# --- links


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


@pytest.mark.parametrize("where", [MEMORY, TCP], ids=["memory", "tcp"])
@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_who_has_the_key_talks(where: Multiaddr, security: str) -> None:
    network = MemoryNetwork(rng=random.Random(1), window_bytes=50_000)  # odd pieces, full windows

    def way(host: str) -> Transport:
        return PskTransport(network.transport(host) if where is MEMORY else TcpTransport(), KEY)

    data = os.urandom(1_500_000)
    async with (
        open_mesh(ADA, transports=[way("a")], security=[security]) as near,
        open_mesh(BOB, listen=[where], transports=[way("b")], security=[security]) as far,
    ):
        far.handle("/echo", echo)
        await near.dial(far.listen_addresses[0].with_peer(BOB.peer_id))
        async with (
            await near.open_stream(BOB.peer_id, "/echo") as stream,
            trio.open_nursery() as go,
        ):

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            go.start_soon(send)
            assert await stream.receive_exactly(len(data)) == data


@pytest.mark.parametrize("ours", [OTHER, None], ids=["other key", "no key"])
async def test_who_has_not_is_refused_at_once(ours: bytes | None) -> None:
    network = MemoryNetwork()
    inner = network.transport("a")
    way: Transport = inner if ours is None else PskTransport(inner, ours)
    async with (
        open_mesh(ADA, transports=[way]) as near,
        open_mesh(
            BOB, listen=[MEMORY], transports=[PskTransport(network.transport("b"), KEY)]
        ) as far,
    ):
        with trio.fail_after(5), pytest.raises(DialError):
            await near.dial(far.listen_addresses[0])
        assert not far.connections()


async def test_nothing_passes_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    network = MemoryNetwork()
    seen = bytearray()

    def watch(dial: Callable[..., object]) -> Callable[..., object]:
        async def watched(address: Multiaddr) -> object:
            link = await dial(address)  # type: ignore[misc]  # it is a coroutine function
            send = link.send_some

            async def send_some(data: memoryview) -> int:
                size: int = await send(data)
                seen.extend(data[:size])
                return size

            link.send_some = send_some
            return link

        return watched

    inner = network.transport("a")
    monkeypatch.setattr(inner, "dial", watch(inner.dial))
    async with (
        open_mesh(ADA, transports=[PskTransport(inner, KEY)]) as near,
        open_mesh(
            BOB, listen=[MEMORY], transports=[PskTransport(network.transport("b"), KEY)]
        ) as far,
    ):
        await near.dial(far.listen_addresses[0])
        assert await near.ping(BOB.peer_id) >= 0
    assert len(seen) > 200
    for word in (b"multistream", b"/noise", b"yamux"):
        assert word not in seen
