"""Models as content: the tensors of a file, and the segments that give each its own identifier."""

from ._files import cut_file as cut_file, read_header as read_header
from ._safetensors import (
    Header as Header,
    SafetensorsError as SafetensorsError,
    Tensor as Tensor,
    cut as cut,
    header_size as header_size,
    parse_header as parse_header,
)
