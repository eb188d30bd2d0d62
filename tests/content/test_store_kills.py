"""A store that is killed at any instant serves nothing wrong and loses nothing that is pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ._kill import KillReport, check, promises, run

if TYPE_CHECKING:
    from pathlib import Path


def hold(report: KillReport, kills: int) -> None:
    assert report.kills == kills
    assert report.steps > kills  # it was killed at work, and not before it
    assert report.faults == 0, report


def test_killed_at_random_instants_it_serves_nothing_wrong_and_loses_no_pin(tmp_path: Path) -> None:
    hold(run(tmp_path / "lab", kills=20, seed=1), 20)
    assert promises(tmp_path / "lab")  # or nothing was at stake


@pytest.mark.slow
def test_two_hundred_kills_do_no_harm(tmp_path: Path) -> None:
    hold(run(tmp_path / "lab", kills=200, seed=2), 200)


def test_a_store_that_breaks_its_promises_is_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    run(folder, kills=20, seed=3)
    assert promises(folder)
    for path in (folder / "store" / "files").iterdir():
        path.write_bytes(b"?" * path.stat().st_size)
    report = KillReport()
    check(folder, report)
    assert report.lost_pins == len(promises(folder))
