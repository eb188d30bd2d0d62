"""The main job by hand: real processes, one home each, signals as a terminal sends them."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL = ("--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")
TIMEOUT_S = 30
SIZE = 2_000_000
LARGE = 250_000_000  # takes long enough to be stopped half-way


class Shell:
    """Runs `lattica` commands, each with the home that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self, home: str) -> dict[str, str]:
        return {**os.environ, "LATTICA_HOME": str(self.folder / home), "NO_COLOR": "1"}

    def run(self, home: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "lattica", *arguments],
            cwd=self.folder,
            env=self.environment(home),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    @contextmanager
    def running(self, home: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "lattica", *arguments],
            cwd=self.folder,
            env=self.environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def file(self, name: str, size: int = SIZE) -> Path:
        path = self.folder / name
        path.write_bytes(random.Random(name).randbytes(size))
        return path


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_what_share_prints_is_what_the_other_shell_runs(shell: Shell) -> None:
    source = shell.file("model.bin")
    with shell.running("one", "share", str(source), *LOCAL) as sharer:
        command, verb, ticket = line_of(sharer).split()
        assert (command, verb) == ("lattica", "get")
        got = shell.run("two", "get", ticket, "-o", "copy.bin", *LOCAL)
        assert got.returncode == 0, got.stderr
        assert got.stdout == f"{shell.folder}/copy.bin\n"
        assert "every byte matches bafyb" in got.stderr
        assert (shell.folder / "copy.bin").read_bytes() == source.read_bytes()
        sharer.send_signal(signal.SIGINT)
        assert sharer.wait(TIMEOUT_S) == 0


def test_the_cid_alone_is_enough_through_a_bootstrap_node(shell: Shell) -> None:
    source = shell.file("model.bin")
    with shell.running("meeting", "bootstrap", *LOCAL) as meeting:
        join = ("--bootstrap", line_of(meeting), *LOCAL)
        with shell.running("one", "share", str(source), "--json-lines", *join) as sharer:
            assert json.loads(line_of(sharer))["event"] == "start"  # once
            while (event := json.loads(line_of(sharer)))["event"] != "shared":
                assert event["event"] == "progress"
            got = shell.run("two", "get", event["cid"], "-o", "copy.bin", "--json", *join)
            assert got.returncode == 0, got.stderr
            result = json.loads(got.stdout)
            assert result["received_bytes"] == result["size"] == SIZE
        assert (shell.folder / "copy.bin").read_bytes() == source.read_bytes()


