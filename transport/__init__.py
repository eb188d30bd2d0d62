"""Encrypted, multiplexed streams between two keys: `open_mesh`, and what it takes and gives.

Everything a foreign peer sees follows the libp2p specifications: multistream-select, Noise, TLS,
Yamux, identify, ping. What runs on a mesh gets `Stream`s and knows peers by their `PeerId`.
"""

from ._book import AddressBook as AddressBook, PeerInfo as PeerInfo
from ._channel import HandshakeLost as HandshakeLost, PeerIdMismatch as PeerIdMismatch
from ._connections import ConnectionLimit as ConnectionLimit
from ._dial import (
    Attempt as Attempt,
    DialError as DialError,
    MeshClosed as MeshClosed,
    NotDialable as NotDialable,
    SelfDial as SelfDial,
)
from ._events import (
    MeshEvent as MeshEvent,
    PeerConnected as PeerConnected,
    PeerDisconnected as PeerDisconnected,
    PeerIdentified as PeerIdentified,
)
from ._groups import ip_group as ip_group, wider_group as wider_group
from ._interfaces import machine_addresses as machine_addresses
from ._links import Listener as Listener, RawLink as RawLink, Transport as Transport
from ._membership import MembershipError as MembershipError, SwarmKeyMismatch as SwarmKeyMismatch
from ._observed import agreed_ips as agreed_ips
from ._records import PeerRecord as PeerRecord, RecordError as RecordError
from ._serve import HandlerLimit as HandlerLimit, HandlerTaken as HandlerTaken
from ._stream import Stream as Stream
from ._stream_ends import (
    ConnectionLost as ConnectionLost,
    IncompleteMessage as IncompleteMessage,
    MessageTooLong as MessageTooLong,
    StreamReset as StreamReset,
)
from ._upgrade import UnknownSecurity as UnknownSecurity
from .connection import Connection as Connection, NegotiationTimeout as NegotiationTimeout
from .identify import IdentifyError as IdentifyError, IdentifyInfo as IdentifyInfo
from .limits import Limits as Limits
from .memory import MemoryNetwork as MemoryNetwork, MemoryTransport as MemoryTransport
from .mesh import (
    Mesh as Mesh,
    NoTransport as NoTransport,
    open_mesh as open_mesh,
)
from .multiaddr import (
    AddressCodecError as AddressCodecError,
    InvalidAddress as InvalidAddress,
    IPAddress as IPAddress,
    Multiaddr as Multiaddr,
    UnknownAddressProtocol as UnknownAddressProtocol,
)
from .multistream import (
    NegotiationError as NegotiationError,
    ProtocolNotSupported as ProtocolNotSupported,
)
from .ping import PingMismatch as PingMismatch
from .tcp import AddressInUse as AddressInUse, TcpTransport as TcpTransport
