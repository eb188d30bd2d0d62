"""Origins by address: what is asked of a web server, what is refused of it, and who is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from lattica._origins import HttpOrigin, check_public, open_origins
from lattica.content import (
    INDEX_SUFFIX,
    MAX_INDEX,
    OriginError,
    OriginLacksIt,
    OriginMismatch,
    Symlinks,
    build,
    encode_index,
)
from lattica.errors import DeadlineExceeded, InvalidInput
from lattica.models import cut_file
from lattica.ticket import Ticket

from .test_directories import files_of, make_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from .conftest import Lab

# httpx does not close its generators when a body is left half-read; Trio closes them, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")

URL = "https://example.org/models/tiny.bin"
BODY = bytes(range(256)) * 1000


def ranged(body: bytes, request: httpx.Request, **headers: str) -> httpx.Response:
    """Answer as a web server does that gives ranges."""
    wanted = request.headers.get("Range")
    if wanted is None:
        return httpx.Response(200, stream=httpx.ByteStream(body), headers=headers)
    start, end = wanted.removeprefix("bytes=").split("-")
    part = body[int(start) : int(end) + 1 if end else None]
    span = f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"
    return httpx.Response(
        206, stream=httpx.ByteStream(part), headers={**headers, "Content-Range": span}
    )


async def read(
    answer: Callable[[httpx.Request], httpx.Response],
    offset: int = 0,
    length: int | None = None,
    path: str = "",
    times: int = 1,
) -> bytes:
    async with open_origins([URL], transport=httpx.MockTransport(answer)) as (origin,):
        data = b""
        for _ in range(times):
            data = b""
            async with origin.stream(path, offset, length) as pieces:
                async for piece in pieces:
                    data += piece
        return data


async def test_ranges_are_asked_for_and_held_to_what_was_asked() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return ranged(BODY, request, ETag='"one"')

    assert await read(answer, 1000, 500, times=2) == BODY[1000:1500]
    assert [request.headers["Range"] for request in asked] == ["bytes=1000-1499"] * 2
    assert [request.headers.get("If-Range") for request in asked] == [None, '"one"']
    assert {request.headers["Accept-Encoding"] for request in asked} == {"identity"}
    assert await read(answer) == BODY
    assert await read(answer, 10, 0) == b""


async def test_a_server_without_ranges_is_read_on_from_where_it_was_left() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, stream=Pieces(BODY))

    async with open_origins([URL], transport=httpx.MockTransport(answer)) as (origin,):
        for offset, requests in ((0, 1), (100, 1), (700, 1), (50_000, 1), (300, 2), (400, 2)):
            async with origin.stream("", offset, 100) as pieces:
                data = b"".join([piece async for piece in pieces])
            assert (data, len(asked)) == (BODY[offset : offset + 100], requests)
        async with origin.stream("", len(BODY) - 10, 10) as pieces:
            assert b"".join([piece async for piece in pieces]) == BODY[-10:]
        async with origin.stream("", len(BODY) - 5, 10) as pieces:  # what is not there
            assert b"".join([piece async for piece in pieces]) == BODY[-5:]
        async with origin.stream("other", 0, 10) as pieces:
            assert b"".join([piece async for piece in pieces]) == BODY[:10]
    assert len(asked) == 4


class Pieces(httpx.AsyncByteStream):
    """A body that comes in pieces which fit nothing."""

    def __init__(self, body: bytes) -> None:
        self._pieces = iter([body[start : start + 333] for start in range(0, len(body), 333)])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


@pytest.mark.parametrize(
    ("response", "error", "said"),
    [
        (httpx.Response(404), OriginLacksIt, "404"),
        (httpx.Response(403), OriginLacksIt, "403"),
        (httpx.Response(503), OriginError, "503"),
        (httpx.Response(206, content=b"x"), OriginLacksIt, "another range"),
        (
            httpx.Response(206, content=b"x", headers={"Content-Range": "bytes 8-8/9"}),
            OriginLacksIt,
            "another range",
        ),
        (
            httpx.Response(206, content=b"x", headers={"Content-Range": "bytes 7-7/8"}),
            OriginLacksIt,
            "8 bytes",
        ),
        (
            httpx.Response(200, content=b"", headers={"Content-Encoding": "br"}),
            OriginLacksIt,
            "compressed",
        ),
    ],
)
async def test_other_answers_are_refused_with_what_came(
    response: httpx.Response, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        await read(lambda _request: response, 7, 5)


async def test_a_file_that_changes_meanwhile_is_noticed() -> None:
    tags = iter(['"one"', '"two"'])

    def answer(request: httpx.Request) -> httpx.Response:
        return ranged(BODY, request, ETag=next(tags))

    with pytest.raises(OriginLacksIt, match="has changed"):
        await read(answer, 0, 5, times=2)


async def test_redirects_are_followed_a_few_times_and_never_out_of_encryption() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "example.org":
            return httpx.Response(302, headers={"Location": "https://cdn.example.net/blob"})
        return ranged(BODY, request)

    def loop(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": URL})

    def downgrade(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "http://example.org/plain"})
        return ranged(BODY, request)

    assert await read(answer, 5, 5) == BODY[5:10]
    with pytest.raises(OriginError):
        await read(loop, 5, 5)
    with pytest.raises(OriginLacksIt, match="not encrypted"):
        await read(downgrade, 5, 5)


async def test_more_than_was_asked_for_is_not_taken() -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        headers = {"Content-Range": "bytes 0-4/9"}
        return httpx.Response(206, stream=httpx.ByteStream(BODY), headers=headers)

    assert await read(answer, 0, 5) == BODY[:5]


async def test_a_lost_connection_is_an_error_of_the_origin() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    with pytest.raises(OriginError, match="no route"):
        await read(answer)


async def test_paths_and_the_index_file_are_found_below_and_beside_the_address() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(404)

    transport = httpx.MockTransport(answer)
    async with open_origins(["https://a.org/tree/?v=1"], transport=transport) as (origin,):
        assert await origin.index() is None
        with pytest.raises(OriginLacksIt):
            async with origin.stream("a b/ü#?.bin", 0, None):
                pass
    assert asked == [
        f"https://a.org/tree{INDEX_SUFFIX}?v=1",
        "https://a.org/tree/a%20b/%C3%BC%23%3F.bin?v=1",
    ]


async def test_an_index_file_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica._origins.MAX_INDEX", 1000)
    assert MAX_INDEX > 1000
    transport = httpx.MockTransport(
        lambda _request: httpx.Response(200, stream=httpx.ByteStream(BODY))
    )
    async with open_origins([URL], transport=transport) as (origin,):
        assert isinstance(origin, HttpOrigin)
        with pytest.raises(OriginError, match="larger than 1000"):
            await origin.index()


@pytest.mark.parametrize(
    "address", ["", "ftp://example.org/x", "https://", "http://[::1", "a\nb", "x" * 1025]
)
async def test_what_cannot_be_an_origin_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput):
        async with open_origins([address]):
            pass


async def test_origins_are_bounded() -> None:
    with pytest.raises(InvalidInput):
        async with open_origins([f"/{number}" for number in range(17)]):
            pass


# --- with nodes


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let origins be asked without waiting for peers: worker threads run in real time."""
    monkeypatch.setattr("lattica.content._origin.ALONE_SECONDS", 0.0)


