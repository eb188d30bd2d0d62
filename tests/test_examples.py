"""The examples run, on sizes that take a moment, and do what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("LATTICA")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "LATTICA_MDNS": "off",
    "LATTICA_LISTEN": "/ip4/127.0.0.1/tcp/0",
}
TIMEOUT_S = 60


def run(*command: str | Path, home: Path | None = None) -> str:
    finished = subprocess.run(
        command,
        env={**ENVIRONMENT, "HOME": str(home)} if home else ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_demo_moves_a_file_that_is_found_by_its_cid(tmp_path: Path) -> None:
    said = run(sys.executable, EXAMPLES / "demo.py", "--mib", "8", "--folder", tmp_path)
    assert "the bytes are the same: yes" in said
    assert "the copy has the same CID: yes" in said
    assert not list(tmp_path.iterdir()), "it cleans up"


def test_a_mesh_shares_a_checkpoint_and_survives_its_origin() -> None:
    said = run(sys.executable, EXAMPLES / "mesh_share.py", "--mib", "8")
    assert re.search(r"the third has it .* from the (first|second)", said)
    assert re.search(r"the fourth has it .* from the (second|third)", said)
    assert "Not shown:" in said


def test_two_shells_are_enough() -> None:
    said = run("sh", EXAMPLES / "two_shells.sh")
    assert said.startswith("lattica get lattica:")
    assert said.endswith("the copies are the same\n")


def test_the_python_quickstart_shares_and_gets(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(300_000))
    script = EXAMPLES / "quickstart.py"
    with subprocess.Popen(
        [sys.executable, script, "share", tmp_path / "model.bin"],
        env={**ENVIRONMENT, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as sharer:
        try:
            assert sharer.stdout is not None
            ticket = sharer.stdout.readline().strip()
            said = run(sys.executable, script, "get", ticket, tmp_path / "copy", home=tmp_path)
        finally:
            sharer.send_signal(signal.SIGINT)
        assert sharer.wait(TIMEOUT_S) == 0, "Ctrl-C is how it is meant to end"
    assert "300,000 bytes, every one verified" in said
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "model.bin").read_bytes()


def test_the_second_version_of_a_model_costs_its_reader_the_difference(tmp_path: Path) -> None:
    script = EXAMPLES / "model_versions.py"
    with subprocess.Popen(
        [sys.executable, script],
        env={**ENVIRONMENT, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as publisher:
        try:
            assert publisher.stdout is not None
            ticket = publisher.stdout.readline().removeprefix("share this: ").strip()
            costs = re.search(r"v2 costs ([\d,]+) bytes", publisher.stdout.readline())
            said = run(sys.executable, script, ticket, home=tmp_path)
        finally:
            publisher.send_signal(signal.SIGINT)
        assert publisher.wait(TIMEOUT_S) == 0, "Ctrl-C is how it is meant to end"
    rows = re.search(r"1,048,576 bytes of rows took ([\d,]+)", said)
    took = re.search(r"version 2 took ([\d,]+) bytes", said)
    assert costs is not None
    assert rows is not None
    assert took is not None
    delta, second = (int(found[1].replace(",", "")) for found in (costs, took))
    assert delta < (2048 * 2048 * 4) / 20
    assert second <= 1.1 * delta + 4096
    assert int(rows[1].replace(",", "")) <= 1.1 * 1048576 + (256 << 10)
    assert "same bytes as the publisher: True" in said


def test_a_device_on_a_thin_line_gets_its_update_as_a_delta() -> None:
    said = run(sys.executable, EXAMPLES / "edge_update" / "run.py")
    share = re.search(r"v2 is on the device .* bytes, ([0-9.]+) % of it", said)
    assert share is not None
    assert float(share[1]) < 50
    assert "Not shown:" in said


def test_models_built_on_withdrawn_data_are_found_when_everybody_else_is_gone() -> None:
    said = run(sys.executable, EXAMPLES / "data_commons" / "run.py")
    assert "lab/risk v2: built on registry/observations v1" in said
    assert "lab/screening v1: not touched" in said
    assert "Not shown:" in said


def test_miners_improve_a_model_in_turn_and_a_copy_is_turned_away() -> None:
    said = run(sys.executable, EXAMPLES / "pareto_arena" / "run.py")
    assert said.count("a copy, turned away") == 2
    assert re.search(r"parent miner-\d/model v\d", said)
    assert "Not shown:" in said
