"""Values with tensors: a canonical head, and the tensors' own memory beside it (codec.md §4).

    pieces = encode({"step": 7, "grad": array})   # the head, then `array`'s memory, uncopied
    value = decode(b"".join(pieces))              # arrays that alias the message
    value = decode(message, out={"grad": mine})   # received into `mine`

Who reads from a stream need not hold the message: a `Receiver` says where the next bytes go.

    receiver = Receiver(max_size=1 << 30, out={"grad": mine})
    while (place := receiver.wanted()) is not None:
        ...fill `place`, all of it...
    value = receiver.value()

No type here names code, and none ever will: what arrives is numbers, text, bytes and tensors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lattica.errors import CodecError, InvalidInput

from ._canonical import MAX_DEPTH, pack, unpack
from ._dtypes import WIDTHS, numpy_dtype
from ._pickles import PICKLE, looks_like_pickle
from ._views import array_view, buffer_bytes, tensor_bytes, writable_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._canonical import Value

    Path: TypeAlias = "list[str | int]"

MAGIC = b"LTV\x01"
PREFIX_SIZE = 8  # magic, and the length of the head: 4 bytes, little-endian
ALIGNMENT = 64  # bytes: where tensors begin, from the start of the message
MAX_HEAD = 4 << 20  # bytes
MAX_TENSORS = 16_384
MAX_AXES = 32
MAX_VALUES = 262_144  # elements and entries in a head
_MAX_SIZE = 1 << 62  # bytes of a tensor, whatever is allowed
_INLINE_BYTES = 1 << 12  # of `bytes` in the head; longer ones travel beside it
_SCALARS = {int, float, str, bool, type(None)}  # what needs no look: most of what long lists hold
_STEPS = {int, str}  # of a path
_BYTES, _BUFFER = "BYTES", "BUFFER"  # what is no tensor: comes back as `bytes`, as a memoryview
Buffer: TypeAlias = bytes | bytearray | memoryview


def encode(value: Any) -> list[Buffer]:
    """Return a message as pieces to send one after the other.

    Args:
        value: None, bool, int, float, str, bytes, lists, tuples and maps with text as keys; in
            them, tensors (numpy, torch, whatever has `__array__`) of any stride and byte order, and
            buffers (bytearray, memoryview, array, mmap).

    Returns:
        The head, then for each tensor its memory, with padding between. Row-major little-endian
        tensors are not copied: they must not change until the pieces are sent.

    Raises:
        UnsupportedDType: a tensor of objects, of long doubles, of text.
        CodecError: another value that has no form, or too much of it.
    """
    tensors: list[Value] = []
    views: list[memoryview] = []
    plain = _split(value, [], tensors, views)
    if len(tensors) > MAX_TENSORS:
        raise CodecError(f"{len(tensors)} tensors, limit {MAX_TENSORS}")
    head = pack([plain, tensors])
    if len(head) > MAX_HEAD:
        raise CodecError(f"a head of {len(head)} bytes, limit {MAX_HEAD}")
    start = MAGIC + len(head).to_bytes(4, "little") + head
    pieces: list[Buffer] = [start]
    size = len(start)
    for view in views:
        if not view.nbytes:
            continue
        if padding := -size % ALIGNMENT:
            pieces.append(bytes(padding))
        pieces.append(view)
        size += padding + view.nbytes
    return pieces


def decode(
    message: Buffer | Sequence[Buffer], *, out: Any = None, max_size: int | None = None
) -> Any:
    """Read one message, whole or in pieces.

    Args:
        message: what `encode` gave, joined or not.
        out: of the same structure as the value, with arrays (numpy, torch) at the places of tensors
            that are to be received there; `out=array` where the value is one tensor. What it does
            not name is given as arrays that alias the message, read-only where that is.
        max_size: bytes; a larger message is refused unread.

    Raises:
        CodecError: not a message; what it holds does not fit `out`.
        InvalidInput: `out` cannot be written to.
    """
    pieces = [message] if isinstance(message, (bytes, bytearray, memoryview)) else message
    cursor = _Cursor(pieces)
    if max_size is not None and cursor.left > max_size:
        raise CodecError(f"a message of {cursor.left} bytes, limit {max_size}")
    size = _head_size(cursor.take(PREFIX_SIZE))
    head = _read_head(cursor.take(size), PREFIX_SIZE + size, cursor.left + PREFIX_SIZE + size)
    if head.size != cursor.left + PREFIX_SIZE + size:
        raise CodecError(f"{cursor.left} bytes follow the head, which announces {head.size}")
    value = head.value
    for tensor in head.tensors:
        _check_padding(cursor.take(tensor.padding))
        data = cursor.take(tensor.length)
        if tensor.dtype == "BOOL":
            _check_bools(data)
        target = _place(out, tensor.path)
        if target is None:
            target = _from_memory(tensor, data)
        else:
            _writable(target, tensor)[:] = data
        value = _put(value, tensor, target)
    return value


class Receiver:
    """Reads one message from a stream into the memory where it stays. Pure.

    Nothing is set aside for a message before its declared size was found to be allowed.

    Attributes:
        size: bytes of the whole message; None until its head is here.
    """

    def __init__(self, *, max_size: int, out: Any = None) -> None:
        """Receive a message of at most `max_size` bytes; `out` as `decode` has it."""
        self.size: int | None = None
        self._max_size, self._out = max_size, out
        self._prefix = bytearray(PREFIX_SIZE)
        self._head: bytearray | None = None
        self._read: _Head | None = None
        self._steps: list[memoryview] = []  # to be filled, the next one last
        self._padding: list[bytearray] = []
        self._filled: list[tuple[_Tensor, object, memoryview]] = []
        self._started = self._done = False

    def wanted(self) -> memoryview | None:
        """Return where the next bytes go, what was wanted before being filled; None at the end.

        Raises:
            CodecError: not a message, or larger than allowed. The stream is lost then.
            InvalidInput: `out` cannot be written to.
        """
        if not self._started:
            self._started = True
            return memoryview(self._prefix)
        if self._head is None:
            size = _head_size(self._prefix)
            if PREFIX_SIZE + size > self._max_size:
                raise CodecError(f"a head of {size} bytes, limit {self._max_size} for all")
            self._head = bytearray(size)
            return memoryview(self._head)
        if self._read is None:
            self._plan(self._head)
        if self._steps:
            return self._steps.pop()
        self._done = True
        return None

    def value(self) -> Any:
        """Return the value, once nothing is wanted any more. Raises CodecError."""
        if self._read is None or not self._done:
            raise InvalidInput("the message is not whole")
        for padding in self._padding:
            _check_padding(padding)
        value = self._read.value
        for tensor, target, data in self._filled:
            if tensor.dtype == "BOOL":
                _check_bools(data)
            if tensor.dtype == _BYTES:
                target = bytes(data)
            value = _put(value, tensor, target)
        return value

    def _plan(self, head: bytearray) -> None:
        read = _read_head(head, PREFIX_SIZE + len(head), self._max_size)
        for tensor in read.tensors:
            target = _place(self._out, tensor.path)
            if target is None:
                target, view = _allocate(tensor)
            else:
                view = _writable(target, tensor)
            self._filled.append((tensor, target, view))
            if tensor.padding:
                self._padding.append(bytearray(tensor.padding))
                self._steps.append(memoryview(self._padding[-1]))
            if tensor.length:
                self._steps.append(view)
        self._steps.reverse()
        self._read, self.size = read, read.size


class _Tensor(NamedTuple):
    """What a head says of one tensor: where it belongs, and what precedes it in the message."""

    dtype: str
    shape: tuple[int, ...]
    path: Path
    padding: int
    length: int


class _Head(NamedTuple):
    value: Value
    tensors: list[_Tensor]
    size: int  # of the whole message


def _split(value: Any, path: Path, tensors: list[Value], views: list[memoryview]) -> Value:
    """Return `value` with None where tensors were; these go to `tensors` and `views`."""
    if value is None or isinstance(value, (int, float, str)):
        return value
    if len(path) >= MAX_DEPTH:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, bytes) and len(value) <= _INLINE_BYTES:
        return value
    if isinstance(value, (list, tuple)):
        return [
            item if type(item) in _SCALARS else _split(item, [*path, i], tensors, views)
            for i, item in enumerate(value)
        ]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise CodecError("map keys must be strings")
        return {
            key: item
            if type(item := value[key]) in _SCALARS
            else _split(item, [*path, key], tensors, views)
            for key in sorted(value)
        }
    found = tensor_bytes(value)
    if found is not None:
        if len(found.shape) > MAX_AXES:
            raise CodecError(f"a tensor of {len(found.shape)} axes, limit {MAX_AXES}")
        tensors.append([found.dtype, list(found.shape), list(path)])
        views.append(found.data)
        return None
    data = buffer_bytes(value)
    if data is None:
        raise CodecError(f"{type(value).__name__} cannot be sent")
    tensors.append([_BYTES if isinstance(value, bytes) else _BUFFER, [data.nbytes], list(path)])
    views.append(data)
    return None


def _head_size(prefix: Buffer) -> int:
    if bytes(prefix[:4]) != MAGIC:
        if looks_like_pickle(prefix):
            raise CodecError(PICKLE, hint="send tensors with `lattica.codec.encode`")
        raise CodecError("not a message with tensors")
    size = int.from_bytes(prefix[4:PREFIX_SIZE], "little")
    if size > MAX_HEAD:
        raise CodecError(f"a head of {size} bytes, limit {MAX_HEAD}")
    return size


def _read_head(head: Buffer, offset: int, max_size: int) -> _Head:
    """Read a head that ends at `offset` of a message of at most `max_size` bytes."""
    read = unpack(head, max_size=MAX_HEAD, max_values=MAX_VALUES)
    if not isinstance(read, list) or len(read) != 2:
        raise CodecError("a head is an array of the value and its tensors")
    value, listed = read
    if not isinstance(listed, list):
        raise CodecError("the tensors of a head are an array")
    if len(listed) > MAX_TENSORS:
        raise CodecError(f"{len(listed)} tensors, limit {MAX_TENSORS}")
    tensors: list[_Tensor] = []
    for entry in listed:
        tensor = _read_tensor(entry, offset)
        if tensors and not _precedes(tensors[-1].path, tensor.path):
            raise CodecError(f"the tensor at {tensor.path} is out of order")
        if _at(value, tensor.path) is not None:
            raise CodecError(f"the place {tensor.path} of a tensor is taken")
        offset += tensor.padding + tensor.length
        if offset > max_size:
            raise CodecError(f"a message of {offset} bytes or more, limit {max_size}")
        tensors.append(tensor)
    return _Head(value, tensors, offset)


def _read_tensor(entry: Value, offset: int) -> _Tensor:
    if not isinstance(entry, list) or len(entry) != 3:
        raise CodecError("a tensor is an array of dtype, shape and path")
    dtype, shape, path = entry
    if not isinstance(dtype, str) or not (dtype in WIDTHS or dtype in (_BYTES, _BUFFER)):
        raise CodecError(f"the dtype {str(dtype)[:40]!r} is not known")
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        raise CodecError(f"a shape is an array of at most {MAX_AXES} lengths")
    for axis in shape:
        if type(axis) is not int or not 0 <= axis < _MAX_SIZE:
            raise CodecError(f"the shape {str(shape)[:80]}")
    if not isinstance(path, list) or not {*map(type, path)} <= _STEPS:
        raise CodecError("a path is an array of keys and positions")
    axes: tuple[int, ...] = tuple(shape)  # type: ignore[arg-type]  # integers, as was checked
    width = WIDTHS.get(dtype, 1)
    # Axes of a tensor without elements may be long, but not longer than memory could be.
    if math.prod(axis or 1 for axis in axes) * width > _MAX_SIZE:
        raise CodecError(f"a tensor of shape {axes}")
    if dtype in (_BYTES, _BUFFER) and len(axes) != 1:
        raise CodecError("bytes have one length")
    length = math.prod(axes) * width
    padding = -offset % ALIGNMENT if length else 0
    return _Tensor(dtype, axes, path, padding, length)  # type: ignore[arg-type]  # checked above


def _precedes(one: Path, other: Path) -> bool:
    try:
        return one < other  # keys compare as their UTF-8 does
    except TypeError:  # a key and a position: no value has both in one place
        return False


def _at(value: Value, path: Path) -> Value:
    for step in path:
        match value:
            case dict() if isinstance(step, str) and step in value:
                value = value[step]
            case list() if isinstance(step, int) and 0 <= step < len(value):
                value = value[step]
            case _:
                raise CodecError(f"there is no place {path} for a tensor")
    return value


def _put(value: Value, tensor: _Tensor, found: object) -> Value:
    if not tensor.path:
        return found  # type: ignore[return-value]  # from here on the value has tensors
    container = _at(value, tensor.path[:-1])
    container[tensor.path[-1]] = found  # type: ignore[index,call-overload,assignment]  # `_read_head` looked
    return value


def _place(out: Any, path: Path) -> Any:
    """Return what `out` has for the tensor at `path`, or None."""
    for step in path:
        if isinstance(out, dict):
            out = out.get(step)
        elif isinstance(out, (list, tuple)):
            out = out[step] if isinstance(step, int) and step < len(out) else None
        else:
            return None
    return out


def _writable(target: object, tensor: _Tensor) -> memoryview:
    if tensor.dtype in (_BYTES, _BUFFER):
        view = buffer_bytes(target)
        if view is None or view.readonly or view.nbytes != tensor.length:
            raise CodecError(f"{tensor.length} bytes do not fit what is given for {tensor.path}")
        return view
    try:
        return writable_view(target, tensor.dtype, tensor.shape)
    except InvalidInput as error:
        raise CodecError(f"the tensor at {tensor.path}: {error}", hint=error.hint) from None


def _allocate(tensor: _Tensor) -> tuple[object, memoryview]:
    if tensor.dtype in (_BYTES, _BUFFER):
        view = memoryview(bytearray(tensor.length))
        return view, view
    import numpy as np

    array = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
    return array, array_view(array)


def _from_memory(tensor: _Tensor, data: memoryview) -> object:
    if tensor.dtype == _BYTES:
        return bytes(data)
    if tensor.dtype == _BUFFER:
        return data
    import numpy as np

    return np.ndarray(tensor.shape, numpy_dtype(tensor.dtype), buffer=data)


def _check_bools(data: memoryview) -> None:
    # Other bytes would be true to some operations and false to others.
    import numpy as np

    if data.nbytes and np.frombuffer(data, np.uint8).max() > 1:
        raise CodecError("a tensor of booleans has other bytes than 0 and 1")


def _check_padding(padding: Buffer) -> None:
    if any(padding):
        raise CodecError("padding that is not zero")


class _Cursor:
    """Takes bytes from pieces in order; copies only what lies across two."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = [memoryview(piece).cast("B") for piece in pieces if len(piece)][::-1]
        self.left = sum(piece.nbytes for piece in self._pieces)

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise CodecError("the message is cut short")
        self.left -= size
        if not size:
            return memoryview(b"")
        piece = self._pieces.pop()
        if piece.nbytes == size:
            return piece
        if piece.nbytes > size:
            self._pieces.append(piece[size:])
            return piece[:size]
        joined = bytearray(piece)
        while len(joined) < size:
            piece = self._pieces.pop()
            missing = size - len(joined)
            joined += piece[:missing]
            if piece.nbytes > missing:
                self._pieces.append(piece[missing:])
        return memoryview(joined)
