"""Content: what identifiers name, where its bytes are, and how they travel."""

from ._dag import (
    Leaf as Leaf,
    LeafTable as LeafTable,
    Segment as Segment,
    TreeBuilder as TreeBuilder,
    leaf_size as leaf_size,
)
from ._unixfs import (
    MAX_BLOCK_BYTES as MAX_BLOCK_BYTES,
    DagError as DagError,
    DirectoryNode as DirectoryNode,
    Entry as Entry,
    FileNode as FileNode,
    Link as Link,
)
from ._walk import Tree as Tree, TreeFile as TreeFile, Walker as Walker
from ._build import (
    Built as Built,
    BuiltFile as BuiltFile,
    BuiltSegment as BuiltSegment,
    Kind as Kind,
    Stamp as Stamp,
    build as build,
    build_in_thread as build_in_thread,
)
from .store import (
    Absent as Absent,
    Availability as Availability,
    BlockBatch as BlockBatch,
    Damage as Damage,
    Download as Download,
    ObjectState as ObjectState,
    PartFile as PartFile,
    Store as Store,
    StoredObject as StoredObject,
    VerifyReport as VerifyReport,
)
from ._events import (
    BadLeaf as BadLeaf,
    DiskFull as DiskFull,
    Fetched as Fetched,
    FetchDone as FetchDone,
    FetchEvent as FetchEvent,
    FetchProgress as FetchProgress,
    FetchStarted as FetchStarted,
    LeafMismatch as LeafMismatch,
    NoProvider as NoProvider,
    ProviderJoined as ProviderJoined,
    ProviderLeft as ProviderLeft,
    ProviderSlow as ProviderSlow,
    ProvidersLost as ProvidersLost,
    SourcesChanged as SourcesChanged,
)
from .exchange import (
    Exchange as Exchange,
    ExchangeStats as ExchangeStats,
    Traffic as Traffic,
    open_exchange as open_exchange,
)
