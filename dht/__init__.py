"""Who has it, and where are they: Kademlia as libp2p speaks it (spec/dht.md)."""

from ._bootstrap import BootstrapPhase as BootstrapPhase, BootstrapStatus as BootstrapStatus
from ._lookup import LookupReport as LookupReport
from ._messages import MessageError as MessageError
from ._search import ProviderSearch as ProviderSearch
from ._table import Contact as Contact
from .service import (
    DEFAULT_PROTOCOL as DEFAULT_PROTOCOL,
    Dht as Dht,
    DhtStatus as DhtStatus,
    InvalidKey as InvalidKey,
    open_dht as open_dht,
)
