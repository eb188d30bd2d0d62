"""Encrypted, multiplexed streams between two keys."""

from ._book import AddressBook as AddressBook, PeerInfo as PeerInfo
from .limits import Limits as Limits
from .multiaddr import (
    AddressCodecError as AddressCodecError,
    InvalidAddress as InvalidAddress,
    Multiaddr as Multiaddr,
    UnknownAddressProtocol as UnknownAddressProtocol,
)
