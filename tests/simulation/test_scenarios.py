"""Scenarios: they hold, they repeat, and one that fails says how to see it again."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer

from lattica.cli._sim import sim
from lattica.testing.scenarios import SCENARIOS, Run, Scenario, find_scenario, summarise


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_holds_and_repeats(name: str) -> None:
    nodes = min(SCENARIOS[name].nodes, 12)
    outcome = find_scenario(name).run(1, nodes)
    assert outcome.failures == ()
    assert outcome.figures
    if name in ("dht-join", "dht-hostile"):
        assert find_scenario(name).run(1, nodes).digest == outcome.digest


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("seed", range(5))
def test_each_scenario_holds_at_its_full_size(name: str, seed: int) -> None:
    assert find_scenario(name).run(seed).failures == ()


def play_badly(run: Run) -> None:
    simulation = run.simulation()
    run.figure("chance", simulation.rng.random())
    for number in range(30):
        run.check(number == 0, f"number {number}")


def test_what_did_not_hold_is_told_with_what_replays_it() -> None:
    outcome = Scenario("bad", "never holds", 7, play_badly).run(3)
    assert outcome.failures[:2] == ("number 1", "number 2")
    assert outcome.failures[-1] == "and 9 more"
    assert outcome.replay == "lattica sim bad --seed 3 --nodes 7"
    assert not outcome.to_json()["ok"]


def test_a_bug_in_a_scenario_names_its_seed() -> None:
    def play(run: Run) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError) as caught:
        Scenario("buggy", "", 5, play).run(9)
    assert caught.value.__notes__ == ["replay: lattica sim buggy --seed 9 --nodes 5"]


def test_two_worlds_of_one_run_are_not_the_same() -> None:
    run = Run(1, 2)
    assert run.simulation().rng.random() != run.simulation().rng.random()


def test_figures_are_summed_up() -> None:
    summary = summarise([{"hops": 1.0}, {"hops": 3.0, "seconds": 2.0}])
    assert summary["hops"] == {"min": 1.0, "mean": 2.0, "max": 3.0}
    assert summary["seconds"]["mean"] == 2.0


def lattica(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "lattica", "sim", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def lattica_json(*arguments: str) -> Any:
    done = lattica(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_repeats_a_run() -> None:
    one = lattica_json("dht-lookup", "--seed", "5", "--nodes", "30")
    assert one["ok"]
    assert one["digest"] == find_scenario("dht-lookup").run(5, 30).digest
    assert one["replay"] == "lattica sim dht-lookup --seed 5 --nodes 30"


def test_what_simulated_nodes_warn_of_does_not_fill_the_screen() -> None:
    done = lattica("dht-clocks", "--nodes", "12")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1


def test_the_command_shares_seeds_out_and_sums_up() -> None:
    report = lattica_json("dht-lookup", "--seeds", "1..4", "--nodes", "30", "--jobs", "2")
    assert (report["seeds"], report["ok"], report["failed"]) == (4, True, [])
    hops = [find_scenario("dht-lookup").run(seed, 30).figures["hops"] for seed in range(1, 5)]
    assert report["figures"]["hops"]["max"] == max(hops)


def test_a_run_that_fails_exits_with_one_and_says_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SCENARIOS, "bad", Scenario("bad", "never holds", 7, play_badly))
    with pytest.raises(typer.Exit) as caught:
        sim("bad", seed=3)
    assert caught.value.exit_code == 1
    assert "replay: lattica sim bad --seed 3 --nodes 7" in capsys.readouterr().err
    with pytest.raises(typer.Exit) as caught:
        sim("bad", seeds="3..4", jobs=1, as_json=True)
    assert caught.value.exit_code == 1
    assert len(json.loads(capsys.readouterr().out)["failed"]) == 2


def test_the_command_lists_scenarios_and_refuses_others() -> None:
    assert [each["name"] for each in lattica_json("--list")["scenarios"]] == list(SCENARIOS)
    assert lattica("no-such-scenario").returncode == 2
    for wrong in ("5", "5..", "9..8"):
        with pytest.raises(typer.BadParameter):
            sim("dht-join", seeds=wrong)
    with pytest.raises(typer.BadParameter):
        sim()
