"""Baseline: `curl` gets a file from `nginx` over TLS 1.3 into a file, as a download from the web.

usage: python -m benchmarks.roles.curl serve FILE
       python -m benchmarks.roles.curl drive URL COPY
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ._drive import drive, say
from .ssl_sockets import certificate

_CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    sendfile on;
    types {{}}
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/pem;
        ssl_certificate_key {folder}/pem;
        ssl_protocols TLSv1.3;
        root {root};
    }}
}}
"""


def find_nginx() -> str | None:
    """Where nginx is, if it is installed: Debian's is not on every user's path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def serve(path: Path) -> None:
    """Have nginx serve `path` until the end of our input; what it writes is in a folder apart."""
    nginx = find_nginx()
    assert nginx is not None
    with tempfile.TemporaryDirectory(prefix="lattica-bench-nginx-") as name:
        folder, port = Path(name), _free_port()
        # Started by root it would read files as somebody else, who may not read these.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "pem").write_bytes(certificate())
        configuration = folder / "nginx.conf"
        text = _CONFIGURATION.format(folder=folder, port=port, root=path.parent, user=user)
        configuration.write_text(text)
        server = subprocess.Popen([nginx, "-c", str(configuration), "-p", name])
        try:
            _wait_for(port)
            say(ready=f"https://127.0.0.1:{port}/{path.name}")
            sys.stdin.read()
        finally:
            server.terminate()
            server.wait(10)


def get(url: str, copy: Path) -> None:
    """Get `url` into `copy`, from nothing, whenever told to; timed by curl itself."""

    def measure() -> dict[str, float]:
        copy.unlink(missing_ok=True)
        command = ["curl", "-sSfk", "--tlsv1.3", "-o", str(copy)]
        told = subprocess.run(
            [*command, "-w", "%{time_total} %{size_download}", url],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        seconds, size = map(float, told.split())
        return {"mb_per_s": size / seconds / 1e6}

    drive(measure)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx did not begin to listen within 5 s")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        get(sys.argv[2], Path(sys.argv[3]))
