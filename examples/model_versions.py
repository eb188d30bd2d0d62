"""A model in two versions, of which the second costs its reader the difference. Run it twice:

python examples/model_versions.py               # publishes both, prints a ticket, serves
python examples/model_versions.py lattica:…     # reads some rows, the first version, the second
"""

from __future__ import annotations

import sys

import numpy as np

import lattica

WEIGHT = "layer.0.weight"


def publish() -> None:
    """Publish both versions and serve them until Ctrl-C."""
    with lattica.Node() as node:
        state = {WEIGHT: np.random.default_rng(0).normal(size=(2048, 2048)).astype("float32")}
        v1 = node.publish("demo/tiny", state, licence="MIT", message="first")
        print("share this:", v1.ticket, flush=True)
        state[WEIGHT][::97] *= 1.0001
        v2 = node.publish("demo/tiny", state, parent=v1)
        print(f"v2 costs {v2.wire_bytes:,} bytes instead of {v2.full_bytes:,}", flush=True)
        node.serve_forever()


def read(ticket: str) -> None:
    """Read some rows of a version, all of it, and then what is new in the newest."""
    with lattica.Node(home="~/.lattica-2") as node:
        model = node.open(ticket)
        print(model.signer, model.licence, list(model.tensors))
        rows = model[WEIGHT][:128]
        print(f"{rows.nbytes:,} bytes of rows took {model.received_bytes:,}")
        state = model.load(progress=True)
        newest = model.latest()
        state = newest.load(base=state, progress=True)
        print(f"version {newest.manifest.version} took {newest.received_bytes:,} bytes")
        print("same bytes as the publisher:", newest.matches(state))


def main() -> None:
    """Publish, or read what a ticket names."""
    match sys.argv[1:]:
        case []:
            publish()
        case [ticket]:
            read(ticket)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
