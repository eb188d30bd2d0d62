"""Sealed objects: content that many store and serve, and few can read (spec/sealed.md).

A file or a directory is sealed to the peer IDs of its recipients. What comes of it is one file, an
object like any other to whoever has no key: named by its hash, verified leaf by leaf, served by
strangers, read in parts. It hides the names, the number and the sizes of what is in it.
"""

from ._format import (
    CHUNK_BYTES as CHUNK_BYTES,
    MAX_HEADER_BYTES as MAX_HEADER_BYTES,
    PREFIX_BYTES as PREFIX_BYTES,
    SEALED_BYTES as SEALED_BYTES,
    Header as Header,
    NotARecipient as NotARecipient,
    Opener as Opener,
    SealBroken as SealBroken,
    Sealer as Sealer,
    header_size as header_size,
    is_sealed as is_sealed,
)
from ._reading import SealedReader as SealedReader, Source as Source, open_sealed as open_sealed
from ._sealing import seal as seal, sealed_segments as sealed_segments
from ._table import Table as Table, TableEntry as TableEntry
from ._unsealing import Unsealing as Unsealing
