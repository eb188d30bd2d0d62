"""Multiaddrs: self-describing network addresses, as text and as bytes.

An address is a path of parts, each a protocol and its value: `/ip4/192.0.2.1/tcp/4001/p2p/12D3…`.
We dial a few protocols and carry many: peers announce addresses of transports that we do not speak,
and other peers that do speak them learn the addresses from us. A protocol we do not know makes an
address unreadable, because its value's size is not known either; readers skip such an address.

Equal addresses are equal values: whatever spelling came in (`::0`, a peer ID as CID), `parts` holds
the one form that we write. Source: https://github.com/multiformats/multiaddr and its protocols.csv.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lattica import _varint
from lattica._base import base32_decode, base58_decode
from lattica.cid import read_multihash
from lattica.errors import CodecError, InvalidInput
from lattica.identity import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PARTS = 16  # a relayed WebTransport address with two certificates has nine
MAX_SIZE = 1024  # bytes of the binary form
MAX_TEXT = 2048  # characters: base58 and IPv6 text are longer than their bytes
_MAX_NAME = 253  # bytes of a DNS name

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class InvalidAddress(InvalidInput):
    """Text is not a multiaddr."""

    code = "address"
    hint = "an address looks like /ip4/192.0.2.1/tcp/4001 or /dns4/example.org/tcp/4001/p2p/12D3…"


class AddressCodecError(CodecError):
    """Bytes are not a multiaddr that we can read."""

    code = "address-codec"


class UnknownAddressProtocol(AddressCodecError):
    """The bytes name a protocol that we do not know. Skip the address; it is no fault of the peer.

    Attributes:
        protocol: the protocol's multicodec code.
    """

    def __init__(self, protocol: int) -> None:
        super().__init__(f"address protocol 0x{protocol:x} is not known")
        self.protocol = protocol


@dataclass(frozen=True, slots=True)
class Multiaddr:
    """A network address.

    Attributes:
        parts: `(protocol, value)` pairs, outermost first; the value is "" where the protocol has
            none. Made by hand they are checked and put in the canonical form. Raises
            InvalidAddress.
    """

    parts: tuple[tuple[str, str], ...]
    _binary: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_binary", _encode(self.parts))
        object.__setattr__(self, "parts", _decode(self._binary))

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Read the text form. Raises InvalidAddress."""
        if len(text) > MAX_TEXT:
            raise InvalidAddress(f"an address of {len(text)} characters, limit {MAX_TEXT}")
        if not text.startswith("/"):
            raise InvalidAddress(f"{text!r} is not an address: it does not start with /")
        try:
            return cls(tuple(_split(text)))
        except InvalidAddress as error:
            raise InvalidAddress(f"{text!r} is not an address: {error}") from None

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Multiaddr:
        """Read the binary form. Raises AddressCodecError (UnknownAddressProtocol: skip it)."""
        if len(data) > MAX_SIZE:
            raise AddressCodecError(f"an address of {len(data)} bytes, limit {MAX_SIZE}")
        try:
            parts = _decode(bytes(data))
            return cls(parts)
        except AddressCodecError:
            raise
        except (CodecError, InvalidInput) as error:
            raise AddressCodecError(f"not an address: {error}") from None

    @property
    def peer_id(self) -> PeerId | None:
        """Who is meant to answer: the `/p2p/…` at the end. A relay on the way is not meant."""
        name, value = self.parts[-1]
        return PeerId.parse(value) if name == "p2p" else None

    def with_peer(self, peer: PeerId) -> Multiaddr:
        """Return this address ending in `/p2p/<peer>`. Raises InvalidAddress: it names another."""
        if self.peer_id == peer:
            return self
        if self.peer_id is not None:
            raise InvalidAddress(f"{self} is an address of another peer than {peer}")
        return Multiaddr((*self.parts, ("p2p", str(peer))))

    def without_peer(self) -> Multiaddr:
        """Return this address without `/p2p/…` at the end. Raises InvalidAddress if that is all."""
        return self if self.peer_id is None else Multiaddr(self.parts[:-1])

    @property
    def ip(self) -> IPAddress | None:
        """The IP address that it starts with, if it does: of a relayed address, the relay's."""
        name, value = self.parts[0]
        return ipaddress.ip_address(value) if name in ("ip4", "ip6") else None

    @property
    def is_name(self) -> bool:
        """True where it starts with a name, which may lead anywhere, and elsewhere tomorrow."""
        return self.parts[0][0] in ("dns", "dns4", "dns6", "dnsaddr")

    @property
    def is_loopback(self) -> bool:
        """True where it leads back to this machine."""
        name, value = self.parts[0]
        if name in ("dns", "dns4", "dns6"):
            return value.lower().rstrip(".") == "localhost"
        return self.ip is not None and self.ip.is_loopback

    @property
    def is_unspecified(self) -> bool:
        """True for 0.0.0.0 and `::`, which mean every interface: to listen on, not to dial."""
        return self.ip is not None and self.ip.is_unspecified

    @property
    def is_private(self) -> bool:
        """True for addresses of a local network, which mean nothing elsewhere; not for loopback."""
        ip = self.ip
        return ip is not None and not (ip.is_global or ip.is_loopback or ip.is_unspecified)

    def __bytes__(self) -> bytes:
        return self._binary

    def __str__(self) -> str:
        text = ""
        for name, value in self.parts:
            text += f"/{name}"
            if value:
                text += value if name in _PATHS else f"/{value}"
        return text

    def __repr__(self) -> str:
        return f"Multiaddr({self})"


