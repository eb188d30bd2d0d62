"""Baseline: blocking sockets under Python's `ssl`, TLS 1.3, 1 MiB writes, nothing else.

usage: python -m benchmarks.roles.ssl_sockets serve
       python -m benchmarks.roles.ssl_sockets drive HOST:PORT SIZE
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import struct
import sys
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ._drive import PIECE, drive, say, upload_figures


def serve() -> None:
    """Swallow uploads, acknowledging each, over one connection after another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pem"
        path.write_bytes(certificate())
        context.load_cert_chain(path)
    buffer = memoryview(bytearray(PIECE))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        say(ready=f"127.0.0.1:{listener.getsockname()[1]}")
        while True:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                while header := connection.recv(8):
                    left = struct.unpack("!Q", header)[0]
                    while left:
                        left -= connection.recv_into(buffer[: min(left, PIECE)])
                    connection.sendall(header)


def upload(address: str, size: int) -> None:
    """Upload `size` bytes whenever told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = address.rsplit(":", 1)
    piece = os.urandom(PIECE)
    with context.wrap_socket(socket.create_connection((host, int(port)))) as connection:

        def measure(size: int = size) -> dict[str, float]:
            started, cpu = time.perf_counter(), time.process_time()
            connection.sendall(struct.pack("!Q", size))
            for _ in range(size // PIECE):
                connection.sendall(piece)
            acknowledged = connection.recv(8)
            assert struct.unpack("!Q", acknowledged)[0] == size
            return upload_figures(size, started, cpu)

        measure(64 * PIECE)
        drive(measure)


def certificate() -> bytes:
    """Return a key and a certificate that it signed for itself, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        upload(sys.argv[2], int(sys.argv[3]))
