"""The control socket: one line asks, lines answer, closing it cancels."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import wait_all_tasks_blocked

from lattica._control import (
    MAX_REQUEST,
    ControlError,
    RemoteError,
    Request,
    connect,
    decode_request,
    encode_line,
)
from lattica._control_server import MAX_CLIENTS, open_control
from lattica._home import Home, HomeInUse, open_home
from lattica._listen import default_addresses, remember
from lattica.errors import LimitExceeded, NotFound
from lattica.results import Phase, Progress, ProgressCallback
from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory() as folder, open_home(Path(folder)) as home:
        yield home


async def echo(request: Request, progress: ProgressCallback) -> Any:
    if request.method == "fail":
        raise NotFound("nobody has it", hint="ask later")
    if request.method == "bug":
        raise KeyError("oops")
    for done in range(request.params.get("steps", 0)):
        progress(Progress(Phase.FETCH, done, 10))
        await wait_all_tasks_blocked()
    return {"method": request.method, **request.params}


def ask(home: Home, method: str, **params: Any) -> tuple[Any, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []
    with connect(home) as client:
        assert client is not None
        return client.call(Request(method, params), steps.append), steps


async def ask_in_thread(home: Home, method: str, **params: Any) -> Any:
    return await trio.to_thread.run_sync(partial(ask, home, method, **params))


async def test_a_request_is_answered(home: Home) -> None:
    async with open_control(home.control, echo):
        assert await ask_in_thread(home, "ls", a=[1, None, "x"]) == (
            {"method": "ls", "a": [1, None, "x"]},
            [],
        )


async def test_progress_comes_before_the_result(home: Home) -> None:
    async with open_control(home.control, echo):
        result, steps = await ask_in_thread(home, "get", steps=3)
    assert result["method"] == "get"
    assert steps
    assert [step["phase"] for step in steps] == ["fetch"] * len(steps)
    assert steps == sorted(steps, key=lambda step: step["done_bytes"])


async def test_news_are_not_overtaken_by_progress(home: Home) -> None:
    async def lively(_request: Request, progress: ProgressCallback) -> None:
        for done in range(50):
            progress(Progress(Phase.FETCH, done, 50, news=f"news {done}" if done % 10 == 0 else ""))

    async with open_control(home.control, lively):
        _, steps = await ask_in_thread(home, "get")
    assert [step["news"] for step in steps if step["news"]] == [
        f"news {n}" for n in range(0, 50, 10)
    ]
    assert steps[-1]["done_bytes"] == 49


async def test_an_error_arrives_whole(home: Home) -> None:
    async with open_control(home.control, echo):
        with pytest.raises(RemoteError) as caught:
            await ask_in_thread(home, "fail")
    assert caught.value.report["code"] == "not-found"
    assert caught.value.report["exit_code"] == 3
    assert caught.value.hint == "ask later"


async def test_a_bug_in_one_command_is_told_and_logged(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_control(home.control, echo):
        with pytest.raises(RemoteError, match="its log has the traceback"):
            await ask_in_thread(home, "bug")
        assert (await ask_in_thread(home, "still-there"))[0] == {"method": "still-there"}
    assert "KeyError" in caplog.text


async def test_only_the_owner_can_open_the_socket(home: Home) -> None:
    async with open_control(home.control, echo):
        assert stat.S_IMODE(home.control.stat().st_mode) == 0o600
    assert not home.control.exists()


def test_without_a_node_there_is_no_client(home: Home) -> None:
    with connect(home) as client:
        assert client is None


async def test_a_socket_that_a_killed_node_left_is_replaced(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.control))
    with connect(home) as client:
        assert client is None
    async with open_control(home.control, echo):
        assert (await ask_in_thread(home, "ls"))[0] == {"method": "ls"}


async def test_a_deep_home_has_a_control_socket_too() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with open_home(Path(folder, "x" * 100, "y" * 100)) as home:
            async with open_control(home.control, echo):
                assert (await ask_in_thread(home, "ls"))[0] == {"method": "ls"}


async def test_a_command_that_goes_away_cancels_its_call(home: Home) -> None:
    cancelled = trio.Event()

    async def wait(_request: Request, _progress: ProgressCallback) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_control(home.control, wait) as server:
        stream = await trio.open_unix_socket(home.control)
        await stream.send_all(b'{"method": "get"}\n')
        await wait_all_tasks_blocked()
        assert not cancelled.is_set()
        await stream.aclose()
        with trio.fail_after(5):
            await cancelled.wait()
            await server.wait_idle()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b'{"method": 3}\n',
        b'{"method": "x", "params": []}\n',
        b"[" * 60_000 + b"\n",
        b"x" * (MAX_REQUEST + 1),
        b"\xff\xfe\n",
    ],
)
async def test_a_malformed_request_is_refused_with_a_reason(home: Home, line: bytes) -> None:
    async with open_control(home.control, echo):
        async with await trio.open_unix_socket(home.control) as stream:
            await stream.send_all(line)
            answer = await stream.receive_some()
    assert b'"code":"control"' in answer


async def test_a_silent_command_is_let_go(
    home: Home, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_control(home.control, echo):
        async with await trio.open_unix_socket(home.control) as stream:
            assert b"no request within" in await stream.receive_some()


async def test_commands_beyond_the_bound_are_told_to_wait(home: Home) -> None:
    async def wait(_request: Request, _progress: ProgressCallback) -> None:
        await trio.sleep_forever()

    async with open_control(home.control, wait), contextlib.AsyncExitStack() as streams:
        for _ in range(MAX_CLIENTS):
            stream = await streams.enter_async_context(await trio.open_unix_socket(home.control))
            await stream.send_all(b'{"method": "get"}\n')
            await wait_all_tasks_blocked()
        extra = await streams.enter_async_context(await trio.open_unix_socket(home.control))
        assert b"too-many-commands" in await extra.receive_some()


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_line_is_a_request_or_a_control_error(line: bytes) -> None:
    try:
        request = decode_request(line)
    except ControlError:
        return
    assert isinstance(request.method, str)


def test_an_answer_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(LimitExceeded):
        encode_line({"result": "x" * 100}, 50)


def test_a_home_has_one_owner_at_a_time(home: Home) -> None:
    with pytest.raises(HomeInUse, match=str(os.getpid())):
        with open_home(home.path):
            pass


@contextlib.contextmanager
def _new_home(path: Path) -> Iterator[Home]:
    with open_home(path / "h") as home:
        yield home


def test_a_home_is_private_and_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with _new_home(tmp_path) as home:
            assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_each_address_family_comes_back_on_the_port_it_had(tmp_path: Path) -> None:
    with _new_home(tmp_path) as home, socket.socket() as four:
        four.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        four.bind(("127.0.0.1", 0))  # kept: nobody else is given the port, and it can be bound
        free = four.getsockname()[1]
        texts = (f"/ip4/127.0.0.1/tcp/{free}", f"/ip6/::1/tcp/{free + 1}")
        remember(home, [Multiaddr.parse(text) for text in texts])
        assert home.last_ports() == (free, free + 1)
        found = [str(address) for address in default_addresses(home)]
        assert found[0] == f"/ip4/0.0.0.0/tcp/{free}"
        assert all(address.startswith("/ip6/::/tcp/") for address in found[1:])


def test_a_port_that_was_taken_meanwhile_costs_that_family_alone(tmp_path: Path) -> None:
    with _new_home(tmp_path) as home, socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        home.remember_ports((taken.getsockname()[1],))
        assert str(default_addresses(home)[0]) == "/ip4/0.0.0.0/tcp/0"


def test_the_last_ports_are_remembered_and_nonsense_is_not(tmp_path: Path) -> None:
    with _new_home(tmp_path) as home:
        assert home.last_ports() == ()
        home.remember_ports((4011, 4012))
        assert Home(home.path).last_ports() == (4011, 4012)
        (home.path / "port").write_text("99999999")
        assert home.last_ports() == ()
