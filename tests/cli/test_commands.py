"""Commands as a shell sees them: what they print, where, and how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ABSENT = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4"
Result = subprocess.CompletedProcess[str]


class Shell:
    """Runs `lattica` in a process of its own, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"

    def __call__(self, *arguments: str, **environment: str) -> Result:
        return subprocess.run(
            [sys.executable, "-P", "-m", "lattica", *arguments],
            cwd=self.folder,
            env={**os.environ, "LATTICA_HOME": str(self.home), "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def lattica(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_help_loads_neither_trio_nor_cryptography() -> None:
    # This is what makes it fast, and unlike a time it does not depend on the machine.
    heavy = {"trio", "cryptography", "nacl", "blake3", "rich", "msgpack"}
    script = f"import sys; from lattica.cli import _app; print({heavy} & set(sys.modules) or None)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "None\n"


def test_help_names_every_command(lattica: Shell) -> None:
    result = lattica("--help")
    assert result.returncode == 0
    for command in ("bootstrap", "up", "share", "get", "id", "peers", "ping", "ls", "verify"):
        assert f"\n  {command} " in result.stdout


def test_the_version_is_printed(lattica: Shell) -> None:
    result = lattica("--version")
    assert (result.returncode, result.stdout) == (0, f"lattica-mesh {version('lattica-mesh')}\n")


@pytest.mark.parametrize(
    "command", ["peers", "ls", "du", "gc", "pin x", "stat x", "ping 12D3KooWx", "verify bafkx"]
)
def test_commands_that_need_a_running_node_say_so(lattica: Shell, command: str) -> None:
    result = lattica(*command.split())
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.startswith("error[4 node-not-running]: no node runs on ")
    assert "hint: start one with `lattica up`" in result.stderr


def test_an_error_is_json_where_json_was_asked_for(lattica: Shell) -> None:
    result = lattica("ls", "--json")
    assert json.loads(result.stdout)["error"]["code"] == "node-not-running"


def test_an_identity_is_made_once(lattica: Shell) -> None:
    first, second = lattica("id"), lattica("id")
    assert first.returncode == 0
    assert first.stdout.startswith("12D3KooW")
    assert first.stdout == second.stdout
    assert json.loads(lattica("id", "--json").stdout)["peer"] == first.stdout.strip()


def test_settings_are_shown_with_their_origin(lattica: Shell) -> None:
    lattica.home.mkdir()
    (lattica.home / "lattica.toml").write_text("[node]\nmdns = false\n")
    result = lattica("config", LATTICA_LOG="info")
    rows = dict(line.split("\t", 1) for line in result.stdout.splitlines())
    assert rows["home"] == f"{lattica.home}\tLATTICA_HOME"
    assert rows["mdns"] == f"false\t{lattica.home}/lattica.toml [node]"
    assert rows["log"] == "info\tLATTICA_LOG"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gett"], "Did you mean 'get'"),
        (["get"], "Missing argument"),
        (["share", "/no/such/file"], "does not exist"),
        (["share", ""], "path '' does not exist"),
        (["get", "x", "--json", "--json-lines"], "exclude each other"),
        (["get", "not-a-ticket"], "neither a ticket nor a CID"),
        (["get", "lattica:aaaa"], "checksum"),
        (["get", "bafkr4ih", "--range", "5"], "CID"),
        (["get", ABSENT, "--range", "5"], "is not a range"),
        (["get", ABSENT, "-o", "-", "--serve"], "prints one file"),
        (["get", ABSENT, "--cache", "-o", "x"], "exclude each other"),
        (["get", ABSENT, "--pin"], "--pin is for --cache"),
        (["get", ABSENT, "--range", "1x:5"], "is not a size"),
    ],
)
def test_wrong_use_is_status_2(lattica: Shell, arguments: list[str], complaint: str) -> None:
    result = lattica(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_quota_that_is_no_size_is_refused(lattica: Shell) -> None:
    result = lattica("id", LATTICA_QUOTA="lots")
    assert result.returncode == 2
    assert "LATTICA_QUOTA: 'lots' is not a size" in result.stderr


def test_a_misspelt_setting_is_refused_with_a_suggestion(lattica: Shell) -> None:
    lattica.home.mkdir()
    (lattica.home / "lattica.toml").write_text("[node]\nboostrap = []\n")
    result = lattica("id")
    assert result.returncode == 2
    assert "did you mean 'bootstrap'?" in result.stderr
