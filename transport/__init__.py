"""Encrypted, multiplexed streams between two keys."""

from .limits import Limits as Limits
from .multiaddr import (
    AddressCodecError as AddressCodecError,
    InvalidAddress as InvalidAddress,
    Multiaddr as Multiaddr,
    UnknownAddressProtocol as UnknownAddressProtocol,
)
