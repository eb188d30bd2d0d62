"""One version of a checkpoint as its difference from another: a safetensors file of payloads.

    make_delta(v1, v2, "v2.delta.safetensors")   # what v2 costs whoever has v1
    apply_delta(v1, "v2.delta.safetensors", v2)  # byte for byte v2, or nothing

The delta is itself a valid safetensors file: a tensor of bytes for each tensor that changed, under
its own name, and metadata that says which version it starts from and which it gives. What has no
payload is taken from the base as it is. The result's header travels only where it differs.

Work goes block by block (4 MiB), so memory does not grow with the checkpoint. Whatever a delta
claims, its result is hashed before it gets its name. Everything here blocks: call it from a worker
thread. Format: spec/delta.md.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lattica.cid import CID, HashFunction
from lattica.content import StorageError, build

from ._checkpoint import BLOCK_BYTES, CannotDelta, Checkpoint, part_file, publish, uncovered
from ._delta_codec import (
    PAYLOAD_HEAD,
    DeltaCodec,
    DeltaError,
    choose_codec,
    decode_block,
    encode,
    longest_block,
    read_head,
)
from ._delta_format import (
    Delta,
    DeltaEntry,
    PayloadReader,
    delta_header,
    free_name,
    read_delta,
    read_delta_from,
    write_header,
)
from ._safetensors import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Header,
    SafetensorsError,
    Tensor,
    cut,
    parse_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class DeltaSummary:
    """What `make_delta` made.

    Attributes:
        delta: what the file says.
        size: bytes of the file.
        entries: the tensors that changed.
        unchanged: how many did not.
    """

    delta: Delta
    size: int
    entries: tuple[DeltaEntry, ...]
    unchanged: int

    def to_json(self) -> dict[str, object]:
        """Return plain values, as `lattica delta make --json` prints them."""
        return {
            **self.delta.to_json(),
            "size": self.size,
            "unchanged": self.unchanged,
            "tensors": [entry.to_json() for entry in self.entries],
        }


def make_delta(
    base: Path,
    new: Path,
    out: Path,
    *,
    codec: DeltaCodec | None = None,
    anchor: CID | None = None,
    depth: int = 1,
    base_cid: CID | None = None,
    new_cid: CID | None = None,
    hash_function: HashFunction = HashFunction.BLAKE3,
    progress: Progress | None = None,
) -> DeltaSummary:
    """*Slow.* Write to `out` what turns the safetensors file `base` into `new`.

    Args:
        base: the version that receivers have.
        new: the version that they get.
        out: where the delta goes; replaced when it is whole, left alone if anything fails.
        codec: for every tensor; by default each gets the one that is smallest for it.
        anchor: the last version that is published whole. Default: `base`.
        depth: how many deltas that is away.
        base_cid: the CID of `base`, where it is known; hashed otherwise.
        new_cid: the same of `new`.
        hash_function: of the CIDs.
        progress: called with bytes of `new` that are done.

    Raises:
        CannotDelta: one of the files is not safetensors, or has bytes that belong to no tensor.
        OSError: one cannot be read, or `out` not be written.
    """
    with ExitStack() as stack:
        before, after = (Checkpoint(stack, path) for path in (base, new))
        base_cid = base_cid or before.hash(hash_function)
        new_cid = new_cid or after.hash(hash_function)
        same_header = before.header_bytes == after.header_bytes
        header_name = None if same_header else free_name(after.header)
        part = stack.enter_context(part_file(out))
        spool = stack.enter_context(part_file(out.with_name(f"{out.name}.payloads")))
        entries: list[DeltaEntry] = []
        unchanged = 0
        if header_name is not None:
            size = write_header(after.header_bytes, spool)
            entries.append(
                DeltaEntry(header_name, DeltaCodec.PLANES, size, len(after.header_bytes))
            )
        for tensor in after.header.tensors:
            if tensor.stop == tensor.start:
                continue
            entry = _write_tensor(before, after, tensor, spool, codec)
            if entry is None:
                unchanged += 1
            else:
                entries.append(entry)
            if progress is not None:
                progress(tensor.stop - tensor.start)
        head = delta_header(
            entries, base_cid, new_cid, anchor or base_cid, depth, after.size, header_name
        )
        part.write(head)
        spool.seek(0)
        shutil.copyfileobj(spool, part, 1 << 20)
        total = part.tell()
        publish(part, out)
    return DeltaSummary(read_delta(out), total, tuple(entries), unchanged)


def chain_after(previous: Path, base: Path) -> tuple[CID, int]:
    """*Slow.* Return anchor and depth of a delta from `base`, which `previous` gives.

    Raises:
        CannotDelta: `previous` gives another version, or `base` is no safetensors file.
        NotADelta: `previous` is no delta.
        OSError: one cannot be read.
    """
    delta = read_delta(previous)
    with ExitStack() as stack:
        found = Checkpoint(stack, base).hash(delta.result.hash_function)
    if found != delta.result:
        raise CannotDelta(
            f"{previous} gives {delta.result}, and {base} is {found}",
            hint="name the delta that gives this base, or leave it out to begin a chain",
        )
    return delta.anchor, delta.depth + 1


def apply_delta(
    base: Path,
    delta: Path,
    out: Path,
    *,
    progress: Progress | None = None,
) -> CID:
    """*Slow.* Write to `out` what `delta` makes of `base`; returns its CID, which was checked.

    `out` is replaced when all of it is there and matches, and left alone if anything fails. It may
    be `base`.

    Args:
        base: a safetensors file; if it is not the version that the delta starts from, the result
            does not match and is dropped.
        delta: the delta.
        out: where the result goes.
        progress: called with bytes of the result that are done.

    Raises:
        NotADelta: `delta` is no delta.
        DeltaError: it does not fit `base`, or does not give what it says.
        StorageError: what it says does not fit on the disk; nothing was written.
        OSError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        file = stack.enter_context(delta.open("rb"))
        described = read_delta_from(file, delta)
        try:
            before = Checkpoint(stack, base)
        except CannotDelta as error:
            raise DeltaError(str(error)) from error
        header_bytes = _result_header(file, described, before)
        try:
            header = parse_header(header_bytes, described.result_size)
        except SafetensorsError as error:
            raise DeltaError(f"the delta gives a header that is none: {error}") from error
        if uncovered(header, described.result_size):
            raise DeltaError("the delta gives a file with bytes that belong to no tensor")
        part = stack.enter_context(part_file(out))
        _check_room(part, described.result_size)
        part.write(header_bytes)
        payloads = {tensor.name: tensor for tensor in described.payloads}
        payloads.pop(described.header or "", None)
        for tensor in header.tensors:
            if tensor.stop > tensor.start:
                _apply_tensor(file, payloads.pop(tensor.name, None), before, tensor, part)
                if progress is not None:
                    progress(tensor.stop - tensor.start)
        if payloads:
            raise DeltaError(f"a payload for {next(iter(payloads))!r}, which the result lacks")
        part.flush()
        result = _hash(Path(part.name), header, described)
        if result != described.result:
            raise DeltaError(
                f"the result is {result}, expected {described.result}: "
                f"{base} is not {described.base}, or the delta is wrong"
            )
        publish(part, out)
    return result


