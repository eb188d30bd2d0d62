"""Commands about tensors, manifests and trust, as a shell sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lattica.cli._app import app
from lattica.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ABSENT = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4"
LOCAL = {"LATTICA_LISTEN": "/ip4/127.0.0.1/tcp/0", "LATTICA_MDNS": "false", "NO_COLOR": "1"}


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, and how it exited."""

    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, home: str, *arguments: str) -> Result:
    """Run a command in this process, in `folder`."""
    with chdir(folder):
        environment = {**LOCAL, "LATTICA_HOME": str(folder / home)}
        done = CliRunner().invoke(app, arguments, env=environment)
    return Result(done.exit_code, done.stdout, done.stderr)


@contextmanager
def node(folder: Path, home: str, *arguments: str) -> Iterator[list[str]]:
    """`lattica up`, while the block lasts; gives its addresses."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "lattica", "up", "--json-lines", *arguments],
        cwd=folder,
        env={**os.environ, **LOCAL, "LATTICA_HOME": str(folder / home)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["addresses"]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


@pytest.fixture
def state() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    return {
        "layers.0.w": rng.normal(size=(64, 32)).astype(np.float32),
        "layers.1.w": rng.normal(size=(64, 32)).astype(ml_dtypes.bfloat16),
        "head": np.arange(12, dtype=np.int16).reshape(3, 4),
    }


def test_tensors_of_a_file_are_listed_printed_and_compared(
    tmp_path: Path, state: dict[str, np.ndarray[Any, Any]]
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    save_file(
        {**state, "head": state["head"] + np.eye(3, 4, dtype=np.int16)}, tmp_path / "b.safetensors"
    )
    listed = run(tmp_path, "h", "tensor", "ls", "a.safetensors")
    rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert {row[0]: row[1:3] for row in rows}["layers.1.w"] == ["BF16", "[64, 32]"]
    again = run(tmp_path, "h", "tensor", "ls", "b.safetensors", "--json")
    theirs = {one["name"]: one["cid"] for one in json.loads(again.stdout)["tensors"]}
    ours = {row[0]: row[3] for row in rows}
    assert [name for name in ours if ours[name] != theirs[name]] == ["head"]

    printed = run(tmp_path, "h", "tensor", "cat", "a.safetensors", "head[1:]")
    assert printed.stdout.split() == ["[[", "4,", "5,", "6,", "7],", "[", "8,", "9,", "10,", "11]]"]
    part = run(
        tmp_path, "h", "tensor", "cat", "a.safetensors", "layers.1.w[2:4, 5]", "-o", "p.safetensors"
    )
    assert part.stdout.strip() == str(tmp_path / "p.safetensors")
    raw = load_file(tmp_path / "p.safetensors")["layers.1.w"]
    assert raw.tobytes() == state["layers.1.w"][2:4, 5].tobytes()

    compared = run(tmp_path, "h", "tensor", "diff", "a.safetensors", "b.safetensors")
    assert compared.returncode == 1
    assert compared.stdout.splitlines() == ["changed\thead\tI16\t[3, 4]\t25 %"]
    assert run(tmp_path, "h", "tensor", "diff", "a.safetensors", "a.safetensors").returncode == 0


def test_mistakes_are_named(tmp_path: Path, state: dict[str, np.ndarray[Any, Any]]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "m.pt").write_bytes(b"\x80\x02" + bytes(100))
    for arguments, status, complaint in (
        (("tensor", "ls", "m.pt"), 2, "looks like a pickle"),
        (("tensor", "cat", "a.safetensors", "haed"), 2, "there is head"),
        (("tensor", "cat", "a.safetensors", "head[9]"), 2, "index 9 of an axis of 3"),
        (("tensor", "ls", "nowhere"), 2, "neither a ticket nor a CID"),
        (
            ("get", ABSENT, "--tensor", "head", "--base", "m.pt"),
            2,
            "is for all of a version",
        ),
        (("trust", "add", "nobody"), 2, "not a peer ID"),
        (("trust", "rm", str(Identity(bytes(32)).peer_id)), 3, "was not trusted"),
    ):
        done = run(tmp_path, "h", *arguments)
        assert (done.returncode, complaint in done.stderr) == (status, True), done.stderr


def test_a_model_is_published_verified_approved_and_fetched_in_parts(
    tmp_path: Path, state: dict[str, np.ndarray[Any, Any]]
) -> None:
    source = tmp_path / "m.safetensors"
    save_file(state, source)
    with node(tmp_path, "a") as addresses:
        told = run(tmp_path, "a", "publish", "team/m", str(source), "--licence", "MIT", "--json")
        published = json.loads(told.stdout)
        ticket, signer = published["ticket"], run(tmp_path, "a", "id").stdout.split()[0]

        assert f"lattica get {signer}/team/m" in told.stderr

        listed = run(tmp_path, "b", "tensor", "ls", ticket)
        assert len(listed.stdout.splitlines()) == 3
        part = ("get", ticket, "--layers", "0:1", "--tensor", "head[0:2]", "-o", "part.safetensors")
        assert run(tmp_path, "b", *part).returncode == 0
        got = load_file(tmp_path / "part.safetensors")
        assert sorted(got) == ["head", "layers.0.w"]
        assert np.array_equal(got["head"], state["head"][:2])
        for rank in range(2):
            run(tmp_path, "b", "get", ticket, "--rank", f"{rank}/2", "-o", f"r{rank}.safetensors")
        halves = [load_file(tmp_path / f"r{rank}.safetensors") for rank in range(2)]
        for name, array in state.items():
            assert np.concatenate([one[name] for one in halves]).tobytes() == array.tobytes()

        for ref in (ticket, f"{signer}/team/m"):  # bytes of the model, not of its manifest
            where = ("--from", addresses[0], "-o", "start", "--force")
            assert run(tmp_path, "b", "get", ref, "--range", "8:64", *where).returncode == 0
            assert (tmp_path / "start").read_bytes() == source.read_bytes()[8:72]

        shown = run(tmp_path, "b", "manifest", "show", ticket)
        assert "NOT TRUSTED" in shown.stdout
        assert "MIT" in shown.stdout
        refused = run(tmp_path, "b", "manifest", "verify", ticket, str(source))
        assert (refused.returncode, "NOT TRUSTED" in refused.stderr) == (6, True)
        assert f"lattica trust add {signer}" in refused.stderr
        assert run(tmp_path, "b", "trust", "add", signer, "ada").returncode == 0
        assert run(tmp_path, "b", "trust", "ls").stdout == f"{signer}\tada\n"
        copy = tmp_path / "copy.safetensors"
        copy.write_bytes(source.read_bytes()[:-1] + b"\x77")
        changed = run(tmp_path, "b", "manifest", "verify", ticket, str(copy))
        assert (changed.returncode, "CHANGED" in changed.stderr) == (5, True)

        bob = Identity(bytes([9]) * 32).peer_id
        (tmp_path / "keys").write_text(f"{signer} ada\n{bob} bob\n")
        two = ("manifest", "verify", ticket, "--trust", "keys", "--rule", "2of2", "--json")
        short = run(tmp_path, "b", *two)
        assert short.returncode == 6, short.stdout
        assert json.loads(short.stdout)["approved_by"] == [signer], short.stdout
        one = ("manifest", "verify", ticket, str(source), "--trust", "keys", "--rule", "1of2")
        verified = run(tmp_path, "b", *one)
        assert (verified.returncode, verified.stdout) == (0, "valid\n")

        gate = ("get", ticket, "-o", "gated.safetensors", "--trust", "keys", "--rule")
        refused = run(tmp_path, "b", *gate, "2of2")
        assert (refused.returncode, "not approved" in refused.stderr) == (6, True)
        assert not (tmp_path / "gated.safetensors").exists()
        taken = run(tmp_path, "b", *gate, "1of2")
        assert taken.returncode == 0, taken.stderr
        assert (tmp_path / "gated.safetensors").read_bytes() == source.read_bytes()
        assert run(tmp_path, "b", *gate, "1of2", "--layers", "0:1").returncode == 2

        signed = run(tmp_path, "c", "manifest", "approve", ticket, "--from", addresses[0])
        assert signed.stdout.startswith("approved\t")
        chain = run(tmp_path, "b", "manifest", "lineage", ticket)
        assert "team/m v1, MIT" in chain.stdout
        assert "digraph" in run(tmp_path, "b", "manifest", "lineage", ticket, "--dot").stdout
