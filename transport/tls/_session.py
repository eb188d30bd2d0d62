"""TLS 1.3 between two libp2p peers: bytes in, bytes out. OpenSSL works, we hold both its ends.

Both sides show a libp2p certificate, and `read_certificate` alone decides whether it is good: the
verdict falls inside the handshake, so a refused peer is told by an alert. OpenSSL runs on memory
buffers. That keeps it pure, lets TLS run over any link, and is faster from Python than a socket:
one system call moves half a megabyte, where OpenSSL itself makes two for each 16 KiB record.

pyOpenSSL is used because the `ssl` module cannot ask a client for a certificate and then accept one
that no authority signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from lattica.transport._buffers import BATCH_BYTES, lent_buffer
from lattica.transport._channel import Established, KeyExhausted, check_peer

from ._certificate import CertificateError, TlsError, make_certificate, read_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from OpenSSL.crypto import X509

    from lattica.identity import Identity, PeerId, PublicKey

_ALPN = b"libp2p"
_EXPORTER = b"EXPORTER-lattica-member"  # RFC 8446, section 7.5
# AES-128 first: where the hardware has it, it is the fastest, and as strong as the rest of this.
_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_MODE_ENABLE_PARTIAL_WRITE = 0x1  # of openssl/ssl.h; pyOpenSSL does not name it
_RECORD_BYTES = 16 * 1024  # plaintext of a TLS record
# What OpenSSL is given or asked for at once. Its buffers grow to this and stay, so it is the larger
# part of what a link costs once it has been busy; more gains nothing.
_SLICE_BYTES = 4 * _RECORD_BYTES
_OUTPUT_BYTES = _SLICE_BYTES + 1024  # a sealed slice
_MAX_ANSWERS = 4096  # bytes of answers that wait for something to be sent; one takes below 50
_JOIN_BYTES = 4096  # buffers up to this size share a record with what follows
_MAX_RECORDS = 23_726_566  # per AES-GCM key: 2^24.5 (RFC 8446, section 5.5), 388 GB


class TlsHandshake:
    """One side of the handshake; see `Handshake` in `lattica.transport._channel`.

    Attributes:
        established: the result, None until the peer is proven.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        now: float,
        expected: PeerId | None = None,
        muxers: Sequence[str] = (),
    ) -> None:
        """Begin. `now` is Unix time in seconds, for the dates of the peer's certificate."""
        self._verdict = _Verdict(now, expected)
        self._muxers = tuple(muxers)
        protocols = [*(muxer.encode() for muxer in muxers), _ALPN]
        context = _context(identity, self._verdict, protocols, initiator=initiator)
        self._tls = SSL.Connection(context, None)
        self._initiator = initiator
        if initiator:
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()
        self.established: Established | None = None

    def start(self) -> bytes:
        """Return the first flight; nothing for the responder."""
        return self._advance() if self._initiator else b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take bytes, return what to send.

        Raises:
            TlsError: that is no TLS 1.3, or the peer cannot prove who it is.
            PeerIdMismatch: it is not the peer we expected.
        """
        if data:
            self._tls.bio_write(data)
        return self._advance()

    def last_words(self) -> bytes:
        """Return the alert for the peer that was refused."""
        return _output(self._tls)

    def _advance(self) -> bytes:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return _output(self._tls)
        except SSL.Error as error:
            raise TlsError(f"TLS handshake: {_reason(error)}") from error
        return self._establish()

    def _establish(self) -> bytes:
        key = self._verdict.key
        # OpenSSL counts the peer's own certificate among the chain only on the dialling side.
        chain = self._tls.get_peer_cert_chain(as_cryptography=True) or []
        if key is None or len(chain) > self._initiator:
            _output(self._tls)  # our own proof, which such a peer does not get
            raise CertificateError("the peer must show exactly one certificate")
        chosen = self._tls.get_alpn_proto_negotiated()
        flight = _output(self._tls)
        cipher = TlsCipher(self._tls)
        if not self._initiator:
            # Session tickets, which OpenSSL cannot be told to leave out. Nobody waits for them, so
            # they travel with the first data.
            cipher.answers, flight = flight, b""
        self.established = Established(
            remote_key=key,
            muxer=next((muxer for muxer in self._muxers if muxer.encode() == chosen), None),
            binding=self._tls.export_keying_material(_EXPORTER, 32),
            sealer=cipher,
            opener=cipher,
            pieces=cipher.receive(b""),
        )
        return flight


class TlsCipher:
    """Turns plaintext into records and records into plaintext, both directions of a link.

    They are one object because they are not independent: a peer may ask for new keys, and the
    answer takes its place among what we send. Once it has raised, the link is dead.

    Attributes:
        answers: records of the protocol itself, to be sent before the next plaintext.
    """

    def __init__(self, tls: SSL.Connection, *, sent: int = 0) -> None:
        """Work with an established `tls`; `sent` records have been sealed already."""
        self._tls = tls
        self._records = sent
        self.answers = b""

    def seal(self, buffers: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
        """Yield `buffers` as records, about half a MiB at a time.

        Raises:
            KeyExhausted: the key has sealed all it may.
            TlsError: the link is dead.
        """
        with lent_buffer() as batch:
            size = 0
            for plaintext in _cut(buffers):
                records = self._seal(plaintext)
                if size + len(records) > BATCH_BYTES:
                    yield batch[:size]
                    size = 0
                batch[size : size + len(records)] = records
                size += len(records)
            if size:
                yield batch[:size]

    def receive(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Take bytes; return the plaintext of each record that is now whole.

        What follows the peer's closure alert is ignored (RFC 8446, section 6.1).

        Raises:
            TlsError: a record is forged, or the peer has sent an alert.
        """
        view = memoryview(data)
        pieces: list[bytes | memoryview] = []
        for start in range(0, len(view) or 1, _SLICE_BYTES):
            if part := view[start : start + _SLICE_BYTES]:
                self._tls.bio_write(part)
            self._open(pieces)
        self.answers += _output(self._tls)
        if len(self.answers) > _MAX_ANSWERS:
            raise TlsError("the peer asks for new keys again and again")
        return pieces

    def finish(self) -> None:
        """Note the end of the link. A cut cannot be told from a goodbye: many peers say none."""

    def _seal(self, plaintext: bytes | memoryview) -> bytes:
        self._records += -(-len(plaintext) // _RECORD_BYTES)
        if self._records > _MAX_RECORDS:
            raise KeyExhausted(f"{_MAX_RECORDS} records have been sent under one key")
        answers, self.answers = self.answers, b""  # sealed before, so sent before
        try:
            self._tls.send(plaintext)
        except SSL.Error as error:
            raise TlsError(f"TLS: {_reason(error)}") from error
        return answers + _output(self._tls)

    def _open(self, pieces: list[bytes | memoryview]) -> None:
        receive = self._tls.recv
        try:
            while True:
                pieces.append(receive(_RECORD_BYTES))
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return
        except SSL.Error as error:
            raise TlsError(f"TLS: {_reason(error)}") from error


class _Verdict:
    """What we make of the peer's certificate. Knows no session, so that no cycle keeps one."""

    def __init__(self, now: float, expected: PeerId | None) -> None:
        self._now, self._expected = now, expected
        self.key: PublicKey | None = None

    def judge(self, _: SSL.Connection, shown: X509, error: int, depth: int, ok: int) -> bool:
        """Decide for OpenSSL, which calls this for each doubt it has: it can judge no such chain.

        Raises what the handshake is to end with; pyOpenSSL carries it through.
        """
        if depth == 0 and self.key is None:
            key = read_certificate(
                shown.to_cryptography().public_bytes(Encoding.DER), now=self._now
            )
            check_peer(key, self._expected)
            self.key = key
        return True


def _context(
    identity: Identity, verdict: _Verdict, protocols: Sequence[bytes], *, initiator: bool
) -> SSL.Context:
    certificate, key = make_certificate(identity)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_CIPHERS)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # Without partial writes one call seals a whole slice; the memory buffers always have room.
    context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.use_privatekey(key)
    context.use_certificate(certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verdict.judge)
    if initiator:
        context.set_alpn_protos(list(protocols))
    else:
        context.set_alpn_select_callback(lambda _, offered: _choose(offered, protocols))
    return context