def describe_delta(path: Path, base: Path | None = None) -> list[DeltaEntry]:
    """Return the payloads of a delta file; with `base`, also how large each tensor is.

    Raises:
        NotADelta, DeltaError, OSError: as `read_delta` and `apply_delta`.
    """
    with path.open("rb") as file:
        delta = read_delta_from(file, path)
        sizes: dict[str, int] = {}
        if base is not None:
            with ExitStack() as stack:
                header = Checkpoint(stack, base).header
                sizes = {tensor.name: tensor.stop - tensor.start for tensor in header.tensors}
        entries = []
        for payload in delta.payloads:
            length = payload.stop - payload.start
            if payload.name == delta.header:
                entries.append(DeltaEntry(payload.name, DeltaCodec.PLANES, length, 0))
                continue
            head = os.pread(file.fileno(), PAYLOAD_HEAD.size, payload.start)
            codec, _ = read_head(head, 0)
            entries.append(DeltaEntry(payload.name, codec, length, sizes.get(payload.name, 0)))
        return entries


def _write_tensor(
    before: Checkpoint,
    after: Checkpoint,
    tensor: Tensor,
    spool: BinaryIO,
    codec: DeltaCodec | None,
) -> DeltaEntry | None:
    """Append a tensor's payload to `spool`. None: it is what the base has, and nothing is added."""
    size = tensor.stop - tensor.start
    width = tensor.stride if size % tensor.stride == 0 else 1
    old = before.like(tensor)
    read_base = before.reader(old) if old is not None else None
    read_new = after.reader(tensor)
    if read_base is not None and _equal(read_base, read_new, size):
        return None
    if codec is None:
        codec = choose_codec(read_base, read_new, size, width)
    elif read_base is None and codec in (DeltaCodec.SPARSE, DeltaCodec.XOR):
        codec = DeltaCodec.PLANES
    start = spool.tell()
    for chosen in (codec, DeltaCodec.RAW):
        spool.seek(start)
        spool.truncate()
        for piece in encode(chosen, read_base, read_new, size, width):
            spool.write(piece)
            if chosen is not DeltaCodec.RAW and spool.tell() - start > size:
                break  # the samples were not like the rest
        else:
            codec = chosen
            break
    return DeltaEntry(tensor.name, codec, spool.tell() - start, size)


