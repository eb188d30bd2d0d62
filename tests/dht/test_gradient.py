"""Records of Gradient's Lattica between our own nodes; `tests/interop` has its programs do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht import InvalidValue, UnknownNamespace, ValueTooLarge, gradient
from lattica.dht._keeper import Keeper
from lattica.dht._messages import Message, MessageType, Record
from lattica.dht._namespaces import Namespaces
from tests.dht.conftest import EPOCH

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.dht.conftest import Swarm

OPTIONS = {"protocol": gradient.PROTOCOL, "namespaces": gradient.namespaces()}


async def start(swarm: Swarm, count: int) -> list[gradient.GradientRecords]:
    first = await swarm.start(1, **OPTIONS)  # type: ignore[arg-type]
    nodes = [first]
    for number in range(2, count + 1):
        nodes.append(await swarm.start(number, bootstrap=(first.address,), **OPTIONS))  # type: ignore[arg-type]
        await nodes[-1].dht.wait_joined()

    def now() -> float:
        return EPOCH + trio.current_time()

    return [gradient.GradientRecords(node.dht, wall_clock=now) for node in nodes]


async def values(records: gradient.GradientRecords, key: str) -> dict[str, bytes | str]:
    return {subkey: each.value for subkey, each in (await records.get(key)).items()}


async def test_values_are_stored_under_keys_and_subkeys_until_they_end(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    one, two, three = await start(swarm, 3)
    await one.store("job", b"plain")
    await one.store("job", "first", subkey="one", ttl=60)
    await two.store("job", b"second", subkey="two")
    for reader in (one, two, three):
        assert await values(reader, "job") == {"": b"plain", "one": "first", "two": b"second"}
    await trio.sleep(61)
    assert await values(three, "job") == {"": b"plain", "two": b"second"}
    assert await values(three, "absent") == {}
    await trio.sleep(600)
    assert await values(three, "job") == {}


async def test_what_cannot_be_stored_is_said(autojump_clock: MockClock, swarm: Swarm) -> None:
    (records,) = await start(swarm, 1)
    with pytest.raises(ValueTooLarge):
        await records.store("key", bytes(13_000))
    for subkey in ("", "index"):
        with pytest.raises(InvalidValue):
            await records.store("key", b"x", subkey=subkey)
    with pytest.raises(InvalidValue):
        await records.store("key", b"x", ttl=-1)


async def test_a_node_that_was_not_told_to_keeps_none_of_it(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    node = await swarm.start(1)
    with pytest.raises(UnknownNamespace):
        await gradient.GradientRecords(node.dht).store("key", b"x")


def test_of_two_values_the_one_that_ends_later_is_kept() -> None:
    kept = Keeper(Namespaces(gradient.namespaces(), scope=gradient.PROTOCOL))

    def put(value: bytes) -> str:
        request = Message(MessageType.PUT_VALUE, b"key", Record(b"key", value))
        return kept.put(request, now=EPOCH).refusal

    later, sooner = (gradient.encode_value(b"x", EPOCH + seconds) for seconds in (90, 60))
    assert [put(later), put(sooner), put(later)] == ["", "stale", ""]
    assert put(gradient.encode_value(b"x", EPOCH - 1)) == "expired"
    assert put(gradient.encode_value(b"x", EPOCH + 8 * 86_400)) == "invalid"
    assert put(b"nonsense") == "invalid"


def test_a_pickle_that_is_more_than_a_literal_is_not_read() -> None:
    program = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    value = gradient.GradientValue(program, EPOCH)
    with pytest.raises(gradient.NotPlain):
        _ = value.value
    assert value.raw == program
    assert value.to_json()["expires"] == EPOCH
