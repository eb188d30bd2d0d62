"""Reading the headers of model files."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ._safetensors import LENGTH_BYTES, Header, SafetensorsError, cut, header_size, parse_header

if TYPE_CHECKING:
    from pathlib import Path

    from lattica.content import Segment

SUFFIX = ".safetensors"  # of the names of files that are cut; upper and lower case differ

_log = logging.getLogger(__name__)


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, whatever its name.

    Raises:
        SafetensorsError: it has none that we cut by; the message says why.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(LENGTH_BYTES)
        header = start + file.read(header_size(start, size) - LENGTH_BYTES)
        return parse_header(header, size)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe that stands there instead must not block us."""
    return os.open(path, flags | os.O_NONBLOCK)


def cut_file(path: Path) -> list[Segment] | None:
    """Return the segments of a file, for `lattica.content.build`; None where it is one.

    A file named `*.safetensors` with a valid header is cut; a log line says why another one of that
    name is not. Nothing else is opened.
    """
    if not path.name.endswith(SUFFIX):
        return None
    try:
        header = read_header(path)
    except SafetensorsError as error:
        _log.warning("%s is shared as one segment: %s", path, error)
        return None
    return cut(header, path.stat().st_size)
