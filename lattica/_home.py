"""A node's home: one folder with its key, its store, its settings, and one owner at a time.

    key            the private key, mode 0600          lattica.toml   settings (config.py)
    store/         the index of what is shared         lock           held by the running node
    dht.db         records of the DHT (dht/_database)
    names.db       the newest of each name that was seen, and what was said of manifests
    trust          keys that the user trusts, one a line
    swarm.key      the private swarm's, mode 0600
    port           where it listened last              control.sock   the running node (_control.py)

The lock is the operating system's, so it is gone with its owner, however that one died.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 104 (macOS) or 108 (Linux), with the zero


class HomeInUse(InvalidInput):
    """Another node runs on this home."""

    code = "home-in-use"
    hint = "use the running node, stop it, or give this one a home of its own with --home"


class HomeError(InvalidInput):
    """The home folder cannot be used."""

    code = "home"
    hint = "choose a folder that you own with --home or LATTICA_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """Where a node keeps what is its own. Made by `open_home`, or by hand to look at the paths."""

    path: Path

    @property
    def key(self) -> Path:
        """The private key's file."""
        return self.path / "key"

    @property
    def swarm_key(self) -> Path:
        """The key file of the private swarm that this node is in, if it is in one."""
        return self.path / "swarm.key"

    @property
    def sealing(self) -> Path:
        """Where sealed files are made; what a killed node left there is swept away."""
        return self.path / "sealing"

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.path / "store"

    @property
    def names(self) -> Path:
        """The file in which the newest records of names outlive the node."""
        return self.path / "names.db"

    @property
    def trust(self) -> Path:
        """The keys that the user trusts."""
        return self.path / "trust"

    @property
    def contacts(self) -> Path:
        """The peers of the DHT that answered last."""
        return self.path / "contacts"

    @property
    def records(self) -> Path:
        """The file in which records of the DHT outlive the node."""
        return self.path / "dht.db"

    @property
    def private_records(self) -> Path:
        """The same of a private swarm's DHT: what is public does not get in, nor out."""
        return self.path / "private-dht.db"

    @property
    def control(self) -> Path:
        """The running node's control socket."""
        return self.path / "control.sock"

    def last_ports(self) -> tuple[int, ...]:
        """The TCP ports that the node listened on last, IPv4's first; none if none are kept."""
        try:
            ports = tuple(int(port) for port in self._port_file.read_text()[:32].split())
        except (OSError, ValueError):
            return ()
        return ports if all(0 < port < 65_536 for port in ports) else ()

    def remember_ports(self, ports: tuple[int, ...]) -> None:
        """Listen there next time, too, so that tickets stay good across restarts."""
        if ports != self.last_ports():
            with contextlib.suppress(OSError):  # costs stable ports, nothing else
                self._port_file.write_text(f"{' '.join(map(str, ports))}\n")

    @property
    def _port_file(self) -> Path:
        return self.path / "port"


@contextlib.contextmanager
def open_home(path: Path) -> Iterator[Home]:
    """Make the home if need be (mode 0700) and own it until the block ends.

    Raises:
        HomeInUse: another process owns it.
        HomeError: it cannot be made or written.
    """
    home = Home(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (path / "lock").open("a+")
    except OSError as error:
        raise HomeError(f"cannot use {path} as home: {error.strerror}") from error
    with file:
        if not _try_lock(file):
            file.seek(0)
            owner = file.read(20).strip()
            raise HomeInUse(f"a node (process {owner or 'unknown'}) runs on {path} already")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield home


def _try_lock(file: IO[str]) -> bool:
    """Take the lock until `file` is closed, or say that somebody else has it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 20)  # beyond the text, which others must be able to read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """Give a path to `path` that is short enough for a Unix socket address.

    A home may lie deep. Then the way leads over a link in the temporary folder, which is needed
    for binding and connecting only and gone after the block.
    """
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="lattica-") as folder:
        link = os.path.join(folder, "home")
        os.symlink(path.parent, link)
        yield os.path.join(link, path.name)
