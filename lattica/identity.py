"""Who a node is: an Ed25519 key, and the peer ID that names it.

Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md. We sign with Ed25519
(libsodium); of foreign peers we also verify ECDSA, secp256k1 and RSA keys. The private key lives in
one file of mode 0600 and nowhere else: no `repr`, log line or error carries it.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from lattica import _protobuf
from lattica._base import base58_decode, base58_encode
from lattica.cid import CID, Codec, read_multihash
from lattica.errors import CodecError, InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

_IDENTITY_HASH, _SHA2_256 = 0x00, 0x12
_MAX_INLINE_KEY = 42  # bytes; a longer public key is named by its SHA2-256 (peer-ids spec)
_MAX_KEY = 4096  # bytes of a serialised public key: an 8192-bit RSA key is half of it


class KeyType(enum.IntEnum):
    """Key types of the libp2p `PublicKey` message."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


class KeyFileError(InvalidInput):
    """The key file cannot be used."""

    code = "key-file"
    hint = "restore the file from a backup, or remove it to get a new identity"


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """The multihash of a public key: short keys inline, long ones by SHA2-256."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read `12D3KooW…`, `Qm…` (base58btc) or a libp2p-key CID. Raises InvalidInput."""
        hint = "a peer ID looks like 12D3KooW…"
        try:
            if text.startswith(("1", "Qm")):
                return cls.from_bytes(base58_decode(text))
            cid = CID.parse(text)
            peer = cls.from_bytes(cid.multihash)
        except (CodecError, InvalidInput) as error:
            raise InvalidInput(f"{text!r} is not a peer ID: {error}", hint=hint) from None
        if cid.codec != Codec.LIBP2P_KEY:
            raise InvalidInput(f"{text!r} is a CID of content, not of a key", hint=hint)
        return peer

    @classmethod
    def from_bytes(cls, data: bytes) -> PeerId:
        """Read the binary form. Raises CodecError."""
        multihash = read_multihash(data)
        if multihash[:1] not in (bytes([_IDENTITY_HASH]), bytes([_SHA2_256])):
            raise CodecError(f"peer ID with hash function 0x{multihash[0]:x}")
        return cls(multihash)

    @property
    def inline_key(self) -> PublicKey | None:
        """The public key that the name holds; None where it holds a hash of it."""
        if self.raw[0] != _IDENTITY_HASH:
            return None
        try:
            return PublicKey.from_protobuf(self.raw[2:])
        except CodecError:
            return None

    @property
    def short(self) -> str:
        """Enough of it for a person: `12D3…kQ9f`."""
        text = str(self)
        return f"{text[:4]}…{text[-4:]}"

    def __str__(self) -> str:
        return base58_encode(self.raw)

    def __repr__(self) -> str:
        return f"PeerId({self})"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key as libp2p carries it.

    Attributes:
        type: which kind of key.
        data: Ed25519: the 32 bytes; secp256k1: the compressed point; ECDSA, RSA: DER (PKIX).
    """

    type: KeyType
    data: bytes

    @classmethod
    def from_protobuf(cls, encoded: bytes) -> PublicKey:
        """Read a `PublicKey` message. Raises CodecError."""
        if len(encoded) > _MAX_KEY:
            raise CodecError(f"a public key of {len(encoded)} bytes, limit {_MAX_KEY}")
        message = _protobuf.decode(encoded)
        data = message.blob(2)
        if 1 not in message or data is None:
            raise CodecError("public key without a type or data")
        try:
            key_type = KeyType(message.integer(1))
        except ValueError:
            raise CodecError(f"public key type {message.integer(1)}") from None
        if key_type is KeyType.ED25519 and len(data) != 32:
            raise CodecError(f"an Ed25519 key of {len(data)} bytes")
        return cls(key_type, data)

    def to_protobuf(self) -> bytes:
        """Return the `PublicKey` message, in the deterministic form that peer IDs hash."""
        return _protobuf.encode([(1, int(self.type)), (2, self.data)])

    @property
    def peer_id(self) -> PeerId:
        """The name of this key."""
        encoded = self.to_protobuf()
        if len(encoded) <= _MAX_INLINE_KEY:
            return PeerId(bytes((_IDENTITY_HASH, len(encoded))) + encoded)
        return PeerId(bytes((_SHA2_256, 32)) + hashlib.sha256(encoded).digest())

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Say whether `signature` is this key's over `message`. False for unusable keys, too."""
        try:
            if self.type is KeyType.ED25519:
                VerifyKey(self.data).verify(message, signature)
            else:
                _verify_foreign(self, message, signature)
        except (BadSignatureError, InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            return False
        return True


def _verify_foreign(key: PublicKey, message: bytes, signature: bytes) -> None:
    if key.type is KeyType.SECP256K1:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key.data)
        point.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        return
    loaded = load_der_public_key(key.data)
    if key.type is KeyType.ECDSA and isinstance(loaded, ec.EllipticCurvePublicKey):
        loaded.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    elif key.type is KeyType.RSA and isinstance(loaded, rsa.RSAPublicKey):
        if not 2048 <= loaded.key_size <= 8192:
            raise ValueError(f"an RSA key of {loaded.key_size} bits")
        loaded.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        raise ValueError("the key is not of the type it claims")


