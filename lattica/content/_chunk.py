"""Other ways to cut a file than the usual one: by what is in it, or into leaves of a chosen size.

Cut by content (`cdc`), a byte that is inserted moves the cuts near it and no others, so that two
versions of a file share nearly all their leaves. The cuts are those of FastCDC with the parameters
of spec/content.md §7, which are frozen: two publishers of the same bytes agree. The chunker is a
library's; it is held against the specification once before it is used.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from lattica._sizes import parse_size
from lattica.errors import InvalidInput, LimitExceeded

from ._dag import SMALL_LEAF, Segment
from ._unixfs import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK = 32 << 10, 128 << 10, SMALL_LEAF  # bytes
_NORMALISATION = 2
_MIN_LEAF = 16 << 10  # bytes; smaller ones are more index than content
_MAX_CHUNKS = 1 << 22  # as many as one object may have leaves
_PROBE_BYTES = 1 << 20
_PROBE_DIGEST = "bb708e08854a56147b5bb103e72fe60878270c30019f21800e40df70e7db6877"


class ChunkError(InvalidInput):
    """There is no such way to cut a file."""

    code = "chunk"
    hint = "--chunk cdc cuts by content; --chunk 1M into leaves of that size (16K to 2M)"


class ChunkerMissing(InvalidInput):
    """Cutting by content needs a library that is not installed, or another version of it."""

    code = "chunker-missing"
    hint = "install it: pip install 'lattica-mesh[cdc]'"


class TooManyChunks(LimitExceeded):
    """A file would be cut into more chunks than an object may have leaves."""

    code = "too-many-chunks"
    retryable = False
    hint = "share it without --chunk, or with --chunk 1M"


def chunker(text: str) -> Callable[[Path], list[Segment]]:
    """Return what cuts a file as `text` says: `cdc`, or a size like `1M`; for `build`.

    Raises:
        ChunkError: it is neither.
        ChunkerMissing: the library for `cdc` is not there, or cuts otherwise than specified.
    """
    if text == "cdc":
        cut = _checked_library()
        return lambda path: _cut_file(path, cut)
    try:
        size = parse_size(text)
    except InvalidInput:
        raise ChunkError(f"{text!r} is no way to cut a file") from None
    if not _MIN_LEAF <= size <= MAX_BLOCK_BYTES:
        raise ChunkError(f"leaves of {size} bytes, expected 16 KiB to 2 MiB")
    return lambda path: [Segment(os.stat(path).st_size, leaf_bytes=size)]


def chunk_lengths(data: bytes) -> list[int]:
    """Return the lengths of the chunks of some bytes. Raises ChunkerMissing."""
    return [chunk.length for chunk in _checked_library().cut_buf(data)]


def _cut_file(path: Path, cut: Any) -> list[Segment]:
    # Read, not mapped: a mapped file that gets shorter kills the process.
    with path.open("rb", buffering=0) as file:
        segments = list(_segments(path, cut.cut_stream(file)))
    return segments or [Segment(0)]


def _segments(path: Path, chunks: Iterator[Any]) -> Iterator[Segment]:
    for number, chunk in enumerate(chunks):
        if number == _MAX_CHUNKS:
            raise TooManyChunks(f"{path} has more than {_MAX_CHUNKS} chunks")
        yield Segment(chunk.length)


@cache
def _checked_library() -> Any:
    """Return the chunker, which has been seen to cut as specified. Raises ChunkerMissing."""
    try:
        library = importlib.import_module("pyfastcdc")
    except ImportError:
        raise ChunkerMissing("cutting by content needs pyfastcdc, which is not installed") from None
    cut = library.FastCDC(
        AVERAGE_CHUNK,
        min_size=MIN_CHUNK,
        max_size=MAX_CHUNK,
        normalized_chunking=_NORMALISATION,
        seed=0,
    )
    probe = hashlib.shake_128(b"lattica").digest(_PROBE_BYTES)
    lengths = [chunk.length for chunk in cut.cut_buf(probe)]
    if hashlib.sha256(repr(lengths).encode()).hexdigest() != _PROBE_DIGEST:
        raise ChunkerMissing(
            "the pyfastcdc that is installed cuts otherwise than specified",
            hint="install the version that goes with it: pip install 'lattica-mesh[cdc]'",
        )
    return cut
