"""What a user names: a ticket or a CID to get, a path to share, a place to put things."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lattica.cid import CID
from lattica.errors import InvalidInput
from lattica.ticket import PREFIX, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PASTED = "lattica get "  # people copy the whole line


class InvalidReference(InvalidInput):
    """Text is neither a ticket nor a CID."""

    code = "reference"
    hint = "a ticket starts with `lattica:`, a CID with `bafk` or `bafy`"


class HoldsPrivateKey(InvalidInput):
    """What should be shared holds the private key of the node that would share it."""

    code = "holds-key"
    hint = "share a folder that the node's home is not in; nothing was shared"


def read_reference(ref: Ticket | CID | str) -> tuple[CID, Ticket | None]:
    """Return what `ref` names, and the ticket if it is one.

    Raises:
        TicketError: a damaged ticket.
        InvalidReference: neither.
    """
    if isinstance(ref, Ticket):
        return ref.root, ref
    if isinstance(ref, CID):
        return ref, None
    if not isinstance(ref, str):
        raise InvalidReference(f"{type(ref).__name__} is neither a ticket nor a CID")
    # Neither form has white space inside: it comes from terminals and mailers that wrap lines.
    text = "".join(ref.strip().removeprefix(_PASTED).split())
    if text.startswith(PREFIX):
        ticket = Ticket.parse(text)
        return ticket.root, ticket
    try:
        return CID.parse(text.removeprefix("ipfs://")), None
    except InvalidInput as error:
        hint = error.hint if text.startswith("Qm") else None  # it says how to convert that
        raise InvalidReference(
            f"{text[:80]!r} is neither a ticket nor a CID: {error}", hint=hint
        ) from None


def in_short(ref: object) -> str:
    """Return a reference as an error shows it: of a ticket, which is long, its beginning."""
    text = str(ref)
    return f"{text[:24]}…" if text.startswith(PREFIX) else text


def is_name(ref: object) -> bool:
    """Say whether a reference is the name of a model, `<peer id>/team/model`."""
    return isinstance(ref, str) and "/" in ref and not ref.strip().startswith(("/", "ipfs:"))


def destination_of(destination: Path | str | None, name: str, stands: Path | None = None) -> Path:
    """Return where to put an object called `name`, absolute: an existing directory gets it inside.

    `stands`: where the object is already; a directory that is it does not get it inside once more.

    Raises:
        InvalidInput: the folder that it should go to does not exist.
    """
    path = Path.cwd() if destination is None else Path(destination).expanduser().absolute()
    if path.is_dir() and path != stands:
        return path / name
    if not path.parent.is_dir():
        raise InvalidInput(
            f"there is no folder {path.parent}", hint=f"make it: mkdir -p {path.parent}"
        )
    return path


def source_of(
    path: Path | str,
    key: Path,
    *,
    follow_symlinks: bool = False,
    takes: Callable[[str], bool] = lambda _path: True,
) -> tuple[Path, int]:
    """Return what to share, absolute, and how many bytes that is, as far as can be seen.

    `takes`: says of the path of a file in a directory whether it is shared.

    Raises:
        HoldsPrivateKey: the file `key` is it, or below it.
    """
    source = Path(path).expanduser().absolute()
    if key.resolve().is_relative_to(source.resolve()):
        raise HoldsPrivateKey(f"{source} holds the private key of this node")
    try:
        size = (
            sum(_sizes_below(source, follow_symlinks, takes))
            if source.is_dir()
            else source.stat().st_size
        )
    except OSError:
        size = 0  # only a bar depends on it; who reads the files will say what is wrong
    return source, size


def _sizes_below(path: Path, follow_symlinks: bool, takes: Callable[[str], bool]) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            inside = os.path.join(folder, name)
            if not takes(os.path.relpath(inside, path)):
                continue
            yield os.stat(inside, follow_symlinks=follow_symlinks).st_size
