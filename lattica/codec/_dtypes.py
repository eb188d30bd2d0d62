"""Element types by the names that safetensors gives them, and numpy's and torch's for each.

Names and widths come without numpy: a message that carries no tensor never loads it. Small floats
are `ml_dtypes`'. What has no fixed width in memory on every machine (long double), or is a Python
object, has no name here and cannot be sent.

Names: https://github.com/huggingface/safetensors; C128 is ours, by the same rule.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

WIDTHS = {  # bytes per element
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
    "C128": 16,
}
_PLAIN = {
    "BOOL": "?",
    **{f"{kind}{8 * width}": f"<{kind.lower()}{width}" for kind in "UI" for width in (1, 2, 4, 8)},
    **{f"F{8 * width}": f"<f{width}" for width in (2, 4, 8)},
    "C64": "<c8",
    "C128": "<c16",
}
_SMALL_FLOATS = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_TORCH = {  # torch's own name of each, where it differs from numpy's
    **{torch_name: name for name, torch_name in _SMALL_FLOATS.items()},
    "bool": "BOOL",
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    "complex64": "C64",
    "complex128": "C128",
}


class UnsupportedDType(InvalidInput):
    """A tensor has an element type that has no form outside this machine, or that we do not know.

    Attributes:
        hint: what to convert it to.
    """

    code = "dtype"
    hint = f"convert it to one of {', '.join(WIDTHS)}"


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return numpy's type for a name, little-endian. Raises UnsupportedDType."""
    found = _by_name().get(name)
    if found is None:
        raise UnsupportedDType(f"the dtype {name!r} is not known")
    return found


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a numpy type of either byte order. Raises UnsupportedDType."""
    name = _by_dtype().get(dtype)
    if name is None and dtype.byteorder in "<>=":
        name = _by_dtype().get(dtype.newbyteorder("<"))
    if name is None:
        raise UnsupportedDType(f"numpy's dtype {dtype} cannot be sent")
    return name


def torch_dtype_name(dtype: object) -> str:
    """Return the name of a `torch.dtype`. Raises UnsupportedDType."""
    name = _TORCH.get(str(dtype).removeprefix("torch."))
    if name is None:
        raise UnsupportedDType(f"{dtype} cannot be sent")
    return name


@functools.cache
def _by_name() -> dict[str, np.dtype[Any]]:
    import ml_dtypes
    import numpy as np

    plain = {name: np.dtype(code) for name, code in _PLAIN.items()}
    return plain | {
        name: np.dtype(getattr(ml_dtypes, _SMALL_FLOATS[name])) for name in _SMALL_FLOATS
    }


@functools.cache
def _by_dtype() -> dict[np.dtype[Any], str]:
    return {dtype: name for name, dtype in _by_name().items()}
