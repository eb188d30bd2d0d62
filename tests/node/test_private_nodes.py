"""Whole nodes in private swarms: by key, by ticket, through a change of key."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lattica.errors import Unreachable
from lattica.node import open_node
from lattica.private_swarm import KeyRing, SwarmKeyError, read_ring, write_ring
from lattica.transport import MemoryNetwork, SwarmKeyMismatch
from lattica.transport.pnet import FILE_HEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lattica.node import AsyncNode

LISTEN = ["/memory/0"]


class Town:
    """Nodes on one network, each with a home of its own."""

    def __init__(self, folder: Path, network: MemoryNetwork) -> None:
        self.folder, self.network = folder, network

    @asynccontextmanager
    async def node(
        self, name: str, ring: KeyRing | None, **options: Any
    ) -> AsyncIterator[AsyncNode]:
        home = self.folder / name
        key = home / "swarm.key"
        if ring is not None:
            write_ring(key, ring)
        way = [self.network.transport(name)]
        async with open_node(
            home, listen=LISTEN, transports=way, mdns=False, bootstrap=[], **options
        ) as node:
            yield node


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path, MemoryNetwork())


def noise(path: Path, size: int) -> bytes:
    data = random.Random(1).randbytes(size)
    path.write_bytes(data)
    return data


async def test_members_share_by_ticket_and_others_are_told_before_they_dial(
    town: Town, tmp_path: Path
) -> None:
    data = noise(tmp_path / "model.bin", 1_000_000)
    ring = KeyRing.generate()
    async with (
        town.node("a", ring) as one,
        town.node("b", ring) as other,
        town.node("c", KeyRing.generate()) as elsewhere,
        town.node("d", None) as public,
    ):
        shared = await one.share(tmp_path / "model.bin")
        assert shared.ticket.swarm == one.swarm == ring.fingerprint
        assert ring.keys[0].secret not in bytes(str(shared.ticket), "ascii")
        await other.get(shared.ticket, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == data
        for stranger in (elsewhere, public):
            with pytest.raises(SwarmKeyMismatch, match=ring.fingerprint):
                await stranger.get(shared.ticket, tmp_path / "never")
            with pytest.raises(SwarmKeyMismatch):
                await stranger.ping(one.addresses[0])
        assert {peer.peer for peer in one.peers()} == {other.id}


async def test_a_private_swarm_has_a_dht_of_its_own(town: Town) -> None:
    ring = KeyRing.generate()
    async with town.node("a", ring) as one, town.node("b", None) as public:
        assert one.dht.protocol == f"/lattica/swarm/{ring.fingerprint}/kad/1.0.0"
        assert public.dht.protocol == "/lattica/kad/1.0.0"


async def test_the_key_is_changed_under_a_running_transfer_and_nothing_is_lost(
    town: Town, tmp_path: Path
) -> None:
    """Both nodes are given the new key while one gets from the other; then the old key ends."""
    data = noise(tmp_path / "model.bin", 8_000_000)
    town.network.bandwidth = 4e6
    ring = KeyRing.generate()
    async with town.node("a", ring) as one, town.node("b", ring) as other:
        shared = await one.share(tmp_path / "model.bin")
        first = await other.mesh.connect(one.id, one.mesh.addresses)

        async def change_key() -> None:
            await trio.sleep(0.5)
            rotated = ring.rotated(overlap=0, now=time.time())
            for name in ("a", "b"):
                write_ring(town.folder / name / "swarm.key", rotated)
            for node in (one, other):  # what the clock does every half minute
                for connection in node.mesh.connections():
                    if connection.key not in (live := node.mesh._swarm.live()):  # type: ignore[union-attr]  # it has one
                        assert live == rotated.keys[:1]
                        connection.go_away()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change_key)
            fetched = await other.get(shared.ticket, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == data
        assert fetched.received_bytes == len(data)  # nothing was asked for twice
        second = await other.mesh.connect(one.id, one.mesh.addresses)
        assert second is not first
        assert second.key is not None
        assert second.key.secret != ring.keys[0].secret
        await other.ping(one.id)


async def test_a_member_that_missed_the_change_is_out_when_the_overlap_ends(
    town: Town, tmp_path: Path
) -> None:
    ring = KeyRing.generate()
    now = time.time()
    async with town.node("late", ring) as late:
        async with town.node("a", ring.rotated(overlap=60, now=now)) as one:
            await late.ping(one.addresses[0])
        async with town.node("b", ring.rotated(overlap=60, now=now - 61)) as other:
            with pytest.raises(SwarmKeyMismatch):
                await late.ping(other.addresses[0])


async def test_a_node_whose_key_file_is_bad_does_not_start_in_public(town: Town) -> None:
    key = town.folder / "a" / "swarm.key"
    key.parent.mkdir()
    key.write_text("not a key")
    key.chmod(0o600)
    with pytest.raises(SwarmKeyError):
        async with town.node("a", None):
            pass
    write_ring(key, KeyRing.generate())
    key.chmod(0o644)
    with pytest.raises(SwarmKeyError, match="others may read"):
        async with town.node("a", None):
            pass
    with pytest.raises(SwarmKeyError, match="cannot read"):
        async with town.node("b", None, swarm_key=town.folder / "nowhere"):
            pass
    key.unlink()
    key.symlink_to("/media/stick/swarm.key")  # which is not plugged in
    with pytest.raises(SwarmKeyError, match="cannot read"):
        async with town.node("a", None):
            pass
    assert not (town.folder / "b" / "store" / "index.sqlite").exists()


async def test_a_key_file_elsewhere_can_be_named(town: Town, tmp_path: Path) -> None:
    write_ring(tmp_path / "ours.key", KeyRing.generate())
    async with town.node("a", None, swarm_key=tmp_path / "ours.key") as node:
        assert node.swarm == read_ring(tmp_path / "ours.key").fingerprint


async def test_a_key_of_libp2p_s_own_form_keeps_others_out_as_well(
    town: Town, tmp_path: Path
) -> None:
    for name, byte in (("one", "5a"), ("other", "5b")):
        key = tmp_path / f"{name}.key"
        key.write_text(f"{FILE_HEAD}\n/base16/\n{byte * 32}")
        key.chmod(0o600)
    noise(tmp_path / "file", 300_000)
    async with (
        town.node("a", None, swarm_key=tmp_path / "one.key") as owner,
        town.node("b", None, swarm_key=tmp_path / "one.key") as member,
        town.node("c", None, swarm_key=tmp_path / "other.key") as stranger,
        town.node("d", None) as public,
    ):
        shared = await owner.share(tmp_path / "file")
        await member.get(shared.ticket, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == (tmp_path / "file").read_bytes()
        for other in (stranger, public):
            with pytest.raises(Unreachable):
                await other.ping(owner.addresses[0])
        assert {peer.peer for peer in owner.peers()} == {member.id}
