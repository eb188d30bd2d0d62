"""How files are cut when they are shared: at their tensors, else as the user chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica.content import chunker
from lattica.models import cut_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lattica.content import Segment


def cutting(chunk: str | None) -> Callable[[Path], Sequence[Segment] | None]:
    """Return what `build` cuts files with: a checkpoint at its tensors, others as `chunk` says.

    Raises:
        ChunkError: `chunk` is neither `cdc` nor a size.
        ChunkerMissing: the library for `cdc` is not installed.
    """
    if chunk is None:
        return cut_file
    cut = chunker(chunk)

    def cut_either(path: Path) -> Sequence[Segment] | None:
        tensors = cut_file(path)
        return cut(path) if tensors is None else tensors

    return cut_either