def _choose(offered: Sequence[bytes], protocols: Sequence[bytes]) -> bytes:
    for protocol in offered:
        if protocol in protocols:
            return protocol
    raise TlsError(f"the peer offers {len(offered)} protocols, but not libp2p")


def _output(tls: SSL.Connection) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            parts.append(tls.bio_read(_OUTPUT_BYTES))
        except SSL.WantReadError:
            return b"".join(parts)


def _reason(error: SSL.Error) -> str:
    if error.args and isinstance(error.args[0], list):
        return "; ".join(reason for _, _, reason in error.args[0]) or "unknown error"
    return str(error) or type(error).__name__


def _cut(buffers: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Cut `buffers` into slices for OpenSSL; small ones go in front of what follows them."""
    small: list[memoryview] = []
    small_bytes = 0
    for buffer in buffers:
        view = memoryview(buffer)
        if small and len(view) > _JOIN_BYTES:
            head = _RECORD_BYTES - small_bytes  # fills one record
            yield b"".join((*small, view[:head]))
            view, small, small_bytes = view[head:], [], 0
        for start in range(0, len(view), _SLICE_BYTES):
            part = view[start : start + _SLICE_BYTES]
            if len(part) > _JOIN_BYTES:
                yield part
                continue
            small.append(part)
            small_bytes += len(part)
            if small_bytes > _RECORD_BYTES - _JOIN_BYTES:
                yield b"".join(small)
                small, small_bytes = [], 0
    if small:
        yield b"".join(small)
