"""One topic shared with foreign routers, both ways."""

from __future__ import annotations

import pytest
import trio
from _foreign import open_foreign
from _go_peer import GoPeer
from _json_peer import JsonPeer

from lattica.identity import Identity
from lattica.pubsub import open_pubsub
from lattica.transport import Multiaddr, open_mesh

pytestmark = pytest.mark.interop
LISTEN = [Multiaddr.parse("/ip4/127.0.0.1/tcp/0")]
TOPIC = "interop"


async def _until_subscribed(foreign: GoPeer | JsonPeer, peer: str) -> None:
    # Neither implementation tells when a subscription arrives; both answer who subscribes.
    while True:
        if isinstance(foreign, GoPeer):
            known = [str(other) for other in await foreign.subscribers(TOPIC)]
        else:
            known = (await foreign.call("subscribers", topic=TOPIC))["peers"]
        if peer in known:
            return
        await trio.sleep(0.05)


@pytest.mark.parametrize("we_dial", [True, False])
async def test_a_topic_is_shared_with_js(*, we_dial: bool) -> None:
    with trio.fail_after(60):
        async with (
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_pubsub(mesh) as pubsub,
            pubsub.subscribe(TOPIC) as subscription,
            open_foreign("js-noise") as js,
        ):
            assert isinstance(js, JsonPeer)
            await js.call("subscribe", topic=TOPIC)
            if we_dial:
                await mesh.dial(js.address)
            else:
                await js.dial(mesh.listen_addresses[0].with_peer(mesh.peer_id))
            await _until_subscribed(js, str(mesh.peer_id))
            await pubsub.publish(TOPIC, b"from us")
            heard = await js.event("message")
            assert (heard["data"], heard["from"]) == ("from us", str(mesh.peer_id))
            await js.call("publish", topic=TOPIC, data="from js")
            async for message in subscription:
                assert (message.data, message.author) == (b"from js", js.peer)
                break


@pytest.mark.parametrize("we_dial", [True, False])
async def test_a_topic_is_shared_with_go(*, we_dial: bool) -> None:
    with trio.fail_after(60):
        async with (
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_pubsub(mesh) as pubsub,
            pubsub.subscribe(TOPIC) as subscription,
            open_foreign("go-noise") as go,
        ):
            assert isinstance(go, GoPeer)
            heard = await go.subscribe(TOPIC)
            if we_dial:
                await mesh.dial(go.address)
            else:
                await go.dial(mesh.listen_addresses[0].with_peer(mesh.peer_id))
            await _until_subscribed(go, str(mesh.peer_id))
            await pubsub.publish(TOPIC, b"from us")
            assert await heard.receive() == (mesh.peer_id, b"from us")
            await go.publish(TOPIC, b"from go")
            async for message in subscription:
                assert (message.data, message.author) == (b"from go", go.peer)
                break


async def test_a_message_crosses_from_go_to_js_through_us() -> None:
    with trio.fail_after(60):
        async with (
            open_mesh(Identity.generate(), listen=LISTEN) as mesh,
            open_pubsub(mesh) as pubsub,
            pubsub.subscribe(TOPIC),
            open_foreign("go-noise") as go,
            open_foreign("js-noise") as js,
        ):
            assert isinstance(go, GoPeer)
            assert isinstance(js, JsonPeer)
            await js.call("subscribe", topic=TOPIC)
            await go.subscribe(TOPIC)
            await mesh.dial(js.address)
            await mesh.dial(go.address)
            await _until_subscribed(js, str(mesh.peer_id))
            await _until_subscribed(go, str(mesh.peer_id))
            await go.publish(TOPIC, b"across")
            heard = await js.event("message")
            assert (heard["data"], heard["from"]) == ("across", str(go.peer))
