"""Bitswap, IPFS's exchange of single blocks: from the same store, with go, js and rust IPFS nodes.

Source: https://specs.ipfs.tech/bitswap-protocol/; what it leaves open is in spec/bitswap.md.
"""

from ._messages import (
    MAX_MESSAGE as MAX_MESSAGE,
    PROTOCOLS as PROTOCOLS,
    Block as Block,
    Entry as Entry,
    Message as Message,
    Presence as Presence,
    WantType as WantType,
    decode as decode,
    encode as encode,
)
from ._session import BitswapSession as BitswapSession
from ._wants import Answer as Answer, Ledger as Ledger, Room as Room
from .service import (
    Bitswap as Bitswap,
    BitswapLimits as BitswapLimits,
    open_bitswap as open_bitswap,
)
