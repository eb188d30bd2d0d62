"""Message names in the spellings of other implementations."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, strategies as st

from lattica.identity import Identity, PeerId
from lattica.pubsub._message_id import IdForm, read_id, write_id

AUTHOR = Identity(bytes(range(32))).peer_id
HASHED = PeerId(b"\x12\x20" + hashlib.sha256(b"key").digest())
seqnos = st.integers(0, 2**64 - 1)


@given(seqnos, st.sampled_from(IdForm), st.sampled_from([AUTHOR, HASHED]))
def test_a_name_survives_every_spelling(seqno: int, form: IdForm, author: PeerId) -> None:
    name = author.raw + seqno.to_bytes(8, "big")
    spelt = form if author is AUTHOR or form is not IdForm.KEY else IdForm.PEER_ID
    assert read_id(write_id(name, form)) == (name, spelt)


def test_the_spellings_are_those_of_the_implementations() -> None:
    name = AUTHOR.raw + (7).to_bytes(8, "big")
    assert write_id(name, IdForm.PEER_ID) == bytes.fromhex("0024 0801 1220") + name[6:]
    assert write_id(name, IdForm.KEY) == bytes.fromhex("0801 1220") + name[6:]
    assert write_id(name, IdForm.HEX) == name.hex().encode()
    assert write_id(name, IdForm.TEXT) == str(AUTHOR).encode() + b"7"


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"x",
        bytes(8),
        b"\x00\x24short" + bytes(8),
        hashlib.sha256(b"content").digest(),
        b"0024zz",
        b"0024" + b"\xff" * 10,
        str(AUTHOR).encode(),
        str(AUTHOR).encode() + b"-7",
        str(AUTHOR).encode() + b"9" * 21,
        str(AUTHOR).encode() + b"9" * 20,
        b"12D3Koo0" + b"1" * 60,
        b"\x08\x01\x12\x20short" + bytes(8),
        b"\x08",
    ],
    ids=repr,
)
def test_a_name_in_no_known_spelling_says_nothing(name: bytes) -> None:
    assert read_id(name) is None


@given(st.binary(max_size=80))
def test_reading_any_bytes_does_not_fail(name: bytes) -> None:
    found = read_id(name)
    assert found is None or len(found[0]) > 8


@given(st.sampled_from([b"\x00", b"\x12", b"\x08", b"0024", b"1220", b"12", b"Qm"]), st.binary())
def test_reading_what_begins_well_does_not_fail(start: bytes, rest: bytes) -> None:
    found = read_id(start + rest)
    assert found is None or len(found[0]) > 8


def test_software_that_is_known_suggests_its_spelling() -> None:
    agents = ["js-libp2p/3.3.11 node/22", "py-libp2p/0.8", "rust-libp2p/0.47", "kubo/0.40", ""]
    forms = [IdForm.KEY, IdForm.HEX, IdForm.TEXT, IdForm.PEER_ID, IdForm.PEER_ID]
    assert [IdForm.of_agent(agent) for agent in agents] == forms
