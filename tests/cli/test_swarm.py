"""`lattica swarm`: keys made, handed on, changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from lattica._sizes import parse_duration
from lattica.cli._app import app
from lattica.errors import InvalidInput
from lattica.private_swarm import read_ring

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["swarm", *map(str, arguments)], input=given)


def test_a_swarm_is_made_joined_and_given_a_new_key(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    made = json.loads(run("new", "--home", one, "--json").stdout)
    assert made["keys"] == 1
    assert (one / "swarm.key").stat().st_mode & 0o777 == 0o600
    line = run("invite", "--home", one).stdout.strip()
    assert line.startswith("lattica-swarm:")
    assert json.loads(run("join", line, "--home", other, "--json").stdout)["swarm"] == made["swarm"]
    assert read_ring(other / "swarm.key") == read_ring(one / "swarm.key")

    changed = json.loads(run("rotate", "--overlap", "24h", "--home", one, "--json").stdout)
    assert (changed["swarm"], changed["keys"]) == (made["swarm"], 2)
    new_line = json.loads(run("invite", "--home", one, "--json").stdout)["invite"]
    assert run("join", "--home", other, given=new_line).exit_code == 0
    assert read_ring(other / "swarm.key") == read_ring(one / "swarm.key")
    assert run("show", "--home", other).stdout.strip() == made["swarm"]


def test_a_swarm_that_is_there_is_not_lost(tmp_path: Path) -> None:
    run("new", "--home", tmp_path)
    ring = read_ring(tmp_path / "swarm.key")
    again = run("new", "--home", tmp_path)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    run("new", "--home", tmp_path, "--swarm-key", tmp_path / "second.key")
    line = run("invite", "--home", tmp_path, "--swarm-key", tmp_path / "second.key").stdout
    assert run("join", line, "--home", tmp_path).exit_code == 2
    assert read_ring(tmp_path / "swarm.key") == ring


def test_no_secret_is_shown_but_by_invite(tmp_path: Path) -> None:
    shown = run("new", "--home", tmp_path)
    secret = (tmp_path / "swarm.key").read_text().split("key ")[-1].strip()
    for result in (shown, run("show", "--home", tmp_path), run("rotate", "--home", tmp_path)):
        assert result.exit_code == 0
        assert secret not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("24h", 86_400), ("30m", 1800), ("45s", 45), ("0", 0)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "7w", "-1d", "1.5h", "d", "9" * 12 + "d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


def test_the_key_that_lies_in_the_home_is_listed_among_the_settings(tmp_path: Path) -> None:
    run("new", "--home", tmp_path)
    shown = CliRunner().invoke(app, ["config", "--home", str(tmp_path), "--json"])
    found = json.loads(shown.stdout)["swarm_key"]
    assert found == {"value": str(tmp_path / "swarm.key"), "from": "home"}