def test_commands_use_the_node_that_runs(shell: Shell) -> None:
    source = shell.file("model.bin")
    with shell.running("one", "up", *LOCAL) as node:
        address = line_of(node)
        assert stat.S_IMODE((shell.folder / "one" / "control.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE((shell.folder / "one" / "key").stat().st_mode) == 0o600
        shared = shell.run("one", "share", str(source))
        assert shared.returncode == 0, shared.stderr
        assert address.split("/")[-1] == shell.run("one", "id").stdout.splitlines()[0]

        (row,) = json.loads(shell.run("one", "ls", "--json").stdout)["objects"]
        assert (row["name"], row["size"], row["state"]) == ("model.bin", SIZE, "complete")
        assert shell.run("one", "verify", row["cid"]).returncode == 0

        with shell.running("two", "up", *LOCAL, "--bootstrap", address):
            pong = shell.run("one", "ping", "/ip4/127.0.0.1/tcp/1", "-c", "1")
            assert pong.returncode == 4, "nobody listens there"
            while not shell.run("one", "peers").stdout:
                pass  # until the other node has come up

        data = bytearray(source.read_bytes())
        data[SIZE // 2] ^= 1
        source.write_bytes(data)
        damaged = shell.run("one", "verify", row["cid"])
        assert damaged.returncode == 5
        assert "damaged" in damaged.stderr


def test_a_home_has_one_node(shell: Shell) -> None:
    with shell.running("one", "up", *LOCAL) as node:
        line_of(node)
        second = shell.run("one", "up", *LOCAL)
        assert second.returncode == 2
        assert f"a node (process {node.pid}) runs on" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_ends_in_peace_when_told_to(shell: Shell, number: signal.Signals) -> None:
    with shell.running("one", "up", *LOCAL) as node:
        line_of(node)
        node.send_signal(number)
        assert node.wait(TIMEOUT_S) == 0
    assert not (shell.folder / "one" / "control.sock").exists()


@pytest.mark.parametrize("by_running_node", [False, True], ids=["own-node", "running-node"])
def test_an_interrupted_get_says_how_to_go_on(shell: Shell, by_running_node: bool) -> None:
    absent = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4"
    with shell.running("one", "up", *LOCAL) as node:
        line_of(node)
        home, flags = ("one", ()) if by_running_node else ("two", LOCAL)
        with shell.running(home, "get", absent, "-o", "copy", "--json-lines", *flags) as getter:
            assert json.loads(line_of(getter))["event"] == "start"
            if not by_running_node:
                while not (shell.folder / "two" / "control.sock").exists():
                    pass  # until its node is up, so that the signal meets the work
            getter.send_signal(signal.SIGINT)
            out, err = getter.communicate(timeout=TIMEOUT_S)
            assert getter.returncode == 130
        assert f"lattica get {absent} -o copy" in err
        assert events_of(out)[-1]["event"] == "interrupted"


def test_a_killed_get_goes_on_where_it_was(shell: Shell) -> None:
    source = shell.file("model.bin", LARGE)
    with shell.running("one", "share", str(source), *LOCAL) as sharer:
        ticket = line_of(sharer).split()[-1]
        get = ("get", ticket, "-o", "copy.bin", *LOCAL)
        with shell.running("two", *get, "--json-lines") as getter:
            seen = bytes_when(getter, more_than=LARGE // 3)
            getter.kill()
        result = json.loads(shell.run("two", *get, "--json").stdout)
        assert result["received_bytes"] <= LARGE - seen
    assert (shell.folder / "copy.bin").read_bytes() == source.read_bytes()


def test_a_part_of_a_directory_is_listed_and_fetched(shell: Shell) -> None:
    source = shell.folder / "model"
    (source / "weights").mkdir(parents=True)
    for name in ("config.json", "weights/a.bin", "weights/b.bin", "notes.md"):
        (source / name).write_text(name * 100)
    with shell.running("one", "share", str(source), "--exclude", "*.md", *LOCAL) as sharer:
        ticket = line_of(sharer).split()[-1]
        get = ("get", ticket, "--include", "*.json", "--include", "*/b*", *LOCAL)
        listed = shell.run("two", *get, "--dry-run").stdout
        assert "weights/b.bin" in listed
        assert "a.bin" not in listed
        shell.run("two", *get, "--local-dir", "copy")
    copy = shell.folder / "copy"
    assert {path.name for path in copy.rglob("*.*")} == {"config.json", "b.bin"}


def test_a_get_outlives_its_provider_being_killed_and_started_again(shell: Shell) -> None:
    source = shell.file("model.bin", LARGE)
    share = ("share", str(source), "--listen", f"/ip4/127.0.0.1/tcp/{free_port()}", "--no-mdns")
    with shell.running("one", *share) as first:
        ticket = line_of(first).split()[-1]
        get = ("get", ticket, "-o", "copy.bin", *LOCAL, "--json-lines")
        with shell.running("two", *get) as getter:
            bytes_when(getter, more_than=LARGE // 3)
            first.kill()
            first.wait()
            with shell.running("one", *share) as second:
                assert line_of(second).split()[-1] == ticket
                out, err = getter.communicate(timeout=TIMEOUT_S)
            assert getter.returncode == 0, err
    done = events_of(out)[-1]
    in_flight = 64 << 20  # of what the killed provider had sent, at most this was not yet verified
    assert done["received_bytes"] <= LARGE + in_flight
    assert (shell.folder / "copy.bin").read_bytes() == source.read_bytes()


def bytes_when(getter: subprocess.Popen[str], *, more_than: int) -> int:
    """Read events until so many bytes are verified; return how many."""
    while True:
        event = json.loads(line_of(getter))
        assert event["event"] != "done", "too fast to be stopped half-way"
        if event.get("phase") == "fetch" and event["done_bytes"] > more_than:
            done: int = event["done_bytes"]
            return done


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_two_gets_from_one_home_share_a_node(shell: Shell) -> None:
    first, second = shell.file("one.bin", 30_000_000), shell.file("two.bin", 30_000_000)
    with shell.running("one", "up", *LOCAL) as node:
        line_of(node)
        tickets = [
            shell.run("one", "share", "-q", str(path)).stdout.strip() for path in (first, second)
        ]
        with shell.running("two", "get", tickets[0], "-o", "1.bin", *LOCAL) as getter:
            while not (shell.folder / "two" / "control.sock").exists():
                pass
            other = shell.run("two", "get", tickets[1], "-o", "2.bin", *LOCAL)
            assert other.returncode == 0, other.stderr
            assert getter.wait(TIMEOUT_S) == 0
    assert (shell.folder / "1.bin").read_bytes() == first.read_bytes()
    assert (shell.folder / "2.bin").read_bytes() == second.read_bytes()


def test_gets_that_start_together_on_one_home_share_a_node(shell: Shell) -> None:
    source = shell.file("model.bin")
    with shell.running("one", "share", "-q", str(source), *LOCAL) as sharer:
        ticket = line_of(sharer)
        with ExitStack() as stack:
            getters = [
                stack.enter_context(
                    shell.running("two", "get", ticket, "-o", f"{number}.bin", *LOCAL)
                )
                for number in range(3)
            ]
            for getter in getters:
                _, err = getter.communicate(timeout=TIMEOUT_S)
                assert getter.returncode == 0, err
    for number in range(3):
        assert (shell.folder / f"{number}.bin").read_bytes() == source.read_bytes()


def test_errors_of_the_running_node_keep_their_exit_code(shell: Shell) -> None:
    with shell.running("one", "up", *LOCAL) as node:
        line_of(node)
        result = shell.run(
            "one",
            "get",
            "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4",
            "--timeout",
            "0.2",
        )
    assert result.returncode == 7
    assert result.stderr.startswith("error[7 deadline]: get bafkr4i")


def test_a_debug_log_of_a_whole_run_holds_no_key(shell: Shell) -> None:
    source = shell.file("model.bin")
    with shell.running("one", "share", str(source), "-vv", *LOCAL) as sharer:
        ticket = line_of(sharer).split()[-1]
        got = shell.run("two", "get", ticket, "-o", "copy.bin", "-vv", *LOCAL)
        sharer.send_signal(signal.SIGTERM)
        _, log = sharer.communicate(timeout=TIMEOUT_S)
    assert "DEBUG" in log + got.stderr
    for home in ("one", "two"):
        seed = (shell.folder / home / "key").read_bytes()[4:36]
        for text in (log, got.stderr, got.stdout):
            assert seed.hex() not in text
            assert repr(seed)[2:-1] not in text


def test_a_share_that_is_stopped_before_it_serves_was_interrupted(shell: Shell) -> None:
    source = shell.folder / "big.bin"
    with source.open("wb") as file:
        file.truncate(20_000_000_000)  # sparse: it takes seconds to hash and no room
    with shell.running("one", "share", str(source), *LOCAL, "--json-lines") as sharer:
        while json.loads(line_of(sharer))["event"] != "progress":
            pass
        sharer.send_signal(signal.SIGINT)
        assert sharer.wait(TIMEOUT_S) == 130
