"""`lattica dht`, as a shell sees it: through the running node, and through one of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lattica.cid import CID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "/lattica/greeting"
MODEL = str(CID.of(b"model"))


def lattica(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "lattica", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


@contextmanager
def node(home: Path, *options: str) -> Iterator[str]:
    """Run a node in a process of its own; gives its address."""
    command = [sys.executable, "-P", "-m", "lattica", "up", "--home", str(home), "--no-mdns"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip()
        finally:
            process.terminate()


def test_values_go_through_the_running_node_and_through_visitors(tmp_path: Path) -> None:
    home, visitor = ["--home", str(tmp_path / "a")], ["--home", str(tmp_path / "b"), "--no-mdns"]
    with node(tmp_path / "a") as address:
        visitor += ["--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", address]
        put = lattica("dht", "put", KEY, "hello", "--ttl", "15m", *home)
        assert (put.returncode, put.stdout[:15]) == (0, b"1 node keeps it")
        put = lattica("dht", "put", KEY, "-", "--raw", "--subkey", "b", *visitor, stdin=b"\x00\xff")
        assert put.returncode == 0, put.stderr
        got = lattica("dht", "get", KEY, "--raw", *home)
        assert (got.returncode, got.stdout) == (0, b"\x00\xff")
        got = lattica("dht", "get", KEY, "--subkey", "", *home)
        assert got.stdout.split(b"\t")[0] == b"hello"
        assert re.match(rb"1 node holds it; \d of \d peers answered", got.stderr)
        entries = json.loads(lattica("dht", "get", KEY, "--json", *home).stdout)["entries"]
        assert [(each["subkey"], each["type"]) for each in entries] == [("", "str"), ("b", "bytes")]
        absent = lattica("dht", "get", "/lattica/absent", *home)
        assert (absent.returncode, absent.stdout) == (3, b"")
        assert b"dht-value-not-found" in absent.stderr
        assert lattica("dht", "provide", MODEL, *home).returncode == 0
        found = lattica("dht", "providers", MODEL, "--json-lines", *visitor)
        events = [json.loads(line) for line in found.stdout.splitlines()]
        assert [event["event"] for event in events] == ["provider", "done"]
        assert address.endswith(events[0]["peer"])
        crawl = lattica("dht", "crawl", *visitor)
        assert crawl.stdout.startswith(events[0]["peer"].encode() + b"\tanswers\t")
        said = lattica("dht", "status", *home).stdout
        assert b"\tyes\n" in said
        assert b"True" not in said
        status = json.loads(lattica("dht", "status", "--json", *home).stdout)
        assert status["values"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["put", "greeting", "x"], b"no rules"),
        (["put", KEY, "{", "--typed"], b"not JSON"),
        (["put", KEY, "x", "--ttl", "soon"], b"is no duration"),
    ],
)
def test_wrong_use_is_status_2(tmp_path: Path, arguments: list[str], complaint: bytes) -> None:
    options = ["--home", str(tmp_path), "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]
    result = lattica("dht", *arguments, *options)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_value_that_nobody_keeps_is_not_put(tmp_path: Path) -> None:
    options = ["--home", str(tmp_path), "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]
    result = lattica("dht", "put", KEY, "x", *options)
    assert (result.returncode, result.stdout) == (4, b"")
    assert b"no peer is known" in result.stderr
