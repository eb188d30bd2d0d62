"""Output buffers that one sender lends to the next.

Half a megabyte of fresh memory costs as much as sealing it: the kernel clears each page first. So
the buffers that batches are sealed into are kept and used again; a link owns one only while it
sends.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Eight full Noise frames, with the muxer's headers between them; measured, more gains nothing.
BATCH_BYTES = 8 * (65_535 + 2) + 8192
_MAX_SPARES = 4  # kept for the next sender, from any thread
_spares: list[memoryview] = []


@contextmanager
def lent_buffer() -> Iterator[memoryview]:
    """Lend a buffer of `BATCH_BYTES` until the block ends. Its contents are anybody's."""
    try:
        buffer = _spares.pop()
    except IndexError:
        buffer = memoryview(bytearray(BATCH_BYTES))
    try:
        yield buffer
    finally:
        if len(_spares) < _MAX_SPARES:
            _spares.append(buffer)
