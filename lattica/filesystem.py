"""`lattica://` for fsspec: pandas, pyarrow, dask and whoever else opens files through it.

    pandas.read_parquet("lattica://bafy…/table.parquet")
    fsspec.open("lattica://bafy…/model.safetensors", bootstrap=["/ip4/…/p2p/…"])

What stands behind `lattica://` is a CID or a ticket (without its `lattica:`), then, where that
names a directory, a path in it. Files are read only, and only the ranges that are asked for travel,
each verified from the root. A node is started when the first file is opened; it uses the given home
or the usual one. Where a node runs on that already, a visitor with a home of its own asks it.

Needs the extra `fsspec`: `pip install 'lattica-mesh[fsspec]'`.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from lattica import config
from lattica._control import Request, connect
from lattica._home import Home, HomeInUse
from lattica._reference import read_reference
from lattica.content import NotInObject
from lattica.errors import InvalidInput
from lattica.sync import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica._sync_reads import BlockingReader

PROTOCOL = "lattica"
_PREFIX = f"{PROTOCOL}://"
_MAX_OBJECTS = 16  # that are open at once; the one unused for longest is closed for another
_BLOCK_BYTES = 1 << 20  # read ahead of a program that reads in small pieces


class _BackgroundNode(Node):
    """A node that does not keep the interpreter from ending."""

    _daemon = True


class LatticaFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no type hints
    """Objects of the mesh as read-only files. Threads may share one.

    Args:
        home: the node's folder. Default: as everywhere, `LATTICA_HOME` or `~/.lattica`.
        peers: addresses of peers to ask beside those that are found.
        bootstrap: addresses of peers to join the network through, instead of those in the settings.
        node: a running `lattica.Node` to use instead of one of its own; the caller ends it.
    """

    protocol: ClassVar[str] = PROTOCOL
    root_marker: ClassVar[str] = ""

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        peers: Sequence[str] = (),
        bootstrap: Sequence[str] | None = None,
        node: Node | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._home = None if home is None else Path(home)
        self._bootstrap = bootstrap
        self._peers = list(peers)
        self._given = self._node = node
        self._life = ExitStack()  # of the node and what it holds open
        self._open_objects: OrderedDict[str, tuple[BlockingReader, ExitStack]] = OrderedDict()
        self._starting = threading.RLock()

    def close(self) -> None:
        """Close what is open, and end the node that was started. The next use starts it again."""
        with self._starting:
            atexit.unregister(self.close)
            for _, life in self._open_objects.values():
                life.close()
            self._open_objects.clear()
            self._node = self._given
            self._life.close()

    # what fsspec asks for

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        """List a directory of an object; of a file, the file. Raises FileNotFoundError."""
        ref, inside = self._parts(path)
        reader = self._reader(ref)
        found: dict[str, dict[str, Any]] = {}
        if not reader.is_directory:
            if inside:
                raise FileNotFoundError(path)
            found[ref] = _entry(ref, reader.size)
        else:
            for file in reader.files():
                _add(found, ref, inside, file.path, file.size)
            if not found:
                raise FileNotFoundError(path)
        entries = [found[name] for name in sorted(found)]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Return name, size and type of what is at `path`. Raises FileNotFoundError."""
        ref, inside = self._parts(path)
        reader = self._at(ref, inside)
        name = f"{ref}/{inside}" if inside else ref
        return _entry(name, None if reader.is_directory else reader.size)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_options: Any
    ) -> bytes:
        """Return a range of a file, or all of it. Raises FileNotFoundError."""
        ref, inside = self._parts(path)
        reader = self._at(ref, inside)
        if reader.is_directory:
            raise IsADirectoryError(path)
        first, stop, _ = slice(start, end).indices(reader.size)
        return bytes(reader.read(first, max(0, stop - first)))

    def created(self, path: str) -> Any:
        """Not known: an object has no time, only content."""
        raise NotImplementedError("content has no time")

    modified = created

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> _File:
        if mode != "rb":
            raise InvalidInput(
                f"mode {mode!r}: what a CID names cannot be changed",
                hint="write a file of your own and share that",
            )
        ref, inside = self._parts(path)
        reader = self._at(ref, inside)
        if reader.is_directory:
            raise IsADirectoryError(path)
        return _File(
            self,
            path,
            reader=reader,
            block_size=block_size or _BLOCK_BYTES,
            cache_options=cache_options,
            size=reader.size,
            **options,
        )

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path)
        for prefix in (_PREFIX, f"{PROTOCOL}:"):
            text = text.removeprefix(prefix)
        return text.strip("/")

    def unstrip_protocol(self, name: str) -> str:
        """Return the whole name of a path."""
        return f"{_PREFIX}{self._strip_protocol(name)}"

    # inside

    def _parts(self, path: str) -> tuple[str, str]:
        """Return a reference, and a path in what it names."""
        ref, _, inside = str(self._strip_protocol(path)).partition("/")
        if not ref:
            raise FileNotFoundError(f"{path!r}: a CID or a ticket must follow {_PREFIX}")
        return ref, inside

    def _at(self, ref: str, inside: str) -> BlockingReader:
        reader = self._reader(ref)
        if not inside:
            return reader
        if not reader.is_directory:
            raise FileNotFoundError(f"{ref}/{inside}: {ref} is a file")
        try:
            return reader.open(inside)
        except NotInObject as error:
            raise FileNotFoundError(str(error)) from error

    def _reader(self, ref: str) -> BlockingReader:
        """Return a reader of what `ref` names, which stays open for the next time."""
        with self._starting:
            if ref in self._open_objects:
                self._open_objects.move_to_end(ref)
                return self._open_objects[ref][0]
            whole = ref if _is_cid(ref) else f"{PROTOCOL}:{ref}"
            node = self._running_node()
            life = ExitStack()
            reader = life.enter_context(node.open(whole, peers=self._peers))
            self._open_objects[ref] = reader, life
            while len(self._open_objects) > _MAX_OBJECTS:
                _, (_, oldest) = self._open_objects.popitem(last=False)
                oldest.close()
            return reader

    def _running_node(self) -> Node:
        if self._node is None:
            atexit.register(self.close)
            try:
                self._node = self._life.enter_context(
                    _BackgroundNode(self._home, bootstrap=self._bootstrap)
                )
            except HomeInUse:
                self._node = self._visitor()
        return self._node

    def _visitor(self) -> Node:
        """Start a node beside the one that has the home, which is asked first."""
        given = None if self._home is None else str(self._home)
        settings = config.load(os.environ, {"home": given}, user_home=Path.home())
        with connect(Home(settings.home)) as client:
            status = client.call(Request("status")) if client is not None else {"addresses": []}
        folder = self._life.enter_context(tempfile.TemporaryDirectory(prefix="lattica-"))
        bootstrap = self._bootstrap
        if bootstrap is None:
            bootstrap = settings.texts("bootstrap")
        self._peers += status["addresses"]
        return self._life.enter_context(
            _BackgroundNode(folder, bootstrap=bootstrap, dht_server=False)
        )


class _File(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no type hints
    """One open file."""

    def __init__(
        self, filesystem: LatticaFileSystem, path: str, *, reader: BlockingReader, **options: Any
    ) -> None:
        super().__init__(filesystem, path, "rb", **options)
        self._reader = reader

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self._reader.read(start, max(0, min(end, self._reader.size) - start)))


def _entry(name: str, size: int | None) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "directory" if size is None else "file"}


def _add(found: dict[str, dict[str, Any]], ref: str, folder: str, path: str, size: int) -> None:
    """Add a file of an object to the listing of `folder`, or the directory that it is in."""
    if path == folder:
        found[f"{ref}/{path}"] = _entry(f"{ref}/{path}", size)
        return
    prefix = f"{folder}/" if folder else ""
    if not path.startswith(prefix):
        return
    first, below, _ = path[len(prefix) :].partition("/")
    name = f"{ref}/{prefix}{first}"
    found[name] = _entry(name, None if below else size)


def _is_cid(text: str) -> bool:
    try:
        read_reference(text)
    except InvalidInput:
        return False
    return True
