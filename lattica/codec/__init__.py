"""Values as bytes: canonical msgpack, and tensors beside it; and numbers made smaller."""

from ._canonical import Value as Value, pack as pack, unpack as unpack
from ._dtypes import (
    WIDTHS as WIDTHS,
    Array as Array,
    UnsupportedDType as UnsupportedDType,
    dtype_name as dtype_name,
    numpy_dtype as numpy_dtype,
    torch_dtype_name as torch_dtype_name,
)
from ._pickles import PICKLE as PICKLE, looks_like_pickle as looks_like_pickle
from ._planes import (
    PlanesError as PlanesError,
    pack_planes as pack_planes,
    unpack_planes as unpack_planes,
)
from ._tensors import Buffer as Buffer, Receiver as Receiver, decode as decode, encode as encode
from ._views import (
    TensorBytes as TensorBytes,
    array_view as array_view,
    tensor_bytes as tensor_bytes,
    writable_view as writable_view,
)
