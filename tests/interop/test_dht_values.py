"""Values put and got through foreign Kademlia nodes, both ways, where they have rules for them.

go-libp2p's daemon keeps public keys alone (`/pk/`, and `/ipns/`, which nobody writes here) and
cannot be told of more; js-libp2p keeps what its configuration has rules for.
"""

from __future__ import annotations

import pytest
import trio
from _foreign import open_foreign
from _go_peer import GoFailure, GoPeer
from _json_peer import JsonPeer

from lattica import codec
from lattica.dht import Dht, SingleValues, ValueRefused, open_dht, public_keys
from lattica.dht._records import decode_entry, decode_set
from lattica.identity import Identity, PeerId
from lattica.transport import Multiaddr, open_mesh

pytestmark = pytest.mark.interop
LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
GO_PROTOCOL = "/ipfs/kad/1.0.0"  # the only one that p2pd speaks
KEY = "/lattica/greeting"


def key_of(peer: PeerId) -> bytes:
    return b"/pk/" + peer.raw


def public_key_in(peer: PeerId) -> bytes:
    """The key itself is inside the ID of a peer with an Ed25519 key, behind two bytes."""
    return peer.raw[2:]


async def test_go_reads_public_keys_that_we_put_and_we_read_those_that_go_puts() -> None:
    ours, stranger = Identity.generate(), Identity.generate().peer_id
    with trio.fail_after(60):
        async with (
            open_foreign("go-noise") as go,
            open_mesh(ours, listen=LISTEN) as mesh,
            open_dht(
                mesh,
                protocol=GO_PROTOCOL,
                bootstrap=[go.address],
                namespaces={"pk": public_keys()},
            ) as dht,
        ):
            assert isinstance(go, GoPeer)
            await dht.wait_joined()
            put = await dht.put(key_of(ours.peer_id), ours.public_key.to_protobuf())
            assert (put.holders, put.refused) == (2, {})
            assert await go.get_value(key_of(ours.peer_id)) == ours.public_key.to_protobuf()
            await go.put_value(key_of(stranger), public_key_in(stranger))
            assert dht._keeper.get(key_of(stranger), now=0.0) is not None, "we keep it for go"
            assert (await dht.get(key_of(stranger))).value == public_key_in(stranger)


async def test_two_of_us_meet_at_the_values_of_go_and_go_refuses_what_it_has_no_rules_for() -> None:
    stranger = Identity.generate().peer_id
    rules = {"pk": public_keys()}
    with trio.fail_after(60):
        async with (
            open_foreign("go-noise") as go,
            open_mesh(Identity.generate(), listen=LISTEN) as one,
            open_mesh(Identity.generate(), listen=LISTEN) as other,
            open_dht(one, protocol=GO_PROTOCOL, bootstrap=[go.address], namespaces=rules) as dht,
            open_dht(
                other,
                protocol=GO_PROTOCOL,
                server=False,
                bootstrap=[go.address],
                namespaces=rules,
            ) as reader,
        ):
            assert isinstance(go, GoPeer)
            await dht.wait_joined()
            await reader.wait_joined()
            await dht.put(key_of(stranger), public_key_in(stranger))
            assert (await reader.get(key_of(stranger))).value == public_key_in(stranger)
            put = await dht.put(KEY, "signed")
            assert put.holders == 1, "this node alone"
            assert sum(put.refused.values()) == put.asked == 1
            with pytest.raises(GoFailure):
                await go.put_value(KEY.encode(), b"unsigned")


def whole(_key: bytes, value: bytes) -> None:
    if not value.startswith(b"whole"):
        raise ValueRefused("it is not whole")


async def test_js_keeps_our_values_and_we_keep_those_of_js() -> None:
    with trio.fail_after(90):
        async with (
            open_foreign("js-noise") as js,
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_dht(
                mesh, bootstrap=[js.address], namespaces={"interop": SingleValues(whole)}
            ) as dht,
        ):
            assert isinstance(js, JsonPeer)
            await dht.wait_joined()
            await _put_and_get(js, dht, mesh.peer_id)


async def _put_and_get(js: JsonPeer, dht: Dht, us: PeerId) -> None:
    put = await dht.put("/interop/ours", b"whole and ours")
    assert (put.holders, put.refused) == (2, {})
    assert bytes.fromhex((await js.call("get", key="/interop/ours"))["value"]) == b"whole and ours"
    await js.call("put", key="/interop/theirs", value=b"whole and theirs".hex())
    assert (await dht.get("/interop/theirs")).value == b"whole and theirs"
    # A signed entry goes to js as any bytes do, and comes back to be verified.
    assert (await dht.put(KEY, {"signed": True}, subkey="s")).holders == 2
    carried = bytes.fromhex((await js.call("get", key=KEY))["value"])
    entry = decode_entry(decode_set(carried)[0])
    assert (entry.author, codec.unpack(entry.value, max_size=100)) == (us, {"signed": True})
    # What js puts without a signature stays with js: we neither keep nor believe it.
    await js.call("put", key="/lattica/forged", value=b"whole, but unsigned".hex())
    assert dht._keeper.get(b"/lattica/forged", now=0.0) is None
    got = await dht.get("/lattica/forged")
    assert (got.entries, got.invalid) == ((), 1)
