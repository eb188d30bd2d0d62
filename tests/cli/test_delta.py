"""`lattica delta` as a shell sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lattica.cli._app import app

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three versions of a checkpoint in the current directory."""
    monkeypatch.chdir(tmp_path)
    weights = np.arange(100_000, dtype=np.float32)
    names = []
    for number in range(3):
        weights[number::1000] += 1
        names.append(f"v{number}.safetensors")
        save_file({"w": weights, "frozen": np.ones(9)}, names[-1])
    return names


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["delta", *arguments])


def test_a_delta_is_made_shown_and_applied(versions: list[str], tmp_path: Path) -> None:
    made = run("make", versions[0], versions[1], "-o", "d1", "--json")
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert report["size"] == (tmp_path / "d1").stat().st_size < report["full_size"] / 50
    assert report["unchanged"] == 1
    shown = json.loads(run("show", "d1", "--base", versions[0], "--json").stdout)
    assert shown["base"] == report["base"]
    assert [(one["name"], one["full_size"]) for one in shown["tensors"]] == [("w", 400_000)]
    applied = run("apply", versions[0], "d1", "-o", "got.safetensors")
    assert applied.exit_code == 0
    assert applied.stdout == "got.safetensors\n"
    got = (tmp_path / "got.safetensors").read_bytes()
    assert got == (tmp_path / versions[1]).read_bytes()


def test_a_chain_counts_its_links_and_says_when_it_gets_long(versions: list[str]) -> None:
    first = json.loads(run("make", versions[0], versions[1], "-o", "d1", "--json").stdout)
    made = run("make", versions[1], versions[2], "-o", "d2", "--previous", "d1", "--json")
    second = json.loads(made.stdout)
    assert (second["depth"], second["anchor"]) == (2, first["base"])
    again = ["make", versions[1], versions[2], "-o", "d2", "--previous", "d1", "--force"]
    assert "publish v2.safetensors whole" in run(*again, "--anchor-every", "2").stderr
    wrong = run("make", versions[0], versions[2], "-o", "d3", "--previous", "d1")
    assert wrong.exit_code == 2
    assert "gives" in wrong.stderr


def test_what_cannot_be_done_is_said_and_nothing_is_written(
    versions: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    assert run("make", versions[0], "text", "-o", "d").exit_code == 2
    assert run("make", versions[0], "missing", "-o", "d").exit_code == 2
    assert run("make", versions[0], versions[1], "-o", "d", "--codec", "magic").exit_code == 2
    assert run("apply", versions[0], versions[1], "-o", "got").exit_code == 2
    assert run("show", "text").exit_code == 2
    assert not (tmp_path / "d").exists()
    run("make", versions[0], versions[1], "-o", "d")
    taken = run("apply", versions[0], "d", "-o", versions[2])
    assert taken.exit_code == 2
    assert "--force" in taken.stderr
    wrong_base = run("apply", versions[2], "d", "-o", "got")
    assert wrong_base.exit_code == 5
    assert not (tmp_path / "got").exists()
