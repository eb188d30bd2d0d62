"""Contacts across restarts: what is written, and what becomes of a file that was spoilt."""

from __future__ import annotations

import logging
import random
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lattica import codec
from lattica.dht._contacts import (
    KEPT_SECONDS,
    MAX_ADDRESSES,
    MAX_CONTACTS,
    MAX_FILE,
    ContactFile,
    Remembered,
    decode,
)
from lattica.errors import CodecError
from lattica.identity import PeerId
from lattica.transport import Multiaddr, PeerInfo

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOL = "/lattica/kad/1.0.0"
NOW = 1_800_000_000.0


def some_contacts(count: int, *, addresses: int = 1) -> list[Remembered]:
    rng = random.Random(1)
    where = tuple(Multiaddr.parse(f"/ip4/1.2.3.4/tcp/{1 + port}") for port in range(addresses))
    return [
        Remembered(PeerInfo(PeerId(b"\x12\x20" + rng.randbytes(32)), where), NOW - number)
        for number in range(count)
    ]


def opened(path: Path, *, protocol: str = PROTOCOL, now: float = NOW) -> ContactFile:
    return ContactFile(path, protocol=protocol, now=now)


def written(path: Path, contacts: list[Remembered]) -> ContactFile:
    file = opened(path)
    file.note(contacts, now=NOW)
    file.save()
    return file


def test_who_answered_is_remembered_with_the_latest_first(tmp_path: Path) -> None:
    path = tmp_path / "contacts"
    contacts = some_contacts(5, addresses=2)
    written(path, contacts[::-1])
    assert opened(path).latest() == [each.info for each in contacts]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["contacts"]


def test_what_is_remembered_has_bounds_and_the_longest_silent_go(tmp_path: Path) -> None:
    path = tmp_path / "contacts"
    contacts = some_contacts(MAX_CONTACTS + 40, addresses=9)
    written(path, contacts)
    remembered = opened(path).latest()
    assert [info.peer for info in remembered] == [
        each.info.peer for each in contacts[:MAX_CONTACTS]
    ]
    assert {len(info.addresses) for info in remembered} == {MAX_ADDRESSES}
    assert path.stat().st_size < MAX_FILE


def test_who_was_silent_for_a_month_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "contacts"
    written(path, some_contacts(3))
    assert len(opened(path, now=NOW + KEPT_SECONDS - 1.5)) == 2
    assert len(opened(path, now=NOW + KEPT_SECONDS)) == 0


def test_a_clock_that_was_ahead_makes_nobody_immortal(tmp_path: Path) -> None:
    path = tmp_path / "contacts"
    written(path, some_contacts(3))
    earlier = opened(path, now=NOW - 10 * KEPT_SECONDS)
    earlier.note([], now=NOW - 9 * KEPT_SECONDS)
    assert len(earlier) == 0


def test_contacts_of_another_swarm_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "contacts"
    written(path, some_contacts(3))
    assert opened(path, protocol="/other/kad/1").latest() == []


def test_who_is_remembered_stays_so_while_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / "contacts"
    written(path, some_contacts(3))
    file = opened(path)
    file.note([], now=NOW + 60.0)
    file.save()
    assert len(opened(path)) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 99,
        bytes(MAX_FILE + 1),
        codec.pack({"version": 2, "protocol": PROTOCOL, "contacts": []}),
        codec.pack({"version": 1, "protocol": PROTOCOL, "contacts": 7}),
        codec.pack({"version": 1, "protocol": PROTOCOL, "contacts": [[b"peer", [], 0]]}),
        codec.pack([1, 2, 3]),
    ],
    ids=["empty", "garbage", "huge", "newer", "no-list", "no-peer", "no-map"],
)
def test_a_damaged_file_is_ignored_with_a_word_in_the_log_and_written_anew(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "contacts"
    path.write_bytes(data)
    file = opened(path)
    assert len(file) == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    file.note(some_contacts(2), now=NOW)
    file.save()
    assert len(opened(path)) == 2


def test_a_file_that_cannot_be_written_costs_the_memory_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path / "gone" / "contacts", some_contacts(2))
    assert len(file) == 2
    assert "not kept across restarts" in caplog.text


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_any_bytes_are_contacts_or_a_codec_error(junk: bytes, place: int, byte: int) -> None:
    good = bytearray(
        codec.pack(
            {
                "version": 1,
                "protocol": PROTOCOL,
                "contacts": [
                    [each.info.peer.raw, [bytes(each.info.addresses[0])], int(each.seen)]
                    for each in some_contacts(4)
                ],
            }
        )
    )
    good[place % len(good)] = byte
    for data in (junk, bytes(good)):
        try:
            contacts = decode(data, PROTOCOL)
        except CodecError:
            continue
        assert all(isinstance(each.info, PeerInfo) for each in contacts)
