"""What users name: tickets, CIDs, sources and destinations."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lattica._reference import (
    HoldsPrivateKey,
    InvalidReference,
    destination_of,
    in_short,
    read_reference,
    source_of,
)
from lattica.cid import CID
from lattica.errors import InvalidInput
from lattica.identity import Identity
from lattica.ticket import Ticket, TicketError

if TYPE_CHECKING:
    from pathlib import Path

ROOT = CID.of(b"hello")
TICKET = Ticket(ROOT, Identity(bytes(32)).peer_id, (), {"name": "model.bin"})


@pytest.mark.parametrize(
    "text",
    ["{}", " {}\n", "lattica get {}", "lattica get {} "],
    ids=["plain", "space", "line", "both"],
)
def test_a_reference_is_read_as_people_paste_it(text: str) -> None:
    assert read_reference(text.format(TICKET)) == (ROOT, TICKET)
    assert read_reference(text.format(ROOT)) == (ROOT, None)


def test_a_reference_is_read_when_its_line_was_wrapped() -> None:
    text = str(TICKET)
    wrapped = f"lattica get {text[:40]}\n{text[40:60]}\r\n  {text[60:]}\n"
    assert read_reference(wrapped) == (ROOT, TICKET)
    assert read_reference(f"{str(ROOT)[:9]} {str(ROOT)[9:]}") == (ROOT, None)


def test_values_are_references_already() -> None:
    assert read_reference(TICKET) == (ROOT, TICKET)
    assert read_reference(ROOT) == (ROOT, None)
    assert read_reference(f"ipfs://{ROOT}") == (ROOT, None)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_wrong_input(text: str) -> None:
    with contextlib.suppress(InvalidReference, TicketError):
        cid, _ = read_reference(text)
        assert isinstance(cid, CID)


def test_what_is_no_text_is_named_for_what_it_is() -> None:
    with pytest.raises(InvalidReference, match="int is neither"):
        read_reference(5)  # type: ignore[arg-type]


def test_a_long_wrong_reference_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidReference) as caught:
        read_reference("x" * 10_000)
    assert len(str(caught.value)) < 400


def test_an_object_goes_into_a_directory_under_its_name(tmp_path: Path) -> None:
    assert destination_of(tmp_path, "model.bin") == tmp_path / "model.bin"


def test_a_directory_that_is_the_object_already_does_not_get_it_inside(tmp_path: Path) -> None:
    assert destination_of(tmp_path, "model", tmp_path) == tmp_path
    assert destination_of(tmp_path, "model", tmp_path / "elsewhere") == tmp_path / "model"


def test_a_ticket_is_cut_where_an_error_shows_it_and_a_name_is_not() -> None:
    assert in_short("lattica:" + "a" * 400) == "lattica:" + "a" * 16 + "…"
    assert in_short("12D3KooW/team/model") == "12D3KooW/team/model"


def test_a_cid_of_version_0_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(InvalidReference) as caught:
        read_reference("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPBdG")
    assert "ipfs cid format -v 1" in caught.value.hint


def test_an_object_becomes_the_file_that_is_named(tmp_path: Path) -> None:
    assert destination_of(tmp_path / "x", "model.bin") == tmp_path / "x"


def test_without_a_destination_it_goes_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert destination_of(None, "model.bin") == tmp_path / "model.bin"


def test_a_missing_folder_is_named_with_the_way_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no folder") as caught:
        destination_of(tmp_path / "no" / "x", "model.bin")
    assert caught.value.hint == f"make it: mkdir -p {tmp_path / 'no'}"


def test_the_size_of_a_source_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "one").write_bytes(b"1" * 10)
    (tmp_path / "d" / "e" / "two").write_bytes(b"2" * 5)
    key = tmp_path / "home" / "key"
    assert source_of(tmp_path / "d", key) == (tmp_path / "d", 15)
    assert source_of(str(tmp_path / "d" / "one"), key) == (tmp_path / "d" / "one", 10)
    assert source_of(tmp_path / "absent", key) == (tmp_path / "absent", 0)
    (tmp_path / "d" / "link").symlink_to("one")
    assert source_of(tmp_path / "d", key, follow_symlinks=True) == (tmp_path / "d", 25)
    assert source_of(tmp_path / "d", key, takes=lambda path: path == "e/two")[1] == 5


@pytest.mark.parametrize("shared", [".", "home", "home/key", "link"])
def test_the_key_of_a_node_is_not_shared(tmp_path: Path, shared: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_bytes(b"secret")
    (tmp_path / "link").symlink_to("home")
    with pytest.raises(HoldsPrivateKey):
        source_of(tmp_path / shared, tmp_path / "home" / "key")
