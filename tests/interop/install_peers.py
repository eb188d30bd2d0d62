"""Set up the foreign peers that the interoperability tests talk to, under `.foreign/`.

    python tests/interop/install_peers.py [go] [js] [rust] [py] [torrent] [hivemind]

`go` is go-libp2p as the daemon in the wheel of `hivemind`; `js` is js-libp2p and helia from npm,
with a node of its own; `rust` is rust-libp2p inside Gradient's Lattica, in a virtual environment of
its own because its import name is ours; `py` is stock py-libp2p and `torrent` libtorrent, likewise
apart. Each is installed once; without arguments, all. `hivemind`, whole and with its torch, comes
only when it is named: the benchmark of the DHT measures it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ROOT / ".foreign"
GO_DAEMON = FOREIGN / "go" / "p2pd"
JS_PEER = FOREIGN / "js" / "peer.mjs"
JS_NODE = FOREIGN / "js" / "node_modules" / ".bin" / "node"  # newer than many a machine's own
RUST_PYTHON = FOREIGN / "rust" / "bin" / "python"
PY_PYTHON = FOREIGN / "py" / "bin" / "python"
HIVEMIND_PYTHON = FOREIGN / "hivemind" / "bin" / "python"
TORRENT_PYTHON = FOREIGN / "torrent" / "bin" / "python"


def install_go() -> None:
    """Take the daemon out of hivemind's wheel; nothing of hivemind is installed."""
    wheels = FOREIGN / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
    subprocess.run([*pip, "hivemind==1.1.12"], check=True)
    GO_DAEMON.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(next(wheels.glob("hivemind-*.whl"))) as wheel:
        GO_DAEMON.write_bytes(wheel.read("hivemind/hivemind_cli/p2pd"))
    GO_DAEMON.chmod(0o755)


def install_js() -> None:
    """Install js-libp2p; needs node 20 or newer and npm."""
    JS_PEER.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).parent / "js"
    shutil.copy(source / "package.json", JS_PEER.parent)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(npm, cwd=JS_PEER.parent, check=True)
    for name in (
        "helia.mjs",
        "peer.mjs",
    ):  # last: its presence says that all is there
        shutil.copy(source / name, JS_PEER.parent)


def install_rust() -> None:
    """Install Gradient's Lattica where it cannot shadow ours."""
    _install_python(RUST_PYTHON, "lattica==1.0.21")


def install_py() -> None:
    """Install stock py-libp2p; needs a C compiler and the GMP headers."""
    _install_python(PY_PYTHON, "libp2p==0.8.1")


def install_hivemind() -> None:
    """Install hivemind, which the benchmark of the DHT measures beside ours."""
    _install_python(HIVEMIND_PYTHON, "torch==2.13.0", "hivemind==1.1.12")


def install_torrent() -> None:
    """Install libtorrent, which benchmarks stand beside."""
    _install_python(TORRENT_PYTHON, "libtorrent==2.0.11")


def _install_python(python: Path, *requirements: str) -> None:
    venv.create(python.parent.parent, with_pip=True)
    for requirement in requirements:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", requirement], check=True)


PEERS = {
    "go": (GO_DAEMON, install_go),
    "js": (JS_PEER, install_js),
    "rust": (RUST_PYTHON, install_rust),
    "py": (PY_PYTHON, install_py),
    "torrent": (TORRENT_PYTHON, install_torrent),
}
EXTRAS = {"hivemind": (HIVEMIND_PYTHON, install_hivemind)}


def main() -> None:
    for name in sys.argv[1:] or PEERS:
        present, install = (PEERS | EXTRAS)[name]
        if present.exists() and name != "js":
            continue
        print(f"installing the {name} peer under {FOREIGN}", flush=True)  # noqa: T201  a script that talks
        install()


if __name__ == "__main__":
    main()
