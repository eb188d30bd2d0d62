"""Which leaves are sent smaller, and when that pays. Pure but for the time that packing takes.

A provider packs a leaf (`codec.pack_planes`) when its fetcher reads that encoding, a sample of it
shrinks, and the link is what everybody waits for. A link that takes bytes about as fast as they
are packed would only become slower, so its rate is measured as leaves are sent: packing begins
where it is at least twice as fast. What does not shrink costs a sample of some microseconds, and
after several of them, one sample in sixty-four leaves.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica.codec import pack_planes

from ._messages import Encoding

if TYPE_CHECKING:
    from ._reading import BlockBatch

SAMPLE_BYTES = 16 << 10  # from the middle of a leaf; takes some 5 µs for each width tried
_MIN_LEAF = 4 << 10  # bytes: smaller ones save less than the trouble
_WORTH = 15 / 16  # of its size is what a leaf has to shrink to
_MAX_SKIPPED = 64  # leaves between two samples of what does not shrink
_MAX_KINDS = 64  # element widths told apart on one stream
_LEAST_SENT = 1 << 20  # bytes before a link's rate says anything: the first ones go into windows
_FORGET_SECONDS = 2.0  # of sending, after which what was before counts half
_FIRST_PACK_RATE = 400e6  # bytes a second, until it has been measured
_MARGIN = 2.0  # by which packing must be faster than the link


class Compress(enum.Enum):
    """Whether leaves are sent smaller, where that is possible."""

    AUTO = "auto"  # where the link is slow enough for it to pay
    ON = "on"  # always
    OFF = "off"  # never, and nobody is asked to

    @property
    def encodings(self) -> tuple[int, ...]:
        """What a fetcher lists in its requests."""
        return () if self is Compress.OFF else (Encoding.ZSTD_PLANES,)


@dataclass(slots=True)
class _Rate:
    """Bytes a second, the latest seconds counting most."""

    size: float = 0.0
    seconds: float = 0.0

    def add(self, size: int, seconds: float) -> None:
        if self.seconds > _FORGET_SECONDS:
            self.size, self.seconds = self.size / 2, self.seconds / 2
        self.size += size
        self.seconds += seconds


@dataclass(slots=True)
class _Trials:
    """How leaves of one element width have shrunk lately."""

    failures: int = 0
    skip: int = 0  # leaves that are sent as they are, unseen


@dataclass(slots=True)
class LeafPacker:
    """Packs what one stream sends. One batch at a time; `note_sent` may be called meanwhile."""

    mode: Compress
    _link: _Rate = field(default_factory=_Rate)
    _packing: _Rate = field(default_factory=_Rate)
    _trials: dict[int, _Trials] = field(default_factory=dict)

    def note_sent(self, size: int, seconds: float) -> None:
        """Take into account that sending `size` bytes took so long."""
        self._link.add(size, seconds)

    @property
    def pays(self) -> bool:
        """Whether packed leaves would arrive sooner, as far as can be told."""
        if self.mode is not Compress.AUTO:
            return self.mode is Compress.ON
        packing = self._packing
        rate = packing.size / packing.seconds if packing.seconds else _FIRST_PACK_RATE
        return (
            self._link.size >= _LEAST_SENT and self._link.size * _MARGIN < rate * self._link.seconds
        )

    def pack(self, batch: BlockBatch) -> None:
        """*Slow.* Pack those leaves of `batch` that shrink."""
        began, size = time.perf_counter(), 0
        for number, (block, offset) in enumerate(zip(batch.blocks, batch.offsets, strict=True)):
            if offset < 0 or not isinstance(block, memoryview) or len(block) < _MIN_LEAF:
                continue
            small = self._pack(block, batch.strides[number])
            if small is not None:
                batch.packed[number] = small
                size += len(block)
        if size:
            self._packing.add(size, time.perf_counter() - began)

    def _pack(self, leaf: memoryview, stride: int) -> bytes | None:
        if len(self._trials) >= _MAX_KINDS and stride not in self._trials:
            stride = 1
        trials = self._trials.setdefault(stride, _Trials())
        if trials.skip:
            trials.skip -= 1
            return None
        width = find_width(leaf, stride)
        small = pack_planes(leaf, width) if width else None
        if small is not None and len(small) <= len(leaf) * _WORTH:
            trials.failures = 0
            return small
        trials.failures = min(trials.failures + 1, _MAX_SKIPPED.bit_length() - 1)
        trials.skip = (1 << trials.failures) - 1
        return None


def find_width(leaf: memoryview, stride: int) -> int:
    """Return the width of planes by which `leaf` shrinks, going by a sample; 0 if by none.

    Args:
        leaf: content.
        stride: the element width that its publisher gave; 1 where nobody knows, as in a node that
            has fetched what it serves: then the usual ones are tried.
    """
    start = max(0, (len(leaf) - SAMPLE_BYTES) // 2) & ~7
    sample = leaf[start : start + SAMPLE_BYTES]
    hinted = next((width for width in (8, 4, 2) if stride % width == 0), 1)
    best, least = 0, len(sample) * _WORTH
    for width in (hinted,) if hinted > 1 else (1, 2, 4):
        small = pack_planes(sample, width)
        if small is not None and len(small) < least:
            best, least = width, len(small)
    return best