class Identity:
    """A private key. It signs; it does not show itself."""

    __slots__ = ("__dict__", "_signing_key")

    def __init__(self, seed: bytes) -> None:
        """Make the identity of a 32-byte Ed25519 seed."""
        self._signing_key = SigningKey(seed)

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity from the operating system's randomness."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key file (a libp2p `PrivateKey` message, as go-libp2p writes it).

        Raises:
            KeyFileError: absent, unreadable, not an Ed25519 key, or open to other users.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                encoded = file.read(_MAX_KEY)
        except OSError as error:
            hint = "choose a home that you own: --home or LATTICA_HOME"
            raise KeyFileError(
                f"cannot read the key file {path}: {error.strerror}",
                hint=hint if isinstance(error, PermissionError) else None,
            ) from error
        if os.name == "posix" and mode & 0o077:
            raise KeyFileError(
                f"key file {path} has mode {mode:04o}: other users can read it",
                hint=f"if nobody else could have read it, run `chmod 600 {path}`",
            )
        try:
            message = _protobuf.decode(encoded)
            key_type, data = message.integer(1), message.blob(2) or b""
        except CodecError as error:
            raise KeyFileError(f"key file {path} is damaged: {error}") from None
        # 64 bytes: seed and public key; some writers append the public key a second time.
        if key_type != KeyType.ED25519 or len(data) not in (64, 96):
            raise KeyFileError(f"key file {path} is damaged: not an Ed25519 private key")
        identity = cls(data[:32])
        if identity.public_key.data != data[32:64]:
            raise KeyFileError(f"key file {path} is damaged: its two halves do not belong together")
        return identity

    def save(self, path: Path) -> None:
        """Write the key file: mode 0600, all or nothing, never over an existing file.

        Raises:
            KeyFileError: the file exists or cannot be written.
        """
        private = bytes(self._signing_key) + self.public_key.data
        encoded = _protobuf.encode([(1, int(KeyType.ED25519)), (2, private)])
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(encoded)
                    file.flush()
                    os.fsync(descriptor)
                os.link(temporary, path)  # fails if the file exists, unlike a rename
            finally:
                temporary.unlink()
        except FileExistsError:
            raise KeyFileError(f"key file {path} exists already", hint="load it instead") from None
        except OSError as error:
            raise KeyFileError(
                f"cannot write the key file {path}: {error.strerror}",
                hint="choose a home that you own, on a disk with room: --home or LATTICA_HOME",
            ) from error

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Load the key file, or make it on first use. Raises KeyFileError."""
        if not path.exists():
            identity = cls.generate()
            try:
                identity.save(path)
            except KeyFileError:
                if not path.exists():
                    raise
                # Another process made one in between; theirs is the identity of this home.
        return cls.load(path)

    @functools.cached_property
    def public_key(self) -> PublicKey:
        """The key others verify with."""
        return PublicKey(KeyType.ED25519, bytes(self._signing_key.verify_key))

    @functools.cached_property
    def peer_id(self) -> PeerId:
        """The name others know us by."""
        return self.public_key.peer_id

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self._signing_key.sign(message).signature

    def open_box(self, box: bytes) -> bytes | None:
        """Return what `seal_box` has sealed for us; None: it is for somebody else, or damaged."""
        try:
            opened: bytes = self._box.decrypt(box)
        except CryptoError:
            return None
        return opened

    @functools.cached_property
    def _box(self) -> SealedBox[PrivateKey]:
        return SealedBox(self._signing_key.to_curve25519_private_key())

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an identity is not serialised; copy its key file")


def seal_box(data: bytes, peer: PeerId | None = None) -> bytes:
    """Seal a few bytes so that only `peer` can open them, and nobody can tell for whom they are.

    A libsodium sealed box, 48 bytes longer than `data`, to the X25519 form of the Ed25519 key that
    the name holds. Without a peer, for nobody at all.

    Raises:
        InvalidInput: the peer ID holds no Ed25519 key, or one that cannot be sealed to.
    """
    if peer is None:
        return bytes(SealedBox(PrivateKey.generate().public_key).encrypt(data))
    key = peer.inline_key
    if key is None or key.type is not KeyType.ED25519:
        raise InvalidInput(
            f"{peer} holds no Ed25519 key to encrypt to",
            hint="peer IDs that start with 12D3KooW do; see `lattica id`",
        )
    try:
        return bytes(SealedBox(VerifyKey(key.data).to_curve25519_public_key()).encrypt(data))
    except (RuntimeError, CryptoError) as error:
        raise InvalidInput(f"the key of {peer} cannot be encrypted to: {error}") from None
