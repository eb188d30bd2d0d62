"""Three institutions share data under licences of their own; models say what they were trained on.

    python examples/data_commons/run.py

Each institution publishes a data set, with its licence, under its own key. A laboratory fetches
them, trains a model on all three and publishes it with a manifest that cites them; then it refines
that into a second version, and derives another model from two of the three. One institution
withdraws its data. An auditor, who trusts the four keys, walks from every model to its roots and
lists those that were built on what is withdrawn; and does it again when everybody else is gone.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _roles import LOCAL, answer, role

INSTITUTIONS = {
    "clinic": ("CC-BY-4.0", 1),
    "university": ("ODC-By-1.0", 2),
    "registry": ("LicenseRef-Registry-Research-Only", 3),
}
FEATURES, ROWS = 12, 2000


# --- an institution


def keep_data(folder: Path, name: str, licence: str, seed: str, bootstrap: str) -> None:
    """Publish a data set, and withdraw it when asked."""
    import numpy as np
    from safetensors.numpy import save_file

    import lattica
    from lattica.models import Verdict

    rng = np.random.default_rng(int(seed))
    truth = np.random.default_rng(0).normal(size=FEATURES)  # what all of them observe
    inputs = rng.normal(int(seed) / 4, 1, (ROWS, FEATURES)).astype(np.float32)
    labels = (inputs @ truth + rng.normal(0, 0.5, ROWS) > 0).astype(np.uint8)
    save_file({"inputs": inputs, "labels": labels}, folder / f"{name}.safetensors")

    with lattica.Node(folder / "home", bootstrap=[bootstrap] if bootstrap else [], **LOCAL) as node:

        def publish() -> dict[str, str]:
            published = node.publish(
                f"{name}/observations",
                folder / f"{name}.safetensors",
                licence=licence,
                message=f"{ROWS} rows",
            )
            return {
                "cid": str(published.cid),
                "ticket": str(published.ticket),
                "peer": str(node.id),
                "address": str(node.addresses[0]),
            }

        def withdraw(cid: str) -> str:
            return str(node.vouch(cid, Verdict.REVOKE).verdict)

        answer({"publish": publish, "withdraw": withdraw})


# --- the laboratory


def train_models(folder: Path, bootstrap: str) -> None:
    """Fetch data sets, train on them, and publish what comes of it."""
    import numpy as np

    import lattica

    with lattica.Node(folder / "home", bootstrap=[bootstrap], **LOCAL) as node:
        weights: dict[str, Any] = {}

        def train(
            name: str, data: list[str], steps: int, parent: str | None, base: list[str]
        ) -> dict[str, Any]:
            columns, labels = [], []
            for ticket in data:
                with node.open(ticket) as data_set:
                    columns.append(data_set["inputs"][:])
                    labels.append(data_set["labels"][:])
            inputs, wanted = np.concatenate(columns), np.concatenate(labels)
            weight = weights.get(name, np.zeros(FEATURES)).astype(np.float64)
            for _ in range(steps):
                chance = 1 / (1 + np.exp(-np.clip(inputs @ weight, -30, 30)))
                weight -= 0.5 * inputs.T @ (chance - wanted) / len(wanted)
            weights[name] = weight
            accuracy = float(((inputs @ weight > 0) == wanted).mean())
            published = node.publish(
                name,
                {"weight": weight.astype(np.float32)},
                licence="CC-BY-4.0",
                parent=parent,
                base=base,
                data=data,
                meta={"accuracy": round(accuracy, 4)},
            )
            return {
                "cid": str(published.cid),
                "ticket": str(published.ticket),
                "version": published.version,
                "accuracy": accuracy,
                "peer": str(node.id),
            }

        answer({"train": train})


# --- the auditor


def audit(folder: Path, bootstrap: str) -> None:
    """Walk from models to their roots, and say which stand on what was withdrawn."""
    import lattica
    from lattica.identity import PeerId

    with lattica.Node(folder / "home", bootstrap=[bootstrap], **LOCAL) as node:

        def trust(peers: dict[str, str]) -> None:
            for name, peer in peers.items():
                node.trust(PeerId.parse(peer), name)

        def look(models: list[str]) -> list[dict[str, Any]]:
            trusted = node.trusted()
            found = []
            for ref in models:
                lineage = node.lineage(ref)
                lines, withdrawn, unsigned = [], [], []
                for depth, how, ancestor, again in lineage.lines():
                    signed = ancestor.signed
                    if signed is None:
                        lines.append(f"{'  ' * depth}{how} {ancestor.cid} ({ancestor.state})")
                        continue
                    signer = trusted.get(signed.signer)
                    title = f"{signed.manifest.name} v{signed.manifest.version}"
                    lines.append(
                        f"{'  ' * depth}{how + ' ' if how else ''}{title}, "
                        f"{signed.manifest.licence}, by {signer or 'a key that is not trusted'}"
                    )
                    if again:
                        continue
                    if signer is None:
                        unsigned.append(title)
                    said = node.statements(signed.cid)
                    if any(one.verdict == "revoke" and one.signer == signed.signer for one in said):
                        withdrawn.append(title)
                found.append(
                    {
                        "lines": lines,
                        "complete": lineage.complete,
                        "withdrawn": withdrawn,
                        "unsigned": unsigned,
                    }
                )
            return found

        answer({"trust": trust, "look": look})


# --- the story


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory(prefix="lattica-commons-") as name, ExitStack() as auditing:
        folder = Path(name)
        for part in (*INSTITUTIONS, "lab", "auditor"):
            (folder / part).mkdir()
        with ExitStack() as others:
            data: dict[str, dict[str, str]] = {}
            keepers, bootstrap = {}, ""
            for who, (licence, seed) in INSTITUTIONS.items():
                keeper = others.enter_context(
                    role(__file__, "institution", folder / who, who, licence, seed, bootstrap)
                )
                keepers[who], data[who] = keeper, keeper.ask("publish")
                bootstrap = bootstrap or data[who]["address"]
                print(f"{who} publishes {who}/observations under {licence}")
            lab = others.enter_context(role(__file__, "lab", folder / "lab", bootstrap))
            everything = [one["ticket"] for one in data.values()]
            first = lab.ask(
                "train", name="lab/risk", data=everything, steps=100, parent=None, base=[]
            )
            second = lab.ask(
                "train",
                name="lab/risk",
                data=everything,
                steps=100,
                parent=first["ticket"],
                base=[],
            )
            other = lab.ask(
                "train",
                name="lab/screening",
                data=everything[:2],
                steps=100,
                parent=None,
                base=[],
            )
            models = {"lab/risk v2": second, "lab/screening v1": other}
            for title, model in models.items():
                print(f"the lab publishes {title}, accuracy {model['accuracy']:.3f}")

            auditor = auditing.enter_context(
                role(__file__, "auditor", folder / "auditor", bootstrap)
            )
            peers = {who: one["peer"] for who, one in data.items()}
            auditor.ask("trust", peers={**peers, "lab": first["peer"]})
            tickets = [model["ticket"] for model in models.values()]
            for title, seen in zip(models, auditor.ask("look", models=tickets), strict=True):
                print(f"\nwhere {title} comes from:")
                print("\n".join(f"  {line}" for line in seen["lines"]))
                assert seen["complete"]
                assert not seen["unsigned"]
                assert not seen["withdrawn"]

            keepers["registry"].ask("withdraw", cid=data["registry"]["cid"])
            print("\nthe registry withdraws its data set")
            seen = auditor.ask("look", models=tickets)
        print("everybody but the auditor is gone; the auditor looks again, at what it has:")
        again = auditor.ask("look", models=[model["cid"] for model in models.values()])
        assert again == seen, "the audit needs somebody else"
        for title, found in zip(models, again, strict=True):
            built_on = ", ".join(found["withdrawn"])
            print(f"  {title}: {'built on ' + built_on if built_on else 'not touched'}")
        assert again[0]["withdrawn"] == ["registry/observations v1"]
        assert again[1]["withdrawn"] == []
    print(
        "Not shown: what a withdrawal means in law, data that must not leave its owner, and whether"
        "\na model was trained on what its manifest says: a manifest is somebody's signed word."
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["institution", folder, *more]:
            keep_data(Path(folder), *more)
        case ["lab", folder, bootstrap]:
            train_models(Path(folder), bootstrap)
        case ["auditor", folder, bootstrap]:
            audit(Path(folder), bootstrap)
        case _:
            main()
