"""Reading tensors of a checkpoint, wherever its bytes are: rows, layers, shares of a rank, or all.

    tensors = await open_tensors(reader)          # headers and topmost index blocks, nothing else
    rows = await tensors["embed.weight"][128:256] # those rows
    state = await tensors.load(layers=(0, 14))
    await tensors.load_into(state)                # into memory that is there already

A reader gives ranges of bytes: from a file here, or verified from peers (`Exchange.open`). Tensors
are read straight into their own memory, a few pieces at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import trio

from lattica._nursery import private_nursery
from lattica.cid import HashFunction
from lattica.codec import array_view, numpy_dtype, tensor_bytes, writable_view
from lattica.content import NotCutSo, segment_cid
from lattica.errors import InvalidInput

from ._delta_reading import Change
from ._safetensors import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    SafetensorsError,
    header_size,
    parse_header,
)
from ._select import Portion, portion, select
from ._view import (
    FileView,
    MalformedCheckpoint,
    TensorInfo,
    checkpoint_files,
    join_views,
    parse_shard_index,
    refuse_pickle,
    tensor_named,
    view_file,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from lattica.cid import CID
    from lattica.codec import Array

    from ._delta_reading import DeltaWays

    Target = tuple[Portion, memoryview]  # what to read, and where to

_PIECE_BYTES = 8 << 20  # of a tensor read at once: whole leaves, where the tensor begins with one
_PIECES = 4  # read at the same time
_MARK_BYTES = 256  # by which a pickle is known
_HEADERS_AT_ONCE = 16


class Reader(Protocol):
    """One file, or one folder, to read from: `lattica.content.ObjectReader`, or `LocalReader`."""

    is_directory: bool

    @property
    def root(self) -> CID | None:
        """What it is, where that is known."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    async def read(self, offset: int, length: int, *, out: memoryview) -> bytes | memoryview:
        """Read into `out`."""

    async def segments(self, lengths: Sequence[int]) -> list[CID]:
        """Return the root of each segment. Raises NotCutSo."""

    async def names(self) -> list[str]:
        """Return the names in a folder."""

    async def open(self, path: str) -> Reader:
        """Return a reader of what is at `path` below a folder."""