async def test_a_file_comes_from_a_path_where_no_peer_is(
    lab: Lab, tmp_path: Path, at_once: None
) -> None:
    source = lab.safetensors("m.safetensors", 700_000, 300_000)
    root = build(source, segments=cut_file).root
    async with lab.node("a") as a:
        with pytest.raises(OriginMismatch):
            await a.get(root, tmp_path / "copy", origins=[str(lab.file("x", 1_000_100))])
        got = await a.get(root, tmp_path / "copy", origins=[str(source)])
        assert got.path.read_bytes() == source.read_bytes()
        assert (got.origin_bytes, got.sources) == (got.size, ())
        with pytest.raises(OriginLacksIt):
            await a.get(build(lab.file("y", 9)).root, tmp_path / "z", origins=["/nowhere/at/all"])
        with pytest.raises(OriginLacksIt, match="cannot read /nowhere/at/all"):
            other = build(lab.file("w", 600_000)).root
            await a.get(other, tmp_path / "z", origins=["/nowhere/at/all"])


async def test_a_repository_in_the_cache_of_hugging_face_is_an_origin(
    lab: Lab, tmp_path: Path, at_once: None
) -> None:
    make_model(tmp_path / "plain")
    repository = tmp_path / "hub" / "models--ada--tiny"
    snapshot = repository / "snapshots" / "1234abcd"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1234abcd")
    for number, (name, content) in enumerate(files_of(tmp_path / "plain").items()):
        (repository / "blobs" / str(number)).write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(repository / "blobs" / str(number))
    root = build(tmp_path / "plain", segments=cut_file).root
    async with lab.node("a") as a:
        got = await a.get(root, tmp_path / "copy", origins=[str(repository)])
        assert files_of(got.path) == files_of(tmp_path / "plain")


async def test_the_origin_of_a_ticket_is_asked_only_where_that_is_allowed(
    lab: Lab, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lab.file("model.bin", 900_000)
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        if request.url.path.endswith(INDEX_SUFFIX):
            built = build(source, symlinks=Symlinks.REFUSE)
            index = encode_index(built.root, built.index)
            return httpx.Response(200, stream=httpx.ByteStream(index))
        return ranged(source.read_bytes(), request)

    client = httpx.AsyncClient

    def mocked(**options: Any) -> httpx.AsyncClient:
        return client(**options | {"transport": httpx.MockTransport(answer)})

    monkeypatch.setattr(httpx, "AsyncClient", mocked)
    async with lab.node("a") as a:
        with pytest.raises(InvalidInput):
            await a.share(source, origin="/home/me/model.bin")  # of no use to others
        shared = await a.share(source, origin=URL)
    ticket = Ticket.parse(str(shared.ticket))
    assert ticket.origin == URL
    async with lab.node("b") as b:
        with pytest.raises(DeadlineExceeded):
            await b.get(ticket, tmp_path / "copy", timeout=0.5)
        assert not asked
        got = await b.get(ticket, tmp_path / "copy", use_origin=True)
        assert got.path.read_bytes() == source.read_bytes()
        assert asked
    async with lab.node("c", use_origin=True) as c:
        await c.get(ticket, tmp_path / "again")


def test_a_ticket_names_urls_only() -> None:
    for address in ("/etc/passwd", "file:///etc/passwd", "ftp://x/y", "relative"):
        with pytest.raises(InvalidInput):
            check_public(address)
    assert check_public(URL) == URL