@dataclass(frozen=True, slots=True)
class _Protocol:
    """How one protocol's value is written. `size` is in bytes; None: a varint length precedes it.

    `encode` raises InvalidInput, `decode` CodecError or InvalidInput.
    """

    name: str
    code: int
    size: int | None
    encode: Callable[[str], bytes]
    decode: Callable[[bytes], str]


def _encode(parts: tuple[tuple[str, str], ...]) -> bytes:
    if not 1 <= len(parts) <= MAX_PARTS:
        raise InvalidAddress(f"an address of {len(parts)} parts, expected 1 to {MAX_PARTS}")
    out = bytearray()
    for position, (name, value) in enumerate(parts):
        protocol = _BY_NAME.get(name)
        if protocol is None:
            raise InvalidAddress(f"protocol {name!r} is not known")
        if name in _PATHS and position != len(parts) - 1:
            raise InvalidAddress(f"nothing can follow /{name}")
        try:
            data = protocol.encode(value)
        except (InvalidInput, CodecError, ValueError) as error:
            raise InvalidAddress(f"{value!r} is not a value of /{name}: {error}") from None
        out += _varint.encode(protocol.code)
        if protocol.size is None:
            out += _varint.encode(len(data))
        out += data
    if len(out) > MAX_SIZE:
        raise InvalidAddress(f"an address of {len(out)} bytes, limit {MAX_SIZE}")
    return bytes(out)


def _decode(data: bytes) -> tuple[tuple[str, str], ...]:
    parts: list[tuple[str, str]] = []
    offset = 0
    while offset < len(data):
        if len(parts) == MAX_PARTS:
            raise AddressCodecError(f"an address of more than {MAX_PARTS} parts")
        code, offset = _varint.decode_whole(data, offset)
        protocol = _BY_CODE.get(code)
        if protocol is None:
            raise UnknownAddressProtocol(code)
        size = protocol.size
        if size is None:
            size, offset = _varint.decode_whole(data, offset)
        if size > len(data) - offset:
            raise AddressCodecError(f"/{protocol.name} is cut short")
        parts.append((protocol.name, protocol.decode(data[offset : offset + size])))
        offset += size
    return tuple(parts)


def _split(text: str) -> list[tuple[str, str]]:
    words = text.removesuffix("/").split("/")[1:]
    parts: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        name = _ALIASES.get(words[position], words[position])
        position += 1
        protocol = _BY_NAME.get(name)
        if protocol is None:
            raise InvalidAddress(f"protocol {name!r} is not known")
        if name in _PATHS:
            parts.append((name, "/" + "/".join(words[position:])))
            break
        value = ""
        if protocol.size != 0:
            if position == len(words):
                raise InvalidAddress(f"/{name} needs a value")
            value = words[position]
            position += 1
        parts.append((name, value))
        if len(parts) > MAX_PARTS:
            raise InvalidAddress(f"an address of more than {MAX_PARTS} parts")
    return parts


