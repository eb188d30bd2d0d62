"""Who has it, and where are they: Kademlia as libp2p speaks it (spec/dht.md)."""

from ._bootstrap import BootstrapPhase as BootstrapPhase, BootstrapStatus as BootstrapStatus
from ._clock import ClockSkew as ClockSkew
from ._keys import InvalidKey as InvalidKey
from ._lookup_report import LookupReport as LookupReport, Outcome as Outcome
from ._messages import MessageError as MessageError
from ._namespaces import (
    Namespaces as Namespaces,
    Rules as Rules,
    SignedEntries as SignedEntries,
    SingleValues as SingleValues,
    UnknownNamespace as UnknownNamespace,
    ValueRefused as ValueRefused,
    public_keys as public_keys,
)
from ._reach import leads_there as leads_there
from ._records import Entry as Entry, RecordError as RecordError
from ._results import (
    CrawledPeer as CrawledPeer,
    CrawlResult as CrawlResult,
    FoundValue as FoundValue,
    GetResult as GetResult,
    PutResult as PutResult,
    ValueNotFound as ValueNotFound,
)
from ._search import ProviderSearch as ProviderSearch
from ._status import DhtStatus as DhtStatus
from ._table import Contact as Contact
from ._values import (
    InvalidValue as InvalidValue,
    NotStored as NotStored,
    ValueTooLarge as ValueTooLarge,
)
from .service import (
    DEFAULT_PROTOCOL as DEFAULT_PROTOCOL,
    Dht as Dht,
    open_dht as open_dht,
)
