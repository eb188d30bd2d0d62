"""Miners improve a model in turn; evaluators keep those that no other beats everywhere.

    python examples/pareto_arena/run.py

In each round every miner gets the leader, trains it on data of its own and publishes what comes of
it: a manifest that names its parent, and a delta, which is what evaluators fetch who hold the
leader. Each evaluator runs every candidate on three tasks. Who is nowhere behind another candidate
is on the front, and the best of the front on average leads the next round. One miner publishes the
leader as its own: its tensors have the identifiers of the parent's, so it is turned away unrun.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _roles import LOCAL, answer, role

TASKS, MINERS, EVALUATORS, ROUNDS = 3, 4, 2, 2
COPIER = 3  # the miner that has nothing of its own
INPUTS, HIDDEN, CLASSES = 32, 256, 8
STEPS = 60


# --- the model and its tasks, the same in every process


def make_data(task: int, rows: int, seed: int) -> tuple[Any, Any]:
    """Draw inputs, marked with their task, and the labels that its teacher gives them."""
    import numpy as np

    teacher = np.random.default_rng(100 + task).normal(size=(INPUTS, CLASSES))
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, INPUTS)).astype(np.float32)
    labels = (inputs @ teacher).argmax(axis=1)
    marks = np.zeros((rows, TASKS), np.float32)
    marks[:, task] = 2
    return np.concatenate([inputs, marks], axis=1), labels


def run_model(state: dict[str, Any], inputs: Any) -> list[Any]:
    """Return the activations of every layer, the last ones being the scores of the classes."""
    import numpy as np

    hidden = [inputs]
    for number in range(3):
        out = hidden[-1] @ state[f"layers.{number}.weight"]
        hidden.append(out if number == 2 else np.maximum(out, 0))
    return hidden


def train(state: dict[str, Any], weights: list[float], seed: int, rate: float) -> None:
    """Train in place on a mixture of the tasks."""
    import numpy as np

    rng = np.random.default_rng(seed)
    drawn = [make_data(task, 2000, seed * 10 + task) for task in range(TASKS)]
    for _ in range(STEPS):
        inputs, labels = drawn[rng.choice(TASKS, p=weights)]
        rows = rng.integers(0, len(labels), 128)
        hidden = run_model(state, inputs[rows])
        shares = np.exp(hidden[-1] - hidden[-1].max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(128), labels[rows]] -= 1
        upstream = shares / 128
        for number in (2, 1, 0):
            weight = state[f"layers.{number}.weight"]
            gradient = hidden[number].T @ upstream
            upstream = (upstream @ weight.T) * (hidden[number] > 0)
            weight -= rate * gradient


def write(path: Path, state: dict[str, Any]) -> None:
    """Write the model as a checkpoint in bf16."""
    import ml_dtypes
    from safetensors.numpy import save_file

    save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in state.items()}, path)


# --- a miner; the one that starts the arena is one, too


def mine(folder: Path, number: int, bootstrap: str) -> None:
    """Improve the leader, round by round."""
    import numpy as np

    import lattica

    weights = [1.0] * TASKS  # what data this miner has most of
    weights[number % TASKS] += 2.0
    weights = [weight / sum(weights) for weight in weights]
    with lattica.Node(folder / "home", bootstrap=[bootstrap] if bootstrap else [], **LOCAL) as node:

        def found() -> dict[str, str]:
            rng = np.random.default_rng(0)
            sizes = ((INPUTS + TASKS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CLASSES))
            state = {
                f"layers.{layer}.weight": rng.normal(0, np.sqrt(2 / size[0]), size).astype(
                    np.float32
                )
                for layer, size in enumerate(sizes)
            }
            train(state, [1 / TASKS] * TASKS, 1, 0.2)
            write(folder / "first.safetensors", state)
            published = node.publish("arena/model", folder / "first.safetensors")
            return {"ticket": str(published.ticket), "address": str(node.addresses[0])}

        def improve(leader: str, number_of_round: int, copy: bool) -> dict[str, Any]:
            got = node.get(leader, folder / f"leader-{number_of_round}.safetensors")
            path = folder / f"mine-{number_of_round}.safetensors"
            if copy:
                path.write_bytes(got.path.read_bytes())
            else:
                with node.open(leader) as model:
                    state = {name: value.astype(np.float32) for name, value in model.load().items()}
                train(state, weights, 50 * number_of_round + number, 0.02)
                write(path, state)
            published = node.publish(
                f"miner-{number}/model", path, parent=leader, message=f"round {number_of_round}"
            )
            return {
                "ticket": str(published.ticket),
                "delta_bytes": published.wire_bytes,
                "full_bytes": published.full_bytes,
            }

        answer({"found": found, "improve": improve})


# --- an evaluator


def evaluate(folder: Path, bootstrap: str) -> None:
    """Run candidates on data of the evaluator's, the same for all evaluators."""
    import numpy as np

    import lattica

    with lattica.Node(folder / "home", bootstrap=[bootstrap], **LOCAL) as node:

        def follow(leader: str, number_of_round: int) -> int:
            return node.get(leader, folder / f"leader-{number_of_round}.safetensors").received_bytes

        def score(candidate: str, name: str) -> dict[str, Any]:
            signed = node.manifest(candidate)
            assert signed.manifest.parent is not None
            with node.open(candidate) as model, node.open(signed.manifest.parent) as parent:
                copied = [
                    name
                    for name, info in model.tensors.items()
                    if name in parent.tensors and parent.tensors[name].cid == info.cid
                ]
                if len(copied) == len(model.tensors):
                    return {"copy": True}
            got = node.get(candidate, folder / f"{name}.safetensors")
            with node.open(candidate) as model:
                state = {name: value.astype(np.float32) for name, value in model.load().items()}
            scores = []
            for task in range(TASKS):
                inputs, labels = make_data(task, 1000, 999 + task)
                guesses = run_model(state, inputs)[-1].argmax(axis=1)
                scores.append(round(float((guesses == labels).mean()), 4))
            return {
                "copy": False,
                "scores": scores,
                "received_bytes": got.received_bytes,
                "by_delta": bool(got.deltas),
            }

        def lineage(ref: str) -> list[str]:
            return [
                f"{'  ' * depth}{how + ' ' if how else ''}{one.signed.manifest.name} "
                f"v{one.signed.manifest.version}, by {one.signed.signer.short}"
                for depth, how, one, _ in node.lineage(ref).lines()
                if one.signed is not None
            ]

        answer({"follow": follow, "score": score, "lineage": lineage})