def _integer(size: int) -> tuple[Callable[[str], bytes], Callable[[bytes], str]]:
    limit = 1 << 8 * size

    def encode(text: str) -> bytes:
        if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) >= limit:
            raise InvalidInput(f"expected a number below {limit}")
        return int(text).to_bytes(size, "big")

    return encode, lambda data: str(int.from_bytes(data, "big"))


def _no_value(text: str) -> bytes:
    if text:
        raise InvalidInput("it has no value")
    return b""


def _encode_ip6(text: str) -> bytes:
    if "%" in text:
        raise InvalidInput("a zone belongs into /ip6zone")
    return ipaddress.IPv6Address(text).packed


def _encode_name(text: str) -> bytes:
    data = text.encode()
    if not 1 <= len(data) <= _MAX_NAME or "/" in text or not text.isprintable() or " " in text:
        raise InvalidInput(f"expected a name of 1 to {_MAX_NAME} bytes")
    return data


def _encode_path(text: str) -> bytes:
    if len(text) < 2 or not text.startswith("/") or text.endswith("/"):
        raise InvalidInput("expected the path of a file")
    if not text.isprintable():  # it comes from strangers, and is shown
        raise InvalidInput("expected the path of a file")
    return text.encode()


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CodecError("a name is not UTF-8") from None


def _encode_certhash(text: str) -> bytes:
    base, digits = text[:1], text[1:]
    if base == "u":
        try:
            padded = digits.encode("ascii") + b"=" * (-len(digits) % 4)
            data = base64.b64decode(padded, b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInput(f"not base64url: {error}") from None
    elif base in ("b", "z"):
        data = base32_decode(digits) if base == "b" else base58_decode(digits)
    else:
        raise InvalidInput("expected multibase u, b or z")
    return read_multihash(data)


def _decode_certhash(data: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(read_multihash(data)).decode().rstrip("=")


_NO_VALUE = (0, _no_value, lambda _: "")
_PORT = (2, *_integer(2))
_NAME = (None, _encode_name, _decode_text)
_PROTOCOLS = (
    _Protocol(
        "ip4",
        4,
        4,
        lambda text: ipaddress.IPv4Address(text).packed,
        lambda data: str(ipaddress.IPv4Address(data)),
    ),
    _Protocol("tcp", 6, *_PORT),
    _Protocol("ip6", 41, 16, _encode_ip6, lambda data: str(ipaddress.IPv6Address(data))),
    _Protocol("ip6zone", 42, *_NAME),
    _Protocol("dns", 53, *_NAME),
    _Protocol("dns4", 54, *_NAME),
    _Protocol("dns6", 55, *_NAME),
    _Protocol("dnsaddr", 56, *_NAME),
    _Protocol("udp", 273, *_PORT),
    _Protocol("webrtc-direct", 280, *_NO_VALUE),
    _Protocol("webrtc", 281, *_NO_VALUE),
    _Protocol("p2p-circuit", 290, *_NO_VALUE),
    _Protocol("unix", 400, None, _encode_path, _decode_text),
    _Protocol(
        "p2p",
        421,
        None,
        lambda text: PeerId.parse(text).raw,
        lambda data: str(PeerId.from_bytes(data)),
    ),
    _Protocol("https", 443, *_NO_VALUE),
    _Protocol("tls", 448, *_NO_VALUE),
    _Protocol("sni", 449, *_NAME),
    _Protocol("noise", 454, *_NO_VALUE),
    _Protocol("quic", 460, *_NO_VALUE),
    _Protocol("quic-v1", 461, *_NO_VALUE),
    _Protocol("webtransport", 465, *_NO_VALUE),
    _Protocol("certhash", 466, None, _encode_certhash, _decode_certhash),
    _Protocol("ws", 477, *_NO_VALUE),
    _Protocol("wss", 478, *_NO_VALUE),
    _Protocol("http", 480, *_NO_VALUE),
    _Protocol("memory", 777, 8, *_integer(8)),
)
_BY_NAME = {protocol.name: protocol for protocol in _PROTOCOLS}
_BY_CODE = {protocol.code: protocol for protocol in _PROTOCOLS}
_ALIASES = {"ipfs": "p2p"}  # the name of /p2p until 2018, still in old configurations
_PATHS = frozenset({"unix"})  # the value is the rest of the text, slashes and all
