"""Models as content: the tensors of a file, and the segments that give each its own identifier."""

from ._checkpoint import CannotDelta as CannotDelta
from ._delta import (
    DeltaSummary as DeltaSummary,
    apply_delta as apply_delta,
    chain_after as chain_after,
    describe_delta as describe_delta,
    make_delta as make_delta,
)
from ._delta_codec import DeltaCodec as DeltaCodec, DeltaError as DeltaError
from ._delta_format import (
    ANCHOR_EVERY as ANCHOR_EVERY,
    Delta as Delta,
    DeltaEntry as DeltaEntry,
    NotADelta as NotADelta,
    read_delta as read_delta,
)
from ._delta_plan import DeltaLink as DeltaLink, cheapest_chain as cheapest_chain
from ._delta_reading import DeltaWays as DeltaWays
from ._files import cut_file as cut_file, read_header as read_header
from ._lineage import Ancestor as Ancestor, Lineage as Lineage
from ._local import LocalReader as LocalReader
from ._manifest import (
    MAX_FILES as MAX_FILES,
    MAX_LINKS as MAX_LINKS,
    MAX_TABLE as MAX_TABLE,
    Manifest as Manifest,
    ManifestError as ManifestError,
    ManifestFile as ManifestFile,
    SignedManifest as SignedManifest,
    TableEntry as TableEntry,
    check_name as check_name,
    decode_table as decode_table,
    encode_table as encode_table,
)
from ._names import (
    Name as Name,
    NameRecord as NameRecord,
    NameRecordError as NameRecordError,
    NameStore as NameStore,
    statements_key as statements_key,
)
from ._reading import (
    LazyTensor as LazyTensor,
    Reader as Reader,
    TensorReader as TensorReader,
    open_tensors as open_tensors,
)
from ._safetensors import (
    Header as Header,
    SafetensorsError as SafetensorsError,
    Tensor as Tensor,
    cut as cut,
    header_size as header_size,
    parse_header as parse_header,
)
from ._select import (
    Portion as Portion,
    parse_layers as parse_layers,
    parse_rank as parse_rank,
    parse_tensor as parse_tensor,
    portion as portion,
    select as select,
)
from ._signing import (
    MAX_TIME as MAX_TIME,
    BadSignature as BadSignature,
    Rule as Rule,
    Statement as Statement,
    StatementError as StatementError,
    Verdict as Verdict,
)
from ._trust import (
    TrustedKey as TrustedKey,
    add_key as add_key,
    read_keys as read_keys,
    remove_key as remove_key,
)
from ._view import (
    FileView as FileView,
    MalformedCheckpoint as MalformedCheckpoint,
    TensorInfo as TensorInfo,
    view_file as view_file,
)
from ._write import StatePlan as StatePlan, plan_file as plan_file, plan_state as plan_state
