"""What outlives a node: values and provider records, until they expire."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from typing import TYPE_CHECKING

import pytest
import trio

from lattica.dht._database import Changes, Database, ProviderRow, ValueRow
from tests.dht.conftest import EPOCH

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from tests.dht.conftest import Node, Swarm

KEY = "/lattica/greeting"
MODEL = b"\x12\x20" + hashlib.sha256(b"model").digest()


def rows(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    finally:
        connection.close()
    return int(count)


async def restart(swarm: Swarm, node: Node, path: Path, **options: object) -> Node:
    """Stop node 1, and start it again without a bootstrap."""
    swarm.stop(node)
    await node.gone.wait()
    return await swarm.start(1, database=path, **options)  # type: ignore[arg-type]


async def test_records_outlive_a_restart_and_what_has_expired_meanwhile_does_not(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    other = await swarm.start(2, bootstrap=(node.address,))
    await other.dht.wait_joined()
    await other.dht.put(KEY, "for a day", ttl=86_400, subkey="long")
    await other.dht.put(KEY, "for a minute", ttl=60, subkey="short")
    await node.dht.put("/lattica/own", 1, ttl=86_400)
    await other.dht.provide(MODEL)
    swarm.stop(other)
    before = node.dht.status()
    assert (before.values, before.own_values, before.records) == (3, 1, 1)
    node = await restart(swarm, node, path, skew=3600.0)
    status = node.dht.status()
    assert (status.values, status.own_values, status.records) == (2, 1, 1)
    got = await node.dht.get(KEY)
    assert [(entry.subkey, entry.value) for entry in got.entries] == [(b"long", "for a day")]
    (info,) = [info async for info in node.dht.find_providers(MODEL)]
    assert info.peer == other.peer
    assert info.addresses, "a provider without an address is no use"
    late = await swarm.start(3, bootstrap=(node.address,), skew=3600.0)
    await late.dht.wait_joined()
    await trio.sleep(60)
    assert late.dht.status().values >= 1, "what a node has put, it puts again"


async def test_who_brought_what_is_known_after_a_restart(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    other = await swarm.start(2, bootstrap=(node.address,))
    await other.dht.wait_joined()
    await other.dht.put(KEY, "here", ttl=86_400)
    node.dht._store.add(MODEL, other.peer, now=trio.current_time(), group=b"net")
    place = other.peer.raw
    assert node.dht._keeper.store.source(KEY.encode(), place) == other.peer.raw
    await trio.sleep(3)
    node.dht._keeper.store.vouch(KEY.encode(), place, b"home")
    swarm.stop(other)
    node = await restart(swarm, node, path)
    assert node.dht._keeper.store.source(KEY.encode(), place) == b"home"
    assert node.dht._store.group(MODEL, other.peer) == b"net"


async def test_provider_records_of_a_file_lapse_as_they_would_have(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    other = await swarm.start(2, bootstrap=(node.address,))
    await other.dht.wait_joined()
    await other.dht.provide(MODEL)
    swarm.stop(other)
    node = await restart(swarm, node, path, skew=47 * 3600.0)
    assert node.dht.status().records == 1
    await trio.sleep(2 * 3600)
    assert node.dht.status().records == 0


@pytest.mark.parametrize("damage", ["garbage", "middle", "version", "other-tables", "rows"])
async def test_a_damaged_file_is_logged_and_made_anew(
    autojump_clock: MockClock,
    swarm: Swarm,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    for number in range(40):
        await node.dht.put(f"/lattica/{number}", bytes(2000))
    swarm.stop(node)
    await node.gone.wait()
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 100)
    elif damage == "middle":
        data = bytearray(path.read_bytes())
        data[4096:-4096] = b"\xa5" * (len(data) - 8192)
        path.write_bytes(data)
    else:
        connection = sqlite3.connect(path)
        with connection:
            if damage == "version":
                connection.execute("PRAGMA user_version = 99")
            elif damage == "other-tables":
                connection.execute("DROP TABLE held")
            else:
                connection.execute("UPDATE held SET encoded = x'c1'")
                connection.execute("UPDATE own SET expires = 'never'")
        connection.close()
    node = await swarm.start(1, database=path)
    assert node.dht.status().values == 0
    assert [record for record in caplog.records if record.levelno == logging.WARNING]
    await node.dht.put(KEY, "anew")
    node = await restart(swarm, node, path)
    assert (await node.dht.get(KEY)).value == "anew"


async def test_a_file_that_cannot_be_made_costs_persistence_alone(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = await swarm.start(1, database=tmp_path / "no" / "such" / "folder")
    await node.dht.put(KEY, 1)
    assert (await node.dht.get(KEY)).value == 1
    assert "will not outlive this process" in caplog.text


async def test_a_file_that_another_process_holds_is_left_as_it_is(
    autojump_clock: MockClock,
    swarm: Swarm,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lattica.dht._database.BUSY_SECONDS", 0.01)
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    await node.dht.put(KEY, "kept")
    swarm.stop(node)
    await node.gone.wait()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    node = await swarm.start(1, database=path)
    assert node.dht.status().values == 0
    assert "locked" in caplog.text
    assert "will not outlive this process" in caplog.text
    other.close()
    node = await restart(swarm, node, path)
    assert (await node.dht.get(KEY)).value == "kept"


async def test_more_changes_than_are_noted_one_by_one_are_written_all_the_same(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.dht._persist.MAX_CHANGES", 10)
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    for number in range(40):
        await node.dht.put(f"/lattica/{number}", number)
    node = await restart(swarm, node, path)
    assert (node.dht.status().values, node.dht.status().own_values) == (40, 40)


async def test_a_file_that_breaks_while_it_is_used_is_made_anew_from_memory(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "dht.db"
    node = await swarm.start(1, database=path)
    await node.dht.put("/lattica/first", 1)
    node = await restart(swarm, node, path)
    assert node.dht._persistence is not None
    database, write, broken = node.dht._persistence._database, Database.write, trio.Event()

    def break_once(changes: Changes) -> None:
        database.write = lambda changes: write(database, changes)  # type: ignore[method-assign]
        trio.from_thread.run_sync(broken.set)
        raise sqlite3.DatabaseError("database disk image is malformed")

    database.write = break_once  # type: ignore[method-assign]
    await node.dht.put("/lattica/second", 2)
    await broken.wait()
    node = await restart(swarm, node, path)
    assert "malformed" in caplog.text
    assert node.dht.status().values == 2


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "dht.db"
    database = Database(path)
    database.load(now=EPOCH)
    changes = Changes.none()
    changes.held[b"k", b"p"] = ValueRow(b"k", b"p", b"value", EPOCH + 60)
    database.write(changes)
    broken = Changes.none()
    broken.held[b"k", b"p"] = None
    broken.providers[b"k", b"x"] = ProviderRow(b"k", b"x", None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        database.write(broken)
    assert rows(path, "held") == 1
    # A process that dies here has closed nothing; what was written is there all the same.
    again = Database(path)
    assert [row.encoded for row in again.load(now=EPOCH).held] == [b"value"]
    assert again.load(now=EPOCH + 60).held == []
    for each in (database, again):
        each.close()
    assert rows(path, "held") == 0, "what has expired takes no room"
