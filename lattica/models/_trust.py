"""Whom the user trusts: peer IDs in a file of theirs, one a line, with a note behind each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.errors import InvalidInput
from lattica.identity import PeerId

if TYPE_CHECKING:
    from pathlib import Path

MAX_KEYS = 10_000
_MAX_BYTES = 4 << 20
_HEAD = "# Keys whose signatures this node trusts: a peer ID a line, and a note.\n"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that the user trusts, and the note behind it."""

    peer: PeerId
    note: str


def read_keys(path: Path) -> list[TrustedKey]:
    """Read a key file; a missing one has no keys.

    Raises:
        InvalidInput: a line that is no peer ID; the message names it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    if len(data) > _MAX_BYTES:
        raise InvalidInput(f"{path} has more than {_MAX_BYTES} bytes")
    found: dict[PeerId, TrustedKey] = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        text, _, note = line.strip().partition(" ")
        if not text or text.startswith("#"):
            continue
        try:
            peer = PeerId.parse(text)
        except InvalidInput as error:
            raise InvalidInput(f"{path}, line {number}: {error}", hint=error.hint) from None
        found[peer] = TrustedKey(peer, note.strip().removeprefix("#").strip())
    if len(found) > MAX_KEYS:
        raise InvalidInput(f"{path} has {len(found)} keys, limit {MAX_KEYS}")
    return list(found.values())


def add_key(path: Path, peer: PeerId, note: str = "") -> bool:
    """Add a key, or change its note; False where nothing changed. Raises InvalidInput."""
    if not note.isprintable():
        raise InvalidInput(f"the note {note!r} has characters that do not print")
    keys = read_keys(path)
    if TrustedKey(peer, note) in keys:
        return False
    _write(path, [*(one for one in keys if one.peer != peer), TrustedKey(peer, note)])
    return True


def remove_key(path: Path, peer: PeerId) -> bool:
    """Remove a key; False where it was not there. Raises InvalidInput."""
    keys = read_keys(path)
    kept = [one for one in keys if one.peer != peer]
    if len(kept) == len(keys):
        return False
    _write(path, kept)
    return True


def _write(path: Path, keys: list[TrustedKey]) -> None:
    lines = [f"{one.peer} {one.note}".rstrip() + "\n" for one in keys]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(_HEAD + "".join(lines))
    temporary.replace(path)