class TensorReader:
    """The tensors of an opened checkpoint. Made by `open_tensors`.

    Attributes:
        tensors: by name, in the order of the files and of the data in them.
        metadata: the free-form strings of the files' headers, joined.
        files: the safetensors files.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        files: Sequence[FileView],
        readers: Mapping[str, Reader],
    ) -> None:
        self.tensors, self.files = tensors, tuple(files)
        self.metadata = {
            name: text for file in files for name, text in file.header.metadata.items()
        }
        self._readers = readers
        self._room = trio.CapacityLimiter(_PIECES)

    def __getitem__(self, name: str) -> LazyTensor:
        """Return a tensor to slice: nothing is read yet. Raises InvalidInput for no such name."""
        return LazyTensor(tensor_named(self.tensors, name), self)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    async def load(
        self,
        *,
        layers: tuple[int, int] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rank: tuple[int, int] | None = None,
        base: Mapping[str, Any] | None = None,
        deltas: DeltaWays | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> dict[str, Array]:
        """Read tensors, all or those that `select` names, into new arrays.

        Args:
            layers: as `lattica.models.select`.
            include: as `lattica.models.select`.
            exclude: as `lattica.models.select`.
            rank: as `lattica.models.select`.
            base: tensors of another version; those with the bytes that are wanted are taken from
                there as they are, and nothing is read for them.
            deltas: by which the others are made of those in `base`, where that reads less.
            progress: called with the bytes read, piece by piece, on the loop.

        Raises:
            InvalidInput: a selection that is none.
            UnsupportedDType: a tensor of a dtype that numpy does not have.
        """
        import numpy as np

        chosen = self.select(layers=layers, include=include, exclude=exclude, rank=rank)
        kept = await self._same(chosen, base or {})
        state: dict[str, Array] = {}
        missing: list[Target] = []
        for one in chosen:
            name = one.tensor.name
            if name in kept:
                state[name] = kept[name]
                if progress is not None:
                    progress(one.length)
                continue
            state[name] = np.empty(one.shape, numpy_dtype(one.tensor.dtype))
            missing.append((one, array_view(state[name])))
        if base and deltas is not None:
            missing = await self._by_deltas(missing, base, deltas, progress)
        await self.read_portions(missing, progress)
        return state

    async def load_into(
        self,
        state: Mapping[str, Any],
        *,
        strict: bool = True,
        base: bool = False,
        deltas: DeltaWays | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """Read the tensors that `state` names into its arrays (numpy or torch), in place.

        Beside them, some mebibytes are held: no second copy of the model is made. Cancelled or
        failed, some of the arrays hold new values.

        Args:
            state: arrays of the dtypes and shapes of the checkpoint, row-major.
            strict: refuse names that only one side has, before anything is read.
            base: the arrays hold another version: what is the same in both is not read.
            deltas: with `base`, by which the others are made of what is there, where that reads
                less. One tensor more is held meanwhile.
            progress: called with the bytes read, piece by piece, on the loop.

        Returns:
            The names that were read.

        Raises:
            InvalidInput: an array does not fit; with `strict`, a name is missing on one side.
        """
        ours, theirs = set(self.tensors), set(state)
        if strict and ours != theirs:
            where = "the checkpoint" if theirs - ours else "the state"
            name = min(theirs - ours or ours - theirs)
            raise InvalidInput(
                f"{where} has no tensor {name!r}", hint="strict=False reads those that both have"
            )
        names = [name for name in self.tensors if name in theirs]
        targets: list[Target] = []
        for name in names:
            info = self.tensors[name]
            try:
                view = writable_view(state[name], info.dtype, info.shape)
            except InvalidInput as error:
                raise InvalidInput(f"{name!r}: {error}", hint=error.hint) from None
            targets.append((portion(info)[0], view))
        if base:
            kept = await self._same([one for one, _ in targets], state)
            if progress is not None:
                progress(sum(one.length for one, _ in targets if one.tensor.name in kept))
            targets = [target for target in targets if target[0].tensor.name not in kept]
            if deltas is not None:
                targets = await self._by_deltas(targets, state, deltas, progress, in_place=True)
        await self.read_portions(targets, progress)
        return names

    def select(
        self,
        *,
        layers: tuple[int, int] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rank: tuple[int, int] | None = None,
    ) -> list[Portion]:
        """Return what `load` would read; see `lattica.models.select`."""
        return select(
            self.tensors.values(), layers=layers, include=include, exclude=exclude, rank=rank
        )

    async def matches(self, state: Mapping[str, Any]) -> bool:
        """Say whether `state` has the tensors of this checkpoint, bit by bit. Reads no tensor.

        Raises:
            NotCutSo: the checkpoint was shared whole, so its tensors have no identifiers.
        """
        if set(state) != set(self.tensors):
            return False
        chosen = self.select()
        if any(one.tensor.cid is None for one in chosen):
            raise NotCutSo("the tensors of this checkpoint have no identifiers")
        return len(await self._same(chosen, state)) == len(chosen)

    async def read_portions(
        self,
        wanted: Sequence[Target],
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Read each portion into its memory, some pieces at a time, in order.

        The first failure ends all. Raises as the reader does.
        """
        async with private_nursery() as nursery:
            for one, view in wanted:
                reader = self._readers[one.tensor.file]
                for start in range(0, one.length, _PIECE_BYTES):
                    await self._room.acquire_on_behalf_of(token := object())
                    nursery.start_soon(
                        self._read_piece,
                        token,
                        reader,
                        one.offset + start,
                        view[start : start + _PIECE_BYTES],
                        progress,
                    )

    async def _read_piece(
        self,
        token: object,
        reader: Reader,
        offset: int,
        out: memoryview,
        progress: Callable[[int], object] | None,
    ) -> None:
        try:
            await reader.read(offset, out.nbytes, out=out)
        finally:
            self._room.release_on_behalf_of(token)
        if progress is not None:
            progress(out.nbytes)

    async def _by_deltas(
        self,
        missing: Sequence[Target],
        base: Mapping[str, Any],
        deltas: DeltaWays,
        progress: Callable[[int], object] | None,
        *,
        in_place: bool = False,
    ) -> list[Target]:
        """Make of the tensors of `base` what deltas can; return what is left to read."""
        changes: dict[str, list[Change]] = {}
        for one, view in missing:
            if one.whole and _like(base.get(one.tensor.name), one.tensor):
                old = base[one.tensor.name]
                changes.setdefault(one.tensor.file, []).append(
                    Change(one.tensor, old, view, in_place)
                )
        made: set[str] = set()
        for file, wanted in changes.items():
            root = self._readers[file].root
            if root is not None:
                made |= await deltas.make(root, wanted, progress)
        return [target for target in missing if target[0].tensor.name not in made]

    async def _same(self, chosen: Sequence[Portion], base: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of `base` is, bit by bit, what was chosen."""
        return await trio.to_thread.run_sync(_same_tensors, chosen, base)


class LazyTensor:
    """A tensor of an opened checkpoint: `await tensor[0:128]` reads those rows.

    Attributes:
        info: what is known of it without reading it.
    """

    def __init__(self, info: TensorInfo, tensors: TensorReader) -> None:
        self.info, self._tensors = info, tensors

    @property
    def dtype(self) -> str:
        """As safetensors spells it."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per axis."""
        return self.info.shape

    @property
    def cid(self) -> CID | None:
        """Its own identifier; None where its file was shared whole."""
        return self.info.cid

    def __getitem__(self, key: Any) -> Awaitable[Array]:
        """Read `tensor[key]`: integers, slices and `...`. See `read`."""
        return self.read(key)

    async def read(self, key: Any = ...) -> Array:
        """Read a part of the tensor, verified; no other bytes than the rows that cover it.

        Raises:
            InvalidInput: a key of another kind, or outside the tensor.
            UnsupportedDType: numpy has no such dtype.
        """
        import numpy as np

        wanted, found = portion(self.info, key)
        array = np.empty(wanted.shape, numpy_dtype(self.info.dtype))
        await self._tensors.read_portions([(wanted, array_view(array))])
        return array if found.index is None else array[found.index]

    def __repr__(self) -> str:
        return f"<tensor {self.info.name!r} {self.dtype} {list(self.shape)}>"


async def open_tensors(reader: Reader, *, cids: bool = True) -> TensorReader:
    """Open a checkpoint: read its headers, and which CID each tensor has.

    Args:
        reader: of a safetensors file, or of a folder with one or more of them.
        cids: look identifiers up: one index block a file, or two.

    Raises:
        SafetensorsError: a header is damaged or hostile; the message says how.
        MalformedCheckpoint: the files are no checkpoint.
    """
    weight_map = None
    files = [""]
    if reader.is_directory:
        index, files = checkpoint_files(await reader.names())
        if index is not None:
            weight_map = parse_shard_index(await _read_whole(await reader.open(index)))
            files = sorted(set(weight_map.values()))
    views: dict[str, FileView] = {}
    readers: dict[str, Reader] = {}
    room = trio.CapacityLimiter(_HEADERS_AT_ONCE)

    async def view(file: str) -> None:
        async with room:
            readers[file] = await reader.open(file) if reader.is_directory else reader
            views[file] = await _view(readers[file], file, cids=cids)

    async with private_nursery() as nursery:
        for file in files:
            nursery.start_soon(view, file)
    ordered = [views[file] for file in files]
    return TensorReader(join_views(ordered, weight_map), ordered, readers)


async def _view(reader: Reader, file: str, *, cids: bool) -> FileView:
    size = reader.size
    # Of a file that is cut, the first leaf is the header's: reading ahead would fetch another.
    start = await _read_some(reader, 0, min(LENGTH_BYTES, size))
    try:
        length = header_size(start, size)
    except SafetensorsError:
        refuse_pickle(await _read_some(reader, 0, min(_MARK_BYTES, size)), file)
        raise
    header = await _read_some(reader, 0, length)
    parsed = await trio.to_thread.run_sync(parse_header, header, size)
    view = view_file(parsed, size, file)
    if not cids:
        return view
    try:
        return view.with_roots(await reader.segments(view.segments()))
    except NotCutSo:
        return view  # shared under another name, so whole: its bytes can be read all the same


async def _read_whole(reader: Reader) -> bytes:
    if reader.size > MAX_HEADER_BYTES:
        raise MalformedCheckpoint(f"an index of {reader.size} bytes, limit {MAX_HEADER_BYTES}")
    return await _read_some(reader, 0, reader.size)


async def _read_some(reader: Reader, offset: int, length: int) -> bytes:
    data = bytearray(length)
    await reader.read(offset, length, out=memoryview(data))
    return bytes(data)


def _same_tensors(chosen: Sequence[Portion], base: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for one in chosen:
        info = one.tensor
        if info.name not in base or info.cid is None or not one.whole:
            continue
        if not _like(base[info.name], info):
            continue
        found = tensor_bytes(base[info.name])
        assert found is not None
        if segment_cid(found.data, HashFunction(info.cid.hash_function)) == info.cid:
            kept[info.name] = base[info.name]
    return kept


def _like(value: Any, info: TensorInfo) -> bool:
    """Say whether a value is a tensor of the dtype and shape of one that is known by its CID."""
    found = tensor_bytes(value) if info.cid is not None else None
    return found is not None and (found.dtype, found.shape) == (info.dtype, info.shape)
