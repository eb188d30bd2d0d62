"""The bytes of tensors and buffers, where they are: nothing is copied that need not be.

numpy is asked only about objects that it could have made, and torch never loaded: who passes one of
its tensors has it already.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from lattica.errors import InvalidInput

from ._dtypes import UnsupportedDType, dtype_name, torch_dtype_name

if TYPE_CHECKING:
    from ._dtypes import Array


class TensorBytes(NamedTuple):
    """A tensor as it travels: row-major and little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview  # of bytes


def tensor_bytes(value: object) -> TensorBytes | None:
    """Return a tensor's bytes; None when `value` is none.

    A contiguous, little-endian tensor is not copied; one of another stride or byte order is, in
    memory, once. Tensors are numpy's, torch's, and what numpy can take by `__array__`.

    Raises:
        UnsupportedDType: its elements have no form outside this process.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        data = array_view(_torch_bytes(torch, value).numpy())
        return TensorBytes(torch_dtype_name(value.dtype), tuple(value.shape), data)
    if "numpy" not in sys.modules or not hasattr(value, "__array__"):
        return None
    import numpy as np

    array = np.asarray(value)
    return TensorBytes(dtype_name(array.dtype), array.shape, array_view(_row_major(array)))


def array_view(array: Array) -> memoryview:
    """Return the bytes of a row-major array; writable where the array is."""
    import numpy as np

    # By way of bytes: the buffer protocol does not know small floats.
    flat: Any = array.reshape(-1).view(np.uint8)
    view = memoryview(flat)
    return view if view.nbytes else memoryview(bytearray())


def writable_view(target: object, dtype: str, shape: tuple[int, ...]) -> memoryview:
    """Return the memory of a tensor that is to receive `dtype` and `shape`.

    Raises:
        InvalidInput: it is not such a tensor, not row-major, not little-endian, or read-only.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(target, torch.Tensor):
        found, theirs = torch_dtype_name(target.dtype), tuple(target.shape)
        usable = target.device.type == "cpu" and target.is_contiguous()
        _check_fit(found, theirs, dtype, shape, usable)
        return array_view(_torch_bytes(torch, target).numpy())
    import numpy as np

    if not isinstance(target, np.ndarray):
        raise InvalidInput(f"a tensor cannot be received into {type(target).__name__}")
    usable = target.flags.c_contiguous and target.flags.writeable and _is_little(target)
    _check_fit(dtype_name(target.dtype), target.shape, dtype, shape, usable)
    return array_view(target)


def buffer_bytes(value: object) -> memoryview | None:
    """Return the bytes of a plain buffer; None when `value` is none. Strided ones are copied."""
    if isinstance(value, (str, int, float, list, dict, tuple)) or value is None:
        return None
    try:
        view = memoryview(value)  # type: ignore[arg-type]  # what is no buffer says so
    except TypeError:
        return None
    if view.nbytes == 0:
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _row_major(array: Array) -> Array:
    import numpy as np

    if (little := _is_little(array)) and array.flags.c_contiguous:
        return array
    contiguous = np.ascontiguousarray(array).reshape(array.shape)  # it makes of 0-d one of 1-d
    if little:
        return contiguous
    return contiguous.byteswap().view(array.dtype.newbyteorder("<"))


def _is_little(array: Array) -> bool:
    order = array.dtype.byteorder
    return order in "<|" or (order == "=" and sys.byteorder == "little")


def _torch_bytes(torch: Any, tensor: Any) -> Any:
    if tensor.layout is not torch.strided:
        raise UnsupportedDType(f"a torch tensor of layout {tensor.layout} cannot be sent")
    # Conjugates and negatives may be views that are yet to be worked out.
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8)


def _check_fit(
    found: str, theirs: tuple[int, ...], dtype: str, shape: tuple[int, ...], usable: bool
) -> None:
    if (found, theirs) != (dtype, shape):
        raise InvalidInput(
            f"{dtype} {list(shape)} does not fit a tensor of {found} {list(theirs)}",
            hint="pass one of the same dtype and shape",
        )
    if not usable:
        raise InvalidInput(
            "the tensor to receive into is read-only, strided, big-endian or not in main memory",
            hint="pass one that is row-major and writable, such as `numpy.empty` makes",
        )
