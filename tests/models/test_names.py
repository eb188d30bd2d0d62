"""Names: the newest version that was seen stays the newest, whoever replays what."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from lattica.cid import CID
from lattica.errors import InvalidInput
from lattica.identity import Identity
from lattica.models import (
    BadSignature,
    Manifest,
    Name,
    NameRecord,
    NameRecordError,
    NameStore,
    Statement,
    Verdict,
    _names,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADA, EVE = Identity(bytes(32)), Identity(bytes([1]) * 32)
VERSIONS = [
    Manifest("m", n, n, CID.of(bytes([n])), 1).sign(ADA).cid for n in range(1, 8)
]  # fmt: skip


def record(sequence: int, who: Identity = ADA, name: str = "m") -> NameRecord:
    return NameRecord.make(who, name, sequence, VERSIONS[sequence % 7], 1000 + sequence)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NameStore]:
    opened = NameStore(tmp_path / "names")
    yield opened
    opened.close()


def test_an_old_record_never_wins(store: NameStore) -> None:
    rng = random.Random(3)
    newest = 0
    for _ in range(200):  # as 8 peers answer of whom 3 replay what they like
        offered = rng.choice([rng.randrange(1, 6), newest or 1])
        newest = max(newest, offered)
        assert store.offer(record(offered)).sequence == newest
    assert store.newest(Name(ADA.peer_id, "m")) == record(newest)


def test_it_is_remembered_across_restarts(tmp_path: Path) -> None:
    store = NameStore(tmp_path / "names")
    store.offer(record(5))
    store.close()
    again = NameStore(tmp_path / "names")
    assert again.offer(record(4)) == record(5)
    again.close()


def test_names_of_different_keys_are_different(store: NameStore) -> None:
    store.offer(record(5))
    store.offer(record(1, EVE))
    assert store.newest(Name(EVE.peer_id, "m")) == record(1, EVE)
    assert store.newest(Name(ADA.peer_id, "other")) is None


def test_of_two_records_with_one_sequence_the_first_stays(store: NameStore) -> None:
    other = NameRecord.make(ADA, "m", 2, VERSIONS[5], 1)
    store.offer(record(2))
    assert store.offer(other) == record(2)


def test_a_record_comes_back_and_none_can_be_forged() -> None:
    assert NameRecord.decode(record(3).encoded) == record(3)
    forged = record(3).encoded.replace(b"\xa1m\x03", b"\xa1m\x04")
    with pytest.raises(BadSignature):
        NameRecord.decode(forged)
    with pytest.raises(NameRecordError):
        NameRecord.decode(b"\x90")


def test_the_text_of_a_name() -> None:
    name = Name(ADA.peer_id, "team/model")
    assert Name.parse(str(name)) == name
    assert Name.parse(f"lattica://{name}") == name
    assert name.dht_key == f"/lattica/names/{ADA.peer_id}/team/model"
    for wrong in ("team/model", str(ADA.peer_id), f"{ADA.peer_id}/", f"{ADA.peer_id}/a b", ""):
        with pytest.raises(InvalidInput):
            Name.parse(wrong)


def test_names_are_bounded_and_ones_own_are_kept(
    store: NameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_names, "MAX_NAMES", 5)
    store.offer(record(1, name="mine"), own=True)
    for number in range(20):
        store.offer(record(1, EVE, f"n{number}"))
    kept = [n for n in range(20) if store.newest(Name(EVE.peer_id, f"n{n}")) is not None]
    assert kept == [15, 16, 17, 18, 19]
    assert [one.name.name for one in store.own()] == ["mine"]


def test_a_name_that_was_heard_of_becomes_ones_own(store: NameStore) -> None:
    store.offer(record(1))
    store.offer(record(2), own=True)
    store.offer(record(3))
    assert store.own() == [record(3)]


def test_a_record_that_would_be_refused_is_not_made() -> None:
    with pytest.raises(InvalidInput, match="would be refused"):
        NameRecord.make(ADA, "m", 1 << 53, VERSIONS[0], 1)


def test_statements_are_kept_the_latest_of_each_kind(store: NameStore) -> None:
    cid = VERSIONS[0]
    first = Statement.make(EVE, cid, Verdict.APPROVE, 5)
    assert store.add(first)
    assert not store.add(first)
    assert not store.add(Statement.make(EVE, cid, Verdict.APPROVE, 4))
    last = Statement.make(EVE, cid, Verdict.APPROVE, 9)
    assert store.add(last)
    revoked = Statement.make(EVE, cid, Verdict.REVOKE, 7)
    assert store.add(revoked)
    assert store.statements(cid) == [revoked, last]
    assert store.statements(VERSIONS[1]) == []


def test_statements_are_bounded(store: NameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_names, "MAX_STATEMENTS", 3)
    monkeypatch.setattr(_names, "MAX_MANIFESTS", 2)
    for cid in VERSIONS[:3]:
        for number in range(5):
            who = Identity(bytes([number]) * 32)
            store.add(Statement.make(who, cid, Verdict.APPROVE, 5))
    assert [len(store.statements(cid)) for cid in VERSIONS[:3]] == [0, 3, 3]
    # Whoever has spoken may still take it back.
    assert store.add(Statement.make(Identity(bytes([1]) * 32), VERSIONS[2], Verdict.REVOKE, 6))


def test_a_name_without_its_publisher_is_refused_with_what_is_missing() -> None:
    with pytest.raises(InvalidInput, match="does not begin with a peer ID") as caught:
        Name.parse("team/model")
    assert "PEER/team/model" in caught.value.hint
