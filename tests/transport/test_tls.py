from __future__ import annotations

import contextlib
import datetime as dt
import hmac
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings, strategies as st
from OpenSSL import SSL

from lattica.errors import LatticaError
from lattica.identity import Identity
from lattica.transport._channel import PeerIdMismatch
from lattica.transport.tls import (
    CertificateError,
    TlsError,
    TlsHandshake,
    _certificate,
    _session,
    make_certificate,
    read_certificate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

VECTORS = json.loads(
    Path(__file__, "../../../spec/vectors/tls-certificates.json").resolve().read_text("utf-8")
)
ALICE, BOB, EVE = (Identity(bytes([seed]) * 32) for seed in (1, 2, 3))
NOW = 1_700_000_000.0


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_certificate_vectors_are_believed_or_refused(case: dict[str, Any]) -> None:
    wire = bytes.fromhex(case["wire"])
    if case["result"] == "invalid":
        with pytest.raises(CertificateError):
            read_certificate(wire, now=case["now"])
    else:
        key = read_certificate(wire, now=case["now"])
        assert str(key.peer_id) == case["result"]["peer"]


def test_our_certificate_proves_our_identity_and_carries_nothing_else() -> None:
    certificate, key = make_certificate(ALICE)
    assert read_certificate(certificate.public_bytes(Encoding.DER), now=NOW) == ALICE.public_key
    (extension,) = certificate.extensions
    assert extension.oid.dotted_string == "1.3.6.1.4.1.53594.1.1"
    assert not extension.critical
    assert isinstance(key.curve, ec.SECP256R1)
    assert make_certificate(ALICE)[0].serial_number != certificate.serial_number


def _certify(
    identity: Identity,
    key: CertificateIssuerPrivateKeyTypes,
    *,
    certified: CertificateIssuerPrivateKeyTypes | None = None,
    value: bytes | None = None,
    extensions: Iterable[x509.Extension[x509.UnrecognizedExtension]] = (),
    not_after: dt.datetime = _certificate._NOT_AFTER,
) -> x509.Certificate:
    """A certificate as a foreign implementation might make it, or an attacker."""
    public = (certified or key).public_key()
    signature = identity.sign(_certificate._SIGNED_PREFIX + _certificate._encode_key(public))
    signed_key = _octets(identity.public_key.to_protobuf()) + _octets(signature)
    value = _certificate._write_der(0x30, signed_key) if value is None else value
    builder = (
        x509.CertificateBuilder()
        .subject_name(_certificate._NAME)
        .issuer_name(_certificate._NAME)
        .serial_number(1)
        .not_valid_before(_certificate._NOT_BEFORE)
        .not_valid_after(not_after)
        .public_key(key.public_key())
    )
    if value:
        ours = x509.UnrecognizedExtension(_certificate._EXTENSION, value)
        builder = builder.add_extension(ours, critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def _octets(content: bytes) -> bytes:
    return _certificate._write_der(0x04, content)


def _extension(oid: str, *, critical: bool) -> x509.Extension[x509.UnrecognizedExtension]:
    identifier = x509.ObjectIdentifier(oid)
    value = x509.UnrecognizedExtension(identifier, b"\x05\x00")
    return x509.Extension(identifier, critical, value)


P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
GOOD = _certify(BOB, P256)
FOREIGN_KEYS: dict[str, CertificateIssuerPrivateKeyTypes] = {
    "p256": P256,
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ED25519,
    "rsa": RSA,
}
HOSTILE_CERTIFICATES = {
    "no-extension": _certify(BOB, P256, value=b""),
    "not-asn1": _certify(BOB, P256, value=b"nonsense"),
    "cut": _certify(BOB, P256, value=b"\x30\x7f\x04"),
    "long-form": _certify(BOB, P256, value=b"\x30\x81\x04\x04\x00\x04\x00"),
    "huge": _certify(BOB, P256, value=b"\x30\x88" + b"\xff" * 8),
    "empty-key": _certify(BOB, P256, value=b"\x30\x04\x04\x00\x04\x00"),
    "signature-missing": _certify(
        BOB, P256, value=_certificate._write_der(0x30, _octets(BOB.public_key.to_protobuf()))
    ),
    "third-field": _certify(
        BOB,
        P256,
        value=_certificate._write_der(
            0x30, _octets(BOB.public_key.to_protobuf()) + _octets(bytes(64)) + _octets(b"")
        ),
    ),
    "for-another-key": _certify(BOB, P256, certified=ED25519),
    "unknown-critical": _certify(BOB, P256, extensions=[_extension("1.2.3.4", critical=True)]),
    "expired": _certify(BOB, P256, not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
}


@pytest.mark.parametrize("kind", FOREIGN_KEYS)
def test_foreign_certificates_may_use_any_key_type(kind: str) -> None:
    der = _certify(BOB, FOREIGN_KEYS[kind]).public_bytes(Encoding.DER)
    assert read_certificate(der, now=NOW) == BOB.public_key


def test_an_unknown_extension_is_ignored_unless_it_is_critical() -> None:
    certificate = _certify(BOB, P256, extensions=[_extension("1.2.3.4", critical=False)])
    assert read_certificate(certificate.public_bytes(Encoding.DER), now=NOW) == BOB.public_key


@pytest.mark.parametrize("kind", HOSTILE_CERTIFICATES)
def test_hostile_certificates_prove_nothing(kind: str) -> None:
    with pytest.raises(CertificateError):
        read_certificate(HOSTILE_CERTIFICATES[kind].public_bytes(Encoding.DER), now=NOW)


def test_a_certificate_is_bounded() -> None:
    with pytest.raises(CertificateError, match="limit"):
        read_certificate(bytes(_certificate.MAX_CERTIFICATE + 1), now=NOW)


@settings(max_examples=300)
@given(
    st.sampled_from(
        [bytes.fromhex(case["wire"]) for case in VECTORS["cases"] if case["result"] != "invalid"]
    ),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_changed_certificate_is_a_key_or_a_typed_error(
    wire: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(wire)
    for position, value in changes:
        changed[position % len(changed)] = value
    try:
        key = read_certificate(bytes(changed), now=NOW)
    except CertificateError:
        return
    assert key == read_certificate(wire, now=NOW)  # nobody else's, whatever was changed


@given(st.binary(max_size=100))
def test_any_bytes_are_a_certificate_or_a_typed_error(data: bytes) -> None:
    with pytest.raises(CertificateError):
        read_certificate(data, now=NOW)


class Foreign:
    """A TLS endpoint that does what it is told, with the interface of a handshake."""

    def __init__(
        self,
        *,
        initiator: bool,
        key: CertificateIssuerPrivateKeyTypes | None = P256,
        certificate: x509.Certificate = GOOD,
        chain: Iterable[x509.Certificate] = (),
        configure: Callable[[SSL.Context], object] = lambda _: None,
        alpn: bytes | None = b"libp2p",
    ) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        if key is not None:
            context.use_privatekey(key)  # type: ignore[arg-type]  # EC, Ed25519 and RSA all are
            context.use_certificate(certificate)
        for further in chain:
            context.add_extra_chain_cert(further)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if alpn is not None and initiator:
            context.set_alpn_protos([alpn])
        configure(context)
        self._initiator = initiator
        self.tls = SSL.Connection(context, None)
        if initiator:
            self.tls.set_connect_state()
        else:
            self.tls.set_accept_state()
        self.error: str | None = None
        self.done = False

    def start(self) -> bytes:
        return self._advance() if self._initiator else b""

    def receive(self, data: bytes) -> bytes:
        self.tls.bio_write(data)
        return self._advance()

    def _advance(self) -> bytes:
        try:
            self.tls.do_handshake()
            self.done = True
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.error = _session._reason(error)
        return _session._output(self.tls)


def _exchange(ours: TlsHandshake, theirs: TlsHandshake | Foreign, *, dialled: bool) -> None:
    """Carry flights back and forth until nobody has anything to say."""
    first, second = (ours, theirs) if dialled else (theirs, ours)
    flight = first.start()
    while flight:
        flight = second.receive(flight)
        first, second = second, first


def _meet(*, dialled: bool, expected: Identity = BOB, **foreign: Any) -> TlsHandshake:
    """Run a handshake of Alice with a foreign endpoint, and tell that one why it failed."""
    ours = TlsHandshake(ALICE, initiator=dialled, now=NOW, expected=expected.peer_id)
    theirs = Foreign(initiator=not dialled, **foreign)
    try:
        _exchange(ours, theirs, dialled=dialled)
    except LatticaError as error:
        if last_words := ours.last_words():
            theirs.receive(last_words)
        error.add_note(str(theirs.error))
        raise
    return ours


both_ways = pytest.mark.parametrize("dialled", [True, False], ids=["we-dial", "they-dial"])


@both_ways
@pytest.mark.parametrize("kind", FOREIGN_KEYS)
def test_foreign_peers_are_met_whatever_their_certificate_key(kind: str, dialled: bool) -> None:
    key = FOREIGN_KEYS[kind]
    ours = _meet(dialled=dialled, key=key, certificate=_certify(BOB, key))
    assert ours.established is not None
    assert ours.established.remote_key == BOB.public_key
    assert ours.established.muxer is None


@both_ways
@pytest.mark.parametrize("kind", HOSTILE_CERTIFICATES)
def test_hostile_certificates_end_the_handshake(kind: str, dialled: bool) -> None:
    with pytest.raises(CertificateError):
        _meet(dialled=dialled, certificate=HOSTILE_CERTIFICATES[kind])


@both_ways
def test_a_chain_of_two_certificates_is_refused(dialled: bool) -> None:
    with pytest.raises(CertificateError, match="exactly one"):
        _meet(dialled=dialled, chain=[_certify(EVE, ED25519)])


@both_ways
def test_somebody_else_is_refused_inside_the_handshake(dialled: bool) -> None:
    with pytest.raises(PeerIdMismatch) as caught:
        _meet(dialled=dialled, expected=EVE)
    assert caught.value.found == BOB.peer_id


def test_a_refused_listener_is_told_by_an_alert() -> None:
    with pytest.raises(PeerIdMismatch) as caught:
        _meet(dialled=True, expected=EVE)
    assert "alert" in caught.value.__notes__[0]


def test_a_dialer_without_a_certificate_is_refused() -> None:
    with pytest.raises(TlsError, match="did not return a certificate"):
        _meet(dialled=False, key=None)


@both_ways
def test_tls_1_2_is_refused(dialled: bool) -> None:
    with pytest.raises(TlsError, match=r"protocol"):
        _meet(dialled=dialled, configure=lambda c: c.set_max_proto_version(SSL.TLS1_2_VERSION))


def test_a_dialer_that_offers_other_applications_is_refused() -> None:
    with pytest.raises(TlsError, match="not libp2p"):
        _meet(dialled=False, alpn=b"h2")


def test_a_peer_that_names_no_application_is_met_all_the_same() -> None:
    assert _meet(dialled=False, alpn=None).established is not None


def test_no_server_name_is_sent() -> None:
    flight = TlsHandshake(ALICE, initiator=True, now=NOW).start()
    seen: list[bytes | None] = []
    theirs = Foreign(
        initiator=False,
        configure=lambda c: c.set_tlsext_servername_callback(
            lambda connection: seen.append(connection.get_servername())
        ),
    )
    theirs.receive(flight)
    assert seen == [None]


def _pair(muxers: tuple[str, ...] = ()) -> tuple[TlsHandshake, TlsHandshake]:
    dialer = TlsHandshake(ALICE, initiator=True, now=NOW, muxers=muxers)
    return dialer, TlsHandshake(BOB, initiator=False, now=NOW, muxers=muxers)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=6))
def test_a_handshake_survives_any_split_and_data_that_follows_it(cuts: list[int]) -> None:
    dialer, listener = _pair()
    last = dialer.receive(listener.receive(dialer.start()))
    assert dialer.established is not None
    wire = last + b"".join(map(bytes, dialer.established.sealer.seal([b"at once"])))
    pieces: list[bytes | memoryview] = []
    for start, end in pairwise([0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]):
        if (established := listener.established) is not None:
            pieces += established.opener.receive(wire[start:end])
            continue
        listener.receive(wire[start:end])
        if (established := listener.established) is not None:
            pieces += established.pieces
    assert b"".join(pieces) == b"at once"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2), st.integers(0, 5000), st.integers(1, 255))
def test_a_changed_byte_ends_the_handshake_or_was_one_that_tls_ignores(
    message: int, position: int, flip: int
) -> None:
    dialer, listener = _pair()
    sides, flight = (dialer, listener), dialer.start()
    with contextlib.suppress(TlsError):
        for turn in range(3):
            if turn == message and flight:
                at = position % len(flight)
                flight = flight[:at] + bytes([flight[at] ^ flip]) + flight[at + 1 :]
            flight = sides[1 - turn % 2].receive(flight)
    ours, theirs = dialer.established, listener.established
    if ours is not None and theirs is not None:
        assert (ours.remote_key, theirs.remote_key) == (BOB.public_key, ALICE.public_key)
        wire = b"".join(map(bytes, ours.sealer.seal([b"same keys"])))
        assert theirs.opener.receive(wire) == [b"same keys"]


@given(st.binary(max_size=200), st.booleans())
def test_whatever_a_stranger_sends_is_waited_for_or_refused(data: bytes, initiator: bool) -> None:
    handshake = TlsHandshake(ALICE, initiator=initiator, now=NOW)
    handshake.start()
    try:
        handshake.receive(data)
    except TlsError:
        return
    assert handshake.established is None


def test_tickets_wait_for_data_instead_of_making_a_flight_of_their_own() -> None:
    dialer, listener = _pair()
    assert listener.receive(dialer.receive(listener.receive(dialer.start()))) == b""
    assert listener.established is not None
    assert dialer.established is not None
    wire = b"".join(map(bytes, listener.established.sealer.seal([b"hello"])))
    assert b"".join(dialer.established.opener.receive(wire)) == b"hello"


def test_a_closure_alert_ends_what_is_read_and_nothing_else() -> None:
    foreign = Foreign(initiator=True)
    ours = TlsHandshake(ALICE, initiator=False, now=NOW)
    _exchange(ours, foreign, dialled=False)
    assert ours.established is not None
    foreign.tls.send(b"bye")
    foreign.tls.shutdown()
    wire = _session._output(foreign.tls)
    assert b"".join(ours.established.opener.receive(wire)) == b"bye"
    assert ours.established.opener.receive(wire) == []  # ignored, as RFC 8446 asks
    ours.established.opener.finish()
    assert b"".join(map(bytes, ours.established.sealer.seal([b"still here"])))


def test_a_plaintext_alert_of_a_stranger_ends_the_handshake() -> None:
    handshake = TlsHandshake(ALICE, initiator=True, now=NOW)
    handshake.start()
    with pytest.raises(TlsError, match="alert"):
        handshake.receive(b"\x15\x03\x03\x00\x02\x02\x28")


def test_records_are_full_and_small_buffers_ride_along() -> None:
    sizes = [12, 65_536, 12, 65_536]
    written = [len(part) for part in _session._cut([bytes(size) for size in sizes])]
    assert written[0] == _session._RECORD_BYTES
    assert sum(written) == sum(sizes)
    assert len(written) == 4
    assert [len(part) for part in _session._cut([b"ab", b"c", b"def"])] == [6]
    assert list(_session._cut([b"", b""])) == []


class KeyUpdater:
    """A dialer that asks for new keys in every record: made by hand, OpenSSL would not do it."""

    def __init__(self) -> None:
        secrets: list[bytes] = []
        self.foreign = Foreign(
            initiator=True,
            configure=lambda c: (
                c.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256"),
                c.set_keylog_callback(lambda _, line: secrets.append(line)),
            ),
        )
        self._lines = secrets

    def requests(self, count: int) -> bytes:
        line = next(line for line in self._lines if line.startswith(b"CLIENT_TRAFFIC_SECRET_0"))
        secret = bytes.fromhex(line.split()[2].decode())
        records = b""
        for _ in range(count):
            header = b"\x17\x03\x03\x00\x16"
            message = b"\x18\x00\x00\x01\x01" + b"\x16"  # update_requested, as a handshake record
            key, nonce = _expand(secret, b"key", 16), _expand(secret, b"iv", 12)
            records += header + AESGCM(key).encrypt(nonce, message, header)
            secret = _expand(secret, b"traffic upd", 32)
        return records


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of TLS 1.3 (RFC 8446, section 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\x00"
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]


def test_new_keys_are_answered_in_order() -> None:
    hostile, ours = KeyUpdater(), TlsHandshake(ALICE, initiator=False, now=NOW)
    _exchange(ours, hostile.foreign, dialled=False)
    assert ours.established is not None
    before = b"".join(map(bytes, ours.established.sealer.seal([b"old keys"])))
    assert ours.established.opener.receive(hostile.requests(1)) == []
    after = b"".join(map(bytes, ours.established.sealer.seal([b" new keys"])))
    hostile.foreign.tls.bio_write(before + after)
    assert hostile.foreign.tls.recv(100) + hostile.foreign.tls.recv(100) == b"old keys new keys"


def test_new_keys_asked_for_in_the_middle_of_a_send_are_answered_in_order() -> None:
    hostile, ours = KeyUpdater(), TlsHandshake(ALICE, initiator=False, now=NOW)
    _exchange(ours, hostile.foreign, dialled=False)
    assert ours.established is not None
    data = bytes(1_200_000)
    batches = ours.established.sealer.seal([data])
    wire = bytes(next(batches))
    ours.established.opener.receive(hostile.requests(1))
    wire += b"".join(map(bytes, batches))
    received = 0
    for at in range(0, len(wire), 16_384):
        hostile.foreign.tls.bio_write(wire[at : at + 16_384])
        with contextlib.suppress(SSL.WantReadError):
            while True:
                received += len(hostile.foreign.tls.recv(16_384))
    assert received == len(data)


def test_a_peer_that_asks_for_new_keys_again_and_again_is_dropped() -> None:
    hostile, ours = KeyUpdater(), TlsHandshake(ALICE, initiator=False, now=NOW)
    _exchange(ours, hostile.foreign, dialled=False)
    assert ours.established is not None
    with pytest.raises(TlsError):
        ours.established.opener.receive(hostile.requests(300))


def test_no_key_shows_in_a_repr() -> None:
    secret = bytes([1]) * 32
    dialer, listener = _pair()
    _exchange(dialer, listener, dialled=True)
    shown = "".join(map(repr, (dialer, listener, dialer.established, make_certificate(ALICE))))
    assert secret.hex() not in shown
    assert repr(secret) not in shown
