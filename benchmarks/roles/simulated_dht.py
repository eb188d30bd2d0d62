"""One simulation of the DHT; prints its figures as JSON.

usage: python -m benchmarks.roles.simulated_dht growth NODES quick|full
       python -m benchmarks.roles.simulated_dht dead_40|hostile_20|… NODES quick|full
"""

from __future__ import annotations

import json
import sys
import time
from statistics import fmean

from lattica.testing import measure_dht as measure
from lattica.testing.scenarios import Run, find_scenario

SEED = 1


def growth(run: Run, *, quick: bool) -> dict[str, float]:
    """Lookups, an hour at rest, and memory, at one size."""
    started = time.perf_counter()
    world = measure.warm_world(run)
    measure.measure_lookups(world, 60 if quick else 500 if run.nodes <= 1000 else 200).figures(run)
    run.figure("memory_kib", measure.memory_of_a_node(world) / 1024)
    # In a larger network a node does more, and the differences between nodes are smaller.
    alive = 5 if quick else 50 if run.nodes <= 1000 else 12
    for name, value in measure.measure_rest(world, alive).items():
        run.figure(name, value)
    run.figure("events_per_s", world.simulation.events / (time.perf_counter() - started))
    return run.figures


def trouble(name: str, run: Run, *, quick: bool) -> dict[str, float]:
    """Lookups, values and providers where many are dead or hostile."""
    count = 60 if quick else 500
    kind, percent = name.split("_")
    if kind == "dead":
        world = measure.warm_world(run)
        values = measure.put_values(world, count)
        measure.kill(world, int(percent) / 100)
        measure.measure_lookups(world, count).figures(run)
        measure.get_values(world, values).figures(run, "values_")
    else:
        world = measure.warm_world(run, hostile=int(percent) / 100)
        measure.measure_lookups(world, count).figures(run)
        measure.measure_values(world, count).figures(run, "values_")
        measure.measure_providers(world, count).figures(run, "providers_")
    return run.figures


def scenario(name: str, *, quick: bool, nodes: int) -> dict[str, float]:
    """A scenario of `lattica sim`: the means of as many seeds as make a thousand operations.

    Of what is the most of anything, the most of all seeds.
    """
    runs = 1 if quick else 25  # of 40 operations each
    figures = [find_scenario(name).run(seed, nodes).figures for seed in range(runs)]
    return {
        name: (max if name.startswith("most_") else fmean)(one[name] for one in figures)
        for name in figures[0]
    }


def main() -> None:
    """Do what the command line says."""
    name, nodes, size = sys.argv[1:]
    quick, run = size == "quick", Run(SEED, int(nodes))
    if name == "growth":
        figures = growth(run, quick=quick)
    elif name == "poisoned":
        figures = scenario("dht-poison", quick=quick, nodes=20)
    elif name == "sybils":
        figures = scenario("dht-sybils", quick=quick, nodes=20)
    elif name == "eclipse":
        figures = scenario("dht-eclipse", quick=quick, nodes=200)
    else:
        figures = trouble(name, run, quick=quick)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
