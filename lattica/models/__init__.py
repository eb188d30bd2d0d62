"""Models as content: the tensors of a file, and the segments that give each its own identifier."""

from ._checkpoint import CannotDelta as CannotDelta
from ._delta import (
    DeltaSummary as DeltaSummary,
    apply_delta as apply_delta,
    describe_delta as describe_delta,
    make_delta as make_delta,
)
from ._delta_codec import DeltaCodec as DeltaCodec, DeltaError as DeltaError
from ._delta_format import (
    Delta as Delta,
    DeltaEntry as DeltaEntry,
    NotADelta as NotADelta,
    read_delta as read_delta,
)
from ._files import cut_file as cut_file, read_header as read_header
from ._safetensors import (
    Header as Header,
    SafetensorsError as SafetensorsError,
    Tensor as Tensor,
    cut as cut,
    header_size as header_size,
    parse_header as parse_header,
)
