"""`lattica sim`: run a simulated network, and repeat one that went wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._output import Face, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_FAILED = 1


def sim(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="SCENARIO", help="What to simulate.", show_default=False),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of all chance; the same run each time.")
    ] = 1,
    nodes: Annotated[
        int | None, typer.Option("--nodes", metavar="N", min=2, help="How many take part.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="A..B", help="Run each of these seeds, B included."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Processes for several seeds [one a core]."
        ),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Print every event to stderr (one seed).")
    ] = False,
    every: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No talk, only data and errors.")
    ] = False,
) -> None:
    """Simulate networks under a virtual clock, with faults.

    A seed decides all that is left to chance. SCENARIO may be `all`. What did not hold is listed
    with the command that replays it; the exit status is 1 then.
    """
    output = Output(Face.JSON if as_json else Face.TEXT, quiet=quiet)
    if every:
        _list(output)
        return
    if scenario is None:
        raise typer.BadParameter("name a scenario; --list shows them")
    names = _names(scenario)
    if seeds is not None or len(names) > 1:
        first, last = _range(seeds) if seeds is not None else (seed, seed)
        _run_many(output, names, first, last, nodes=nodes, jobs=jobs or os.cpu_count() or 1)
    else:
        _run_one(output, names[0], seed, nodes=nodes, trace=trace)


def _list(output: Output) -> None:
    from lattica.testing.scenarios import SCENARIOS

    rows = [(each.name, str(each.nodes), each.summary) for each in SCENARIOS.values()]
    output.table(("SCENARIO", "NODES", "WHAT MUST HOLD"), rows)
    output.result(
        {
            "scenarios": [
                {"name": name, "nodes": int(nodes), "summary": summary}
                for name, nodes, summary in rows
            ]
        }
    )


def _names(name: str) -> list[str]:
    from lattica.testing.scenarios import SCENARIOS, UnknownScenario, find_scenario

    if name == "all":
        return list(SCENARIOS)
    try:
        return [find_scenario(name).name]
    except UnknownScenario as error:
        raise typer.BadParameter(f"{error}; --list shows them") from None


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if found is None or int(found[1]) > int(found[2]):
        raise typer.BadParameter(f"--seeds {text!r} is not A..B, as 1..20")
    return int(found[1]), int(found[2])


def _run_one(output: Output, name: str, seed: int, *, nodes: int | None, trace: bool) -> None:
    from lattica.testing.scenarios import find_scenario

    outcome = find_scenario(name).run(seed, nodes, on_trace=output.say if trace else None)
    for figure, value in outcome.figures.items():
        output.data(f"{figure}\t{value:.6g}")
    output.data(f"digest\t{outcome.digest}")
    output.result(outcome.to_json())
    if outcome.failures:
        _tell_failure(output, outcome.to_json())
        raise typer.Exit(EXIT_FAILED)
    output.say(f"{name}, seed {seed}, {outcome.nodes} nodes: all held; {outcome.seconds:.1f} s")


def _tell_failure(output: Output, outcome: dict[str, Any]) -> None:
    for failure in outcome["failures"]:
        output.say(f"FAILED: {failure}")
    output.say(f"replay: {outcome['replay']}")


def _run_many(
    output: Output, names: list[str], first: int, last: int, *, nodes: int | None, jobs: int
) -> None:
    reports = []
    for name in names:
        outcomes = []
        for outcome in _outcomes(name, first, last, nodes=nodes, jobs=jobs):
            outcomes.append(outcome)
            if not outcome["ok"]:
                output.say(f"{name}, seed {outcome['seed']}:")
                _tell_failure(output, outcome)
        reports.append(_report(name, outcomes))
        _tell_report(output, reports[-1])
    failed = sum(len(report["failed"]) for report in reports)
    output.result(reports[0] if len(reports) == 1 else {"ok": not failed, "scenarios": reports})
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _report(name: str, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    from lattica.testing.scenarios import summarise

    failed = [outcome for outcome in outcomes if not outcome["ok"]]
    return {
        "scenario": name,
        "ok": not failed,
        "seeds": len(outcomes),
        "nodes": outcomes[0]["nodes"],
        "figures": summarise([outcome["figures"] for outcome in outcomes]),
        "failed": failed,
    }


def _tell_report(output: Output, report: dict[str, Any]) -> None:
    verdict = "all held" if report["ok"] else f"{len(report['failed'])} FAILED"
    output.data(f"{report['scenario']}\t{report['seeds']} seeds\t{verdict}")
    for name, values in report["figures"].items():
        shown = "\t".join(f"{which} {values[which]:.4g}" for which in ("min", "mean", "max"))
        output.data(f"  {name}\t{shown}")


def _outcomes(
    name: str, first: int, last: int, *, nodes: int | None, jobs: int
) -> Iterator[dict[str, Any]]:
    """Run the seeds in this process, or share them out to several; yields in order of the seeds."""
    jobs = min(jobs, last - first + 1)
    if jobs == 1:
        from lattica.testing.scenarios import find_scenario

        for seed in range(first, last + 1):
            yield find_scenario(name).run(seed, nodes).to_json()
        return
    workers = [_worker(name, first + job, last, step=jobs, nodes=nodes) for job in range(jobs)]
    try:
        for seed in range(first, last + 1):
            worker = workers[(seed - first) % jobs]
            assert worker.stdout is not None
            line = worker.stdout.readline()
            if not line:  # it has told why on standard error
                raise typer.Exit(EXIT_FAILED)
            yield json.loads(line)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _worker(
    name: str, first: int, last: int, *, step: int, nodes: int | None
) -> subprocess.Popen[str]:
    arguments = [name, str(first), str(last), str(step), str(nodes or 0)]
    command = [sys.executable, "-P", "-m", "lattica.testing.scenarios", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
