"""Content: what identifiers name, where its bytes are, and how they travel."""

from ._bans import Ban as Ban, Bans as Bans, ProviderBanned as ProviderBanned
from ._below import folder_below as folder_below, move as move
from ._build import (
    SYMLINK_HINT as SYMLINK_HINT,
    Built as Built,
    BuiltFile as BuiltFile,
    Kind as Kind,
    Stamp as Stamp,
    Symlinks as Symlinks,
    UnreadableSource as UnreadableSource,
    build as build,
    build_in_thread as build_in_thread,
)
from ._car import (
    INDEX_SUFFIX as INDEX_SUFFIX,
    MAX_INDEX as MAX_INDEX,
    IndexFileError as IndexFileError,
    decode_index as decode_index,
    encode_index as encode_index,
)
from ._chunk import (
    ChunkerMissing as ChunkerMissing,
    ChunkError as ChunkError,
    chunk_lengths as chunk_lengths,
    chunker as chunker,
)
from ._compress import Compress as Compress
from ._dag import (
    BuiltSegment as BuiltSegment,
    FileBuilder as FileBuilder,
    Leaf as Leaf,
    LeafTable as LeafTable,
    Segment as Segment,
    SegmentsError as SegmentsError,
    TreeBuilder as TreeBuilder,
    leaf_size as leaf_size,
)
from ._download import Download as Download
from ._events import (
    BadLeaf as BadLeaf,
    DiskFull as DiskFull,
    FetchDone as FetchDone,
    Fetched as Fetched,
    FetchEvent as FetchEvent,
    FetchProgress as FetchProgress,
    FetchStalled as FetchStalled,
    FetchStarted as FetchStarted,
    LeafMismatch as LeafMismatch,
    NoProvider as NoProvider,
    OriginError as OriginError,
    OriginLacksIt as OriginLacksIt,
    OriginLeft as OriginLeft,
    OriginMismatch as OriginMismatch,
    OriginUsed as OriginUsed,
    ProviderJoined as ProviderJoined,
    ProviderLeft as ProviderLeft,
    ProvidersBanned as ProvidersBanned,
    ProvidersLost as ProvidersLost,
    ProviderSlow as ProviderSlow,
    ProvidersRefused as ProvidersRefused,
    SourcesChanged as SourcesChanged,
)
from ._holders import Holder as Holder, ask_holder as ask_holder
from ._names import check_new_names as check_new_names, check_written_names as check_written_names
from ._origin import Origin as Origin
from ._part import PartFile as PartFile
from ._ranges import (
    NotInObject as NotInObject,
    ObjectReader as ObjectReader,
    RangeOutside as RangeOutside,
)
from ._reading import BlockBatch as BlockBatch
from ._rows import part_path as part_path
from ._segments import (
    NotCutSo as NotCutSo,
    SegmentRoots as SegmentRoots,
    segment_cid as segment_cid,
)
from ._select import (
    NothingSelected as NothingSelected,
    Selected as Selected,
    Selection as Selection,
)
from ._traffic import (
    ExchangeLimits as ExchangeLimits,
    ExchangeStats as ExchangeStats,
    Traffic as Traffic,
)
from ._unixfs import (
    MAX_BLOCK_BYTES as MAX_BLOCK_BYTES,
    DagError as DagError,
    DirectoryNode as DirectoryNode,
    Entry as Entry,
    FileNode as FileNode,
    Link as Link,
    UnsafeName as UnsafeName,
    encode_name as encode_name,
)
from ._values import (
    Absent as Absent,
    Availability as Availability,
    Damage as Damage,
    DestinationTaken as DestinationTaken,
    Extent as Extent,
    Kept as Kept,
    NamedSegment as NamedSegment,
    ObjectState as ObjectState,
    QuotaExceeded as QuotaExceeded,
    StorageError as StorageError,
    StoredObject as StoredObject,
    StoreError as StoreError,
    StoreLocked as StoreLocked,
    Usage as Usage,
    VerifyReport as VerifyReport,
)
from ._walk import (
    Tree as Tree,
    TreeFile as TreeFile,
    TreeTooLarge as TreeTooLarge,
    Walker as Walker,
    check_path as check_path,
    check_tree_depth as check_tree_depth,
    check_tree_entries as check_tree_entries,
)
from .exchange import Exchange as Exchange, open_exchange as open_exchange
from .store import Store as Store
