"""Which names of files are passed on, and which are written: what could be misread elsewhere.

`_unixfs.encode_name` refuses what is no name in any object. Beyond that, who shares is asked for
more than who reads: names that some system takes for a device or for another name, or that nobody
can read, are not put into new objects. Objects that have them remain what they are, and are served;
who writes them to disk refuses those that its own system, or the eye, would misread. Rules:
spec/content.md sections 4.2.1 and 4.2.2.
"""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TYPE_CHECKING

from ._unixfs import UnsafeName

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"}
_DEVICES |= {f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789¹²³"}
# Marks that turn the direction of text around, and ends of lines: what is shown is not what it is.
_DECEIVING = re.compile("[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_WINDOWS = re.compile(r'[<>:"|?*]')
_LEAVE_OUT = "rename it, or leave it out: --exclude"


def check_new_names(directory: str, names: Iterable[str]) -> None:
    """Refuse entries of a directory that is about to be shared.

    Args:
        directory: where it is, for the message.
        names: of all its entries.

    Raises:
        UnsafeName: a device of Windows, a name that ends in a dot or a space, one with marks that
            change how it is shown, or two that are one where case does not count or accents are
            composed.
    """
    seen: dict[str, str] = {}
    for name in names:
        where = f"{name!r} in {directory}"
        _check_readable(name, where)
        _check_for_windows(name, where)
        other = seen.setdefault(folded(name), name)
        if other != name:
            raise UnsafeName(f"{where} and {other!r} are one name on some systems", hint=_LEAVE_OUT)


def check_written_names(paths: Iterable[str], *, windows: bool = os.name == "nt") -> None:
    """Refuse relative paths that are about to be written to this system's disk.

    Raises:
        UnsafeName: what nobody can read, or, on Windows, what that takes for something else.
    """
    for path in paths:
        for name in path.split("/") if path else ():
            where = f"{path!r}"
            _check_readable(name, where)
            if windows:
                _check_for_windows(name, where)
                if found := _WINDOWS.search(name):
                    raise UnsafeName(f"{where} contains {found[0]!r}", hint=_LEAVE_OUT)


def folded(name: str) -> str:
    """Return the same text for all names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _check_readable(name: str, where: str) -> None:
    if found := _DECEIVING.search(name):
        raise UnsafeName(
            f"{where} contains U+{ord(found[0]):04X}, which changes how it is shown",
            hint=_LEAVE_OUT,
        )


def _check_for_windows(name: str, where: str) -> None:
    if name.endswith((".", " ")):
        raise UnsafeName(f"{where} ends in {name[-1]!r}, which Windows drops", hint=_LEAVE_OUT)
    if name.split(".")[0].rstrip(" ").casefold() in _DEVICES:
        raise UnsafeName(f"{where} is a device on Windows", hint=_LEAVE_OUT)
