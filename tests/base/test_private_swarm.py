"""Keys of private swarms: files, rotation, invitations."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lattica._base import base32_encode
from lattica.private_swarm import (
    MAX_FILE,
    MAX_KEYS,
    KeyRing,
    SwarmKey,
    SwarmKeyError,
    SwarmKeyFile,
    read_ring,
    write_ring,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
DAY = 86_400.0

moments = st.none() | st.integers(0, 253_402_300_799).map(float)
keys = st.builds(SwarmKey, st.binary(min_size=32, max_size=32), moments)
rings = st.builds(
    KeyRing,
    st.binary(min_size=16, max_size=16),
    st.lists(keys, min_size=1, max_size=5).map(tuple),
)


@given(rings)
def test_a_ring_survives_its_file(ring: KeyRing) -> None:
    assert KeyRing.parse(str(ring)) == ring


@given(st.text())
def test_any_text_is_a_ring_or_refused(text: str) -> None:
    with contextlib.suppress(SwarmKeyError):
        KeyRing.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "swarm aaaaaaaaaaaaaaaaaaaaaaaaaa",
        f"key {base32_encode(bytes(32))}",
        f"swarm abc\nkey {base32_encode(bytes(32))}",
        f"swarm {base32_encode(bytes(16))}\nkey {base32_encode(bytes(31))}",
        f"swarm {base32_encode(bytes(16))}\nkey {base32_encode(bytes(32))} until tomorrow",
        f"swarm {base32_encode(bytes(16))}\nkey {base32_encode(bytes(32))} until 2026-01-01",
        f"swarm {base32_encode(bytes(16))}\nswarm {base32_encode(bytes(16))}",
        f"swarm {base32_encode(bytes(16))}\nkey {base32_encode(bytes(32))}\nkeys",
    ],
)
def test_a_file_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(SwarmKeyError):
        KeyRing.parse(text)


def test_a_name_and_a_log_line_do_not_give_the_key_away() -> None:
    key = SwarmKey.generate()
    shown = f"{key!r} {key}"
    assert base32_encode(key.secret) not in shown
    assert key.secret.hex() not in shown
    assert key.name not in key.secret


def test_a_rotated_ring_keeps_its_name_and_its_old_key_for_a_while() -> None:
    ring = KeyRing.generate()
    after = ring.rotated(overlap=7 * DAY, now=NOW)
    assert after.swarm == ring.swarm
    assert after.keys[0] not in ring.keys
    assert [key.secret for key in after.live(NOW + 6 * DAY)] == [
        after.keys[0].secret,
        ring.keys[0].secret,
    ]
    assert after.live(NOW + 7 * DAY) == after.keys[:1]


def test_an_old_key_does_not_live_longer_for_another_rotation() -> None:
    once = KeyRing.generate().rotated(overlap=DAY, now=NOW)
    twice = once.rotated(overlap=7 * DAY, now=NOW)
    assert twice.keys[2].until == NOW + DAY
    assert len(twice.rotated(overlap=DAY, now=NOW + 2 * DAY).keys) == 3


def test_no_more_keys_are_good_at_once_than_a_proof_has_room_for() -> None:
    ring = KeyRing.generate()
    for _ in range(MAX_KEYS - 1):
        ring = ring.rotated(overlap=DAY, now=NOW)
    with pytest.raises(SwarmKeyError, match="limit"):
        ring.rotated(overlap=DAY, now=NOW)
    assert len(ring.rotated(overlap=DAY, now=NOW + 2 * DAY).keys) == 2


@given(rings)
def test_an_invitation_makes_a_member(ring: KeyRing) -> None:
    assert KeyRing.from_invite(ring.invite(-1)) == KeyRing(ring.swarm, ring.live(-1))


@given(st.text() | st.text().map("lattica-swarm:".__add__))
def test_any_text_is_an_invitation_or_refused(text: str) -> None:
    with pytest.raises(SwarmKeyError):
        KeyRing.from_invite(text)


def test_a_damaged_invitation_is_told_from_a_good_one() -> None:
    line = KeyRing.generate().invite(NOW)
    for position in range(len("lattica-swarm:"), len(line)):
        changed = "a" if line[position] != "a" else "b"
        with pytest.raises(SwarmKeyError):
            KeyRing.from_invite(line[:position] + changed + line[position + 1 :])


def test_a_new_invitation_brings_the_new_key_and_an_old_one_changes_nothing() -> None:
    ring = KeyRing.generate()
    rotated = ring.rotated(overlap=DAY, now=NOW)
    assert ring.joined(KeyRing.from_invite(rotated.invite(NOW))) == rotated
    assert rotated.joined(KeyRing.from_invite(ring.invite(NOW))) == rotated
    with pytest.raises(SwarmKeyError, match="swarm"):
        ring.joined(KeyRing.generate())


def test_a_swarm_whose_keys_have_ended_invites_nobody() -> None:
    ring = KeyRing.generate()
    ended = KeyRing(ring.swarm, (SwarmKey(ring.keys[0].secret, NOW),))
    with pytest.raises(SwarmKeyError, match="ended"):
        ended.invite(NOW)


# --- files


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "swarm.key"
    ring = KeyRing.generate()
    write_ring(path, ring, new=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_ring(path) == ring
    path.chmod(0o640)
    with pytest.raises(SwarmKeyError, match="others may read"):
        read_ring(path)


def test_a_key_file_is_not_written_over_by_a_new_swarm(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    ring = KeyRing.generate()
    write_ring(path, ring, new=True)
    with pytest.raises(SwarmKeyError, match="exists"):
        write_ring(path, KeyRing.generate(), new=True)
    assert read_ring(path) == ring
    assert os.listdir(tmp_path) == ["swarm.key"]


def test_a_huge_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    path.write_text(str(KeyRing.generate()) + "#" * MAX_FILE)
    path.chmod(0o600)
    with pytest.raises(SwarmKeyError, match="larger"):
        read_ring(path)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    ring = KeyRing.generate()
    write_ring(path, ring)
    file = SwarmKeyFile(path)
    assert list(file.live()) == list(ring.keys)
    rotated = ring.rotated(overlap=DAY, now=time.time())
    write_ring(path, rotated)
    assert [key.secret for key in file.live()] == [key.secret for key in rotated.keys]


@pytest.mark.parametrize("damage", ["remove", "garbage", "open", "other"])
def test_a_file_that_goes_bad_does_not_change_who_is_a_member(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "swarm.key"
    ring = KeyRing.generate()
    write_ring(path, ring)
    file = SwarmKeyFile(path)
    if damage == "remove":
        path.unlink()
    elif damage == "garbage":
        path.write_text("x")
    elif damage == "other":
        write_ring(path, KeyRing.generate())
    else:
        path.write_text(str(KeyRing.generate()))
        path.chmod(0o644)
    assert list(file.live()) == list(ring.keys)
