"""Origins by address: a path on this machine, or a web server that may give ranges.

An address comes from the user, or from a ticket where the user allows that: a stranger's ticket
must not make this machine ask whatever server it names, one inside its own network say. Content is
verified in any case; what is guarded here is who is asked, how long, and for how much.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import trio

from lattica.content import INDEX_SUFFIX, MAX_INDEX, OriginError, OriginLacksIt
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from io import BufferedReader

    import httpx

    from lattica.content import Origin

MAX_ORIGINS = 16  # of one fetch
_MAX_ADDRESS = 1024  # characters
_MAX_REDIRECTS = 5
_CONNECT_SECONDS, _READ_SECONDS = 15.0, 30.0
_PIECE = 1 << 20  # bytes read from a local file at once
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def is_url(address: str) -> bool:
    """Whether an address is a web server's; else it is a path."""
    return address.startswith(("http://", "https://"))


def check_address(address: str) -> str:
    """Return an origin's address if it can be one. Raises InvalidInput."""
    if not 0 < len(address) <= _MAX_ADDRESS or not address.isprintable():
        raise InvalidInput(f"an origin's address of {len(address)} characters, or not printable")
    if is_url(address):
        try:
            host = urlsplit(address).hostname
        except ValueError as error:
            raise InvalidInput(f"{address!r} is no URL: {error}") from None
        if not host:
            raise InvalidInput(f"{address!r} names no host")
    elif "://" in address and not address.startswith("file://"):
        scheme = address.split("://")[0]
        raise InvalidInput(f"an origin of {scheme!r}, expected a path, http or https")
    return address


def check_public(address: str) -> str:
    """Return an origin's address if a ticket may name it: nobody's paths. Raises InvalidInput."""
    if not is_url(check_address(address)):
        raise InvalidInput(f"{address!r} is no http or https address, which others could use")
    return address


