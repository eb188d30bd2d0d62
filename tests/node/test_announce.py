"""Announcements of shares: strangers' words, bounded and checked."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from lattica._announce import (
    MAX_HEARD,
    MAX_HEARD_PER_PEER,
    AnnouncementError,
    Heard,
    decode,
    encode,
    topic,
)
from lattica.cid import CID
from lattica.errors import InvalidInput
from lattica.identity import KeyType, PeerId, PublicKey
from lattica.results import Announcement


def peer(number: int) -> PeerId:
    return PublicKey(KeyType.ED25519, number.to_bytes(32, "big")).peer_id


@given(st.binary(max_size=20), st.text(max_size=20), st.integers(0, 2**63 - 1))
def test_what_we_announce_is_read_by_others(content: bytes, name: str, size: int) -> None:
    announcement = decode(encode(CID.of(content), name, size), peer(1))
    assert (announcement.cid, announcement.size) == (CID.of(content), size)
    assert announcement.name in (name, "")


@given(st.binary(max_size=300))
def test_any_message_is_an_announcement_or_an_error(data: bytes) -> None:
    with contextlib.suppress(AnnouncementError):
        decode(data, peer(1))


def _say(heard: Heard, who: int, what: int) -> None:
    heard.add(Announcement(CID.of(what.to_bytes(4, "big")), "", 0, peer(who)))


def test_one_peer_cannot_push_out_what_others_said() -> None:
    heard = Heard()
    _say(heard, 1, 0)
    for what in range(2 * MAX_HEARD):
        _say(heard, 2, what)
    kept = heard.all()
    assert len(kept) == MAX_HEARD_PER_PEER + 1
    assert kept[0].peer == peer(1)
    assert kept[-1].cid == CID.of((2 * MAX_HEARD - 1).to_bytes(4, "big"))


def test_many_peers_cannot_make_us_remember_without_bound() -> None:
    heard = Heard()
    for who in range(MAX_HEARD + 10):
        _say(heard, who, 0)
    assert len(heard.all()) == MAX_HEARD
    assert heard.all()[0].peer == peer(10)


def test_saying_it_again_replaces_what_was_said() -> None:
    heard = Heard()
    for _ in range(3):
        _say(heard, 1, 0)
    assert len(heard.all()) == 1


@pytest.mark.parametrize("swarm", ["", "a/b", "x" * 65, "a\nb"])
def test_a_swarm_has_a_plain_name(swarm: str) -> None:
    with pytest.raises(InvalidInput):
        topic(swarm)


def test_an_object_goes_by_the_name_that_was_announced_last() -> None:
    heard, cid = Heard(), CID.of(b"x")
    assert heard.name_of(cid) is None
    for who, name in ((1, "first"), (2, "second"), (3, "")):
        heard.add(Announcement(cid, name, 0, peer(who)))
    assert heard.name_of(cid) == "second"
