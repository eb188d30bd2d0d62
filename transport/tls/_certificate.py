"""The libp2p certificate: a throw-away TLS key that an identity key vouches for.

TLS authenticates the key in the certificate; an extension in it carries the identity key and its
signature over that key. The certificate signs itself, nobody else is asked. Ours holds nothing but
that extension, because some implementations look at the first one only, and dates that no wrong
clock gets into. Source: https://github.com/libp2p/specs/blob/master/tls/tls.md.
"""

from __future__ import annotations

import datetime as dt
import warnings
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID

from lattica.errors import CodecError, ProtocolError
from lattica.identity import PublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from lattica.identity import Identity

MAX_CERTIFICATE = 16 * 1024  # bytes; with an 8192-bit RSA key and signature twice it is below 6 KiB
_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_SIGNED_PREFIX = b"libp2p-tls-handshake:"
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "libp2p")])
_NOT_BEFORE = dt.datetime(1975, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER = dt.datetime(4096, 1, 1, tzinfo=dt.UTC)
_UNDERSTOOD = {  # what may be marked critical without our giving up
    _EXTENSION,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    CryptographyDeprecationWarning,
)
_SEQUENCE, _OCTET_STRING = 0x30, 0x04  # DER tags


class TlsError(ProtocolError):
    """The peer does not speak TLS as libp2p asks, or somebody changed what it said."""

    code = "tls"


class CertificateError(TlsError):
    """The peer's certificate does not prove who it is."""

    code = "certificate"


def make_certificate(identity: Identity) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a fresh certificate of `identity` and the ECDSA P-256 key it is for."""
    key = ec.generate_private_key(ec.SECP256R1())
    signature = identity.sign(_SIGNED_PREFIX + _encode_key(key.public_key()))
    signed_key = _write_der(_OCTET_STRING, identity.public_key.to_protobuf())
    signed_key += _write_der(_OCTET_STRING, signature)
    extension = x509.UnrecognizedExtension(_EXTENSION, _write_der(_SEQUENCE, signed_key))
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .public_key(key.public_key())
        .add_extension(extension, critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def read_certificate(der: bytes, *, now: float) -> PublicKey:
    """Return the identity key that a peer's certificate proves at `now` (Unix seconds).

    Raises:
        CertificateError: it proves nothing.
    """
    if len(der) > MAX_CERTIFICATE:
        raise CertificateError(f"a certificate of {len(der)} bytes, limit {MAX_CERTIFICATE}")
    try:
        certificate = _load(der)
        _check_dates(certificate, now)
        certificate.verify_directly_issued_by(certificate)
        key, signature = _read_extension(certificate)
        certified = _encode_key(certificate.public_key())
    except InvalidSignature:
        raise CertificateError("the certificate's own signature is wrong") from None
    except _UNREADABLE as error:
        raise CertificateError(f"the certificate cannot be read: {error}") from error
    if not key.verify(_SIGNED_PREFIX + certified, signature):
        raise CertificateError(f"whoever is there cannot prove to be {key.peer_id}")
    return key


def _load(der: bytes) -> x509.Certificate:
    # What the library reads against the standard, with a warning, is refused: a stranger does not
    # get to write to our standard error.
    with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
        return x509.load_der_x509_certificate(der)


def _check_dates(certificate: x509.Certificate, now: float) -> None:
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= moment <= last:
        raise CertificateError(f"the certificate is valid from {first} to {last}, not now")


def _read_extension(certificate: x509.Certificate) -> tuple[PublicKey, bytes]:
    try:
        extensions = certificate.extensions
    except x509.DuplicateExtension:
        raise CertificateError("the certificate has an extension twice") from None
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise CertificateError(f"critical extension {extension.oid.dotted_string} is unknown")
    try:
        found = extensions.get_extension_for_oid(_EXTENSION).value
    except x509.ExtensionNotFound:
        raise CertificateError("the certificate does not say whose it is") from None
    if not isinstance(found, x509.UnrecognizedExtension):
        raise CertificateError("the libp2p extension has another meaning here")
    try:
        signed_key, rest = _read_der(_SEQUENCE, found.value)
        key, after_key = _read_der(_OCTET_STRING, signed_key)
        signature, after_signature = _read_der(_OCTET_STRING, after_key)
        if rest or after_signature:
            raise CertificateError("the libp2p extension has bytes too many")
        return PublicKey.from_protobuf(key), signature
    except CodecError as error:
        raise CertificateError(f"the libp2p extension: {error}") from error


def _encode_key(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _write_der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _read_der(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """Return the content of the value that `data` begins with, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise CodecError(f"no DER value with tag 0x{tag:02x}")
    size, start = data[1], 2
    if size >= 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if start > len(data) or size > len(data) - start:
        raise CodecError("a DER value is cut short")
    if _write_der(tag, data[start : start + size]) != data[: start + size]:
        raise CodecError("a DER length is not in its shortest form")
    return data[start : start + size], data[start + size :]