@asynccontextmanager
async def open_origins(
    addresses: Sequence[str], *, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[list[Origin]]:
    """Give the origins at these addresses until the block ends. Raises InvalidInput.

    `transport`: what requests go through instead of the network, for tests.
    """
    if len(addresses) > MAX_ORIGINS:
        raise InvalidInput(f"{len(addresses)} origins, limit {MAX_ORIGINS}")
    checked = list(dict.fromkeys(map(check_address, addresses)))
    if not any(map(is_url, checked)):
        yield [_local(address) for address in checked]
        return
    import httpx  # a tenth of a second, for who fetches from the web

    async with httpx.AsyncClient(
        timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        max_redirects=_MAX_REDIRECTS,
        limits=httpx.Limits(max_connections=4),
        headers={"Accept-Encoding": "identity"},
        trust_env=True,  # proxies
        transport=transport,
    ) as client:
        async with AsyncExitStack() as stack:
            opened: list[Origin] = []
            for address in checked:
                if is_url(address):
                    opened.append(await stack.enter_async_context(HttpOrigin(address, client)))
                else:
                    opened.append(_local(address))
            yield opened


def _local(address: str) -> Origin:
    path = Path(unquote(urlsplit(address).path) if "://" in address else address)
    return LocalOrigin(path.expanduser().absolute())


class LocalOrigin:
    """A file, a directory, or a repository in Hugging Face's cache, on this machine's disks.

    Attributes:
        name: its path.
        local: where its content is: of a repository in the cache, the snapshot of `main`.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.local: Path = _snapshot(path)

    async def index(self) -> bytes | None:
        """As `content.Origin.index`."""
        path = trio.Path(self.name + INDEX_SUFFIX)
        try:
            async with await path.open("rb") as file:
                return await file.read(MAX_INDEX + 1)
        except OSError:
            return None

    @asynccontextmanager
    async def stream(
        self, path: str, offset: int, length: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """As `content.Origin.stream`. Symlinks are followed: whoever named the origin may."""
        target = trio.Path(self.local / path if path else self.local)
        try:
            async with await target.open("rb") as file:
                await file.seek(offset)
                async with aclosing(_read(file, length)) as pieces:
                    yield pieces
        except OSError as error:
            raise OriginLacksIt(f"{target}: {error.strerror}") from error


async def _read(
    file: trio._file_io.AsyncIOWrapper[BufferedReader], length: int | None
) -> AsyncGenerator[bytes, None]:
    left = length
    while left is None or left:
        piece: bytes = await file.read(_PIECE if left is None else min(left, _PIECE))
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece


def _snapshot(path: Path) -> Path:
    """Return the snapshot that `main` names, of a repository in Hugging Face's cache."""
    snapshots = path / "snapshots"
    if not (path.name.startswith(("models--", "datasets--", "spaces--")) and snapshots.is_dir()):
        return path
    try:
        revision = (path / "refs" / "main").read_text().strip()
        if re.fullmatch(r"[0-9a-f]{4,64}", revision) and (snapshots / revision).is_dir():
            return snapshots / revision
    except OSError:
        pass
    found = sorted(snapshots.iterdir())
    return found[0] if len(found) == 1 else path


class HttpOrigin:
    """A file on a web server, or a directory of files below a URL. An async context manager.

    A server that gives no ranges sends the whole file whatever is asked for. Such a body is kept
    open between reads and read on: a fetch asks for one part after another, and from the start
    again for each of them would be a square of the file's size.

    Attributes:
        name: the URL.
        local: None.
    """

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.name = url
        self.local: Path | None = None
        self._client = client
        self._versions: dict[str, str] = {}  # what the server called each file's version first
        self._kept: tuple[str, _Body] | None = None  # a whole file, read up to some place

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._let_go()

    async def index(self) -> bytes | None:
        """As `content.Origin.index`: it stands at the URL with `.lattica-index` behind the path."""
        data = bytearray()
        try:
            async with self._open(_beside(self.name), 0, None) as pieces:
                async for piece in pieces:
                    data += piece
                    if len(data) > MAX_INDEX:
                        raise OriginError(
                            f"the index file of {self.name} is larger than {MAX_INDEX}"
                        )
        except OriginLacksIt:
            return None
        return bytes(data)

    @asynccontextmanager
    async def stream(
        self, path: str, offset: int, length: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """As `content.Origin.stream`."""
        if length == 0:
            async with aclosing(_nothing()) as nothing:
                yield nothing
            return
        async with self._open(_below(self.name, path), offset, length) as pieces:
            yield pieces

    @asynccontextmanager
    async def _open(
        self, url: str, offset: int, length: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        import httpx

        try:
            body = self._taken_up(url, offset) or await self._ask(url, offset, length)
            try:
                async with aclosing(body.read(offset, length)) as pieces:
                    yield pieces
            except BaseException:
                await body.aclose()
                raise
            if body.is_whole and length is not None and body.position == offset + length:
                await self._let_go()
                self._kept = (url, body)
            else:
                await body.aclose()
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise OriginError(f"{url}: {what}") from error
        except httpx.InvalidURL as error:
            raise OriginLacksIt(f"{url}: {error}") from error

    def _taken_up(self, url: str, offset: int) -> _Body | None:
        """Return the body that is kept, if it leads to `offset` of this file."""
        if self._kept is None or self._kept[0] != url or self._kept[1].position > offset:
            return None
        _, body = self._kept
        self._kept = None
        return body

    async def _let_go(self) -> None:
        if self._kept is not None:
            _, body = self._kept
            self._kept = None
            await body.aclose()

    async def _ask(self, url: str, offset: int, length: int | None) -> _Body:
        await self._let_go()  # another file is read now, or this one from further in front
        headers = {}
        if offset or length is not None:
            end = "" if length is None else offset + length - 1
            headers["Range"] = f"bytes={offset}-{end}"
            if url in self._versions:
                headers["If-Range"] = self._versions[url]
        request = self._client.build_request("GET", url, headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            self._check(url, response, offset, length)
        except BaseException:
            await response.aclose()
            raise
        return _Body(response, 0 if response.status_code == 200 else offset)

    def _check(self, url: str, response: httpx.Response, offset: int, length: int | None) -> None:
        """Refuse an answer that is not what was asked for."""
        status = response.status_code
        if url.startswith("https:") and response.url.scheme != "https":
            raise OriginLacksIt(f"{url} leads to {response.url}, which is not encrypted")
        if status in (404, 410, 401, 403, 416):
            raise OriginLacksIt(f"{url}: status {status} {response.reason_phrase}")
        if status not in (200, 206):
            raise OriginError(f"{url}: status {status} {response.reason_phrase}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise OriginLacksIt(f"{url} comes compressed, and ranges of that are no use")
        version = response.headers.get("ETag", "")
        known = self._versions.get(url)
        if known and version != known:
            raise OriginLacksIt(f"{url} has changed while it was read")
        if version and not version.startswith("W/"):  # If-Range takes strong ones only
            self._versions.setdefault(url, version)
        if status == 200:
            return  # the whole file: this server gives no ranges
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise OriginLacksIt(f"{url} gives another range than was asked for")
        if length is not None and int(found[2]) != offset + length - 1:
            raise OriginLacksIt(f"{url} has {found[3]} bytes, expected {offset + length} at least")


class _Body:
    """The body of an answer, read on in one direction.

    Attributes:
        position: where in the file it was read up to.
        is_whole: whether it is that of the whole file.
    """

    def __init__(self, response: httpx.Response, position: int) -> None:
        self.position, self.is_whole = position, response.status_code == 200
        self._response = response
        self._raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        self._rest = b""  # that came and was not asked for yet

    async def read(self, offset: int, length: int | None) -> AsyncGenerator[bytes, None]:
        """Give what was asked for, `offset` being `position` or behind it; skip what is before.

        What the server sends beyond that is looked at once: where it is the end, the connection
        can be used again.
        """
        while length is None or self.position < offset + length:
            piece = self._rest or await anext(self._raw, b"")
            if not piece:
                return
            skipped = min(len(piece), max(0, offset - self.position))
            left = None if length is None else offset + length - self.position
            taken = piece[skipped:left]
            self._rest = piece[skipped + len(taken) :]
            self.position += skipped + len(taken)
            if taken:
                yield taken
        if not self._rest:
            self._rest = await anext(self._raw, b"")

    async def aclose(self) -> None:
        """Stop reading."""
        await self._raw.aclose()
        await self._response.aclose()


async def _nothing() -> AsyncGenerator[bytes, None]:
    yield b""


def _beside(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + INDEX_SUFFIX))


def _below(url: str, path: str) -> str:
    if not path:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}"))