def _equal(
    read_base: Callable[[int, int], memoryview],
    read_new: Callable[[int, int], memoryview],
    size: int,
) -> bool:
    return all(
        read_base(offset, length) == read_new(offset, length)
        for offset in range(0, size, BLOCK_BYTES)
        if (length := min(BLOCK_BYTES, size - offset))
    )


def _apply_tensor(
    file: BinaryIO, payload: Tensor | None, before: Checkpoint, tensor: Tensor, part: BinaryIO
) -> None:
    """Append a tensor of the result to `part`."""
    size = tensor.stop - tensor.start
    old = before.like(tensor)
    read_base = before.reader(old) if old is not None else None
    if payload is None:
        if read_base is None:
            raise DeltaError(f"{tensor.name!r} is neither in the base nor in the delta")
        starts = range(0, size, BLOCK_BYTES)
        part.writelines(read_base(at, min(BLOCK_BYTES, size - at)) for at in starts)
        return
    reader = PayloadReader(file, payload)
    codec, width = read_head(reader.take(PAYLOAD_HEAD.size), size)
    out = memoryview(bytearray(min(BLOCK_BYTES, size)))
    for offset in range(0, size, BLOCK_BYTES):
        length = min(BLOCK_BYTES, size - offset)
        block = reader.block(longest_block(length, width))
        base = read_base(offset, length) if read_base is not None else None
        decode_block(codec, block, base, out[:length], width)
        part.write(out[:length])
    reader.finish()


def _result_header(file: BinaryIO, delta: Delta, before: Checkpoint) -> bytes:
    if delta.header is None:
        return before.header_bytes
    import zstandard

    limit = MAX_HEADER_BYTES + LENGTH_BYTES
    payload = next(tensor for tensor in delta.payloads if tensor.name == delta.header)
    if payload.stop - payload.start > limit:
        raise DeltaError(f"a header of {payload.stop - payload.start} bytes, limit {limit}")
    frame = bytes(PayloadReader(file, payload).take(payload.stop - payload.start))
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= limit:
            raise DeltaError(f"a header of {size} bytes, limit {limit}")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise DeltaError(f"the result's header is not zstd: {error}") from None


def _check_room(part: BinaryIO, size: int) -> None:
    """Refuse a result that the disk has no room for: a few bytes can say any number of zeros."""
    disk = os.fstatvfs(part.fileno())
    if size > (free := disk.f_bavail * disk.f_frsize):
        raise StorageError(f"the delta gives {size} bytes, the disk has {free}")


def _hash(path: Path, header: Header, delta: Delta) -> CID:
    if path.stat().st_size != delta.result_size:
        raise DeltaError(f"{path.stat().st_size} bytes, expected {delta.result_size}")
    segments = cut(header, delta.result_size)
    return build(path, segments=segments, hash_function=delta.result.hash_function).root
