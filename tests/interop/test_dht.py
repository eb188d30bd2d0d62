"""Providers and peers found through foreign Kademlia nodes, both ways."""

from __future__ import annotations

import pytest
import trio
from _foreign import open_foreign
from _go_peer import GoPeer
from _json_peer import JsonPeer

from lattica.cid import CID, HashFunction
from lattica.dht import Dht, open_dht
from lattica.identity import Identity, PeerId
from lattica.transport import Multiaddr, PeerInfo, open_mesh

pytestmark = pytest.mark.interop
LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
GO_PROTOCOL = "/ipfs/kad/1.0.0"  # the only one that p2pd speaks
OURS = CID.of(b"what we provide", hash_function=HashFunction.SHA2_256)
THEIRS = CID.of(b"what they provide", hash_function=HashFunction.SHA2_256)


async def test_go_finds_what_we_provide_and_we_find_what_go_provides() -> None:
    with trio.fail_after(60):
        async with (
            open_foreign("go-noise") as go,
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_dht(mesh, protocol=GO_PROTOCOL, bootstrap=[go.address]) as dht,
        ):
            assert isinstance(go, GoPeer)
            await dht.wait_joined()
            await dht.provide(OURS.multihash)
            assert await go.find_providers(bytes(OURS)) == [mesh.peer_id]
            await go.provide(bytes(THEIRS))
            assert [info.peer async for info in dht.find_providers(THEIRS.multihash)] == [go.peer]


async def test_two_of_us_find_each_other_through_go() -> None:
    with trio.fail_after(60):
        async with (
            open_foreign("go-noise") as go,
            open_mesh(Identity.generate(), listen=LISTEN) as one,
            open_mesh(Identity.generate(), listen=LISTEN) as other,
            open_dht(one, protocol=GO_PROTOCOL, bootstrap=[go.address]) as dht_one,
            open_dht(other, protocol=GO_PROTOCOL, bootstrap=[go.address]) as dht_other,
        ):
            await dht_one.wait_joined()
            await dht_other.wait_joined()
            found = await _find_peer(dht_one, other.peer_id)
            assert other.listen_addresses[0] in found.addresses
            await _find_peer(dht_other, one.peer_id)


async def _find_peer(dht: Dht, peer: PeerId) -> PeerInfo:
    # go hands a peer and its addresses on once it has identified it, and tells nobody when.
    while True:
        found = await dht.find_peer(peer)
        if found is not None and found.addresses:
            assert found.peer == peer
            return found
        await trio.sleep(0.05)


async def test_js_finds_what_we_provide_and_we_find_what_js_provides() -> None:
    with trio.fail_after(60):
        async with (
            open_foreign("js-noise") as js,
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_dht(mesh, bootstrap=[js.address]) as dht,
        ):
            assert isinstance(js, JsonPeer)
            await dht.wait_joined()
            await dht.provide(OURS.multihash)
            found = (await js.call("providers", cid=str(OURS)))["found"]
            assert [entry["peer"] for entry in found] == [str(mesh.peer_id)]
            await js.call("provide", cid=str(THEIRS))
            assert [info.peer async for info in dht.find_providers(THEIRS.multihash)] == [js.peer]