# --- the story


def front(scores: dict[int, list[float]]) -> list[int]:
    """Return the candidates that no other is at least as good as everywhere, and better once."""

    def beaten(one: list[float]) -> bool:
        return any(
            other != one and all(a >= b for a, b in zip(other, one, strict=True))
            for other in scores.values()
        )

    return [number for number, one in scores.items() if not beaten(one)]


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory(prefix="lattica-arena-") as name, ExitStack() as later:
        folder = Path(name)

        def start(part: str, number: int, *more: object) -> Any:
            own = folder / f"{part}-{number}"
            own.mkdir()
            return later.enter_context(role(__file__, part, own, *more))

        founder = start("miner", 0, 0, "")
        began = founder.ask("found")
        join = began["address"]
        miners = [start("miner", number, number, join) for number in range(1, MINERS + 1)]
        judges = [start("evaluator", number, join) for number in range(EVALUATORS)]
        leader, turned_away = began["ticket"], 0
        for number_of_round in range(1, ROUNDS + 1):
            for judge in judges:
                judge.ask("follow", leader=leader, number_of_round=number_of_round)
            print(f"round {number_of_round}")
            scores: dict[int, list[float]] = {}
            tickets = {}
            for number, miner in enumerate(miners, 1):
                mined = miner.ask(
                    "improve",
                    leader=leader,
                    number_of_round=number_of_round,
                    copy=number == COPIER,
                )
                tickets[number] = mined["ticket"]
                named = f"candidate-{number_of_round}-{number}"
                verdicts = [
                    judge.ask("score", candidate=mined["ticket"], name=named) for judge in judges
                ]
                if all(one["copy"] for one in verdicts):
                    print(f"  miner {number}: a copy, turned away: every tensor is its parent's")
                    turned_away += 1
                    continue
                first = verdicts[0]
                assert all(one["scores"] == first["scores"] for one in verdicts), "they differ"
                assert all(one["by_delta"] for one in verdicts)
                scores[number] = first["scores"]
                print(
                    f"  miner {number}: {first['scores']}, delta {mined['delta_bytes']:,} bytes of "
                    f"{mined['full_bytes']:,}: {mined['full_bytes'] / mined['delta_bytes']:.1f} "
                    "times smaller"
                )
            best = front(scores)
            winner = max(best, key=lambda number: sum(scores[number]))
            leader = tickets[winner]
            print(f"  on the front: {', '.join(map(str, best))}; miner {winner} leads")
        assert turned_away == ROUNDS
        print("\nwhere the leader comes from:")
        lines = judges[0].ask("lineage", ref=leader)
        print("\n".join(f"  {line}" for line in lines))
        assert len(lines) == ROUNDS + 1
    print(
        "Not shown: language models and reinforcement learning, evaluators that lie or disagree,"
        "\nand miners who copy and then change a little."
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["miner", own, number, bootstrap]:
            mine(Path(own), int(number), bootstrap)
        case ["evaluator", own, bootstrap]:
            evaluate(Path(own), bootstrap)
        case _:
            main()
