"""Foreign peers by name. `make interop` installs them; absent ones are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import install_peers as peers
import pytest
from _go_peer import GoPeer, open_go_peer
from _json_peer import JsonPeer, open_json_peer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

Foreign = GoPeer | JsonPeer


def _needs(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there: run `make interop`")


def open_foreign(kind: str, *more: str) -> AbstractAsyncContextManager[Foreign]:
    """Start the peer of that kind: implementation, then the one security protocol it offers."""
    name, _, security = kind.partition("-")
    if name == "go":
        _needs(peers.GO_DAEMON)
        other = "tls" if security == "noise" else "noise"
        return open_go_peer(peers.GO_DAEMON, f"-{other}=0", "-dhtServer=1")
    if name == "js":
        _needs(peers.JS_PEER)
        return open_json_peer(
            [str(peers.JS_NODE), str(peers.JS_PEER), "--security", security, *more]
        )
    if name == "helia":
        _needs(peers.JS_PEER)
        return open_json_peer([str(peers.JS_NODE), str(peers.JS_PEER.with_name("helia.mjs"))])
    _needs(peers.PY_PYTHON)
    script = Path(__file__).with_name("py_peer.py")
    return open_json_peer([str(peers.PY_PYTHON), str(script), security])
