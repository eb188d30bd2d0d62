"""Peers share a checkpoint: one has it, three more come for it, a bootstrap node connects them.

    python examples/mesh_share.py [--mib 64]

All are real processes on 127.0.0.1 that know nothing but the bootstrap node's address. The second
peer gets the checkpoint from the first. The third gets it from both at once, because the second
serves what it has received. At the end the first, where it all came from, is gone, and a fourth
still gets it.
"""

from __future__ import annotations

import argparse
import filecmp
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _processes import LOCAL, MIB, lattica, make_checkpoint, peer_of


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=64, help="size of the checkpoint, in MiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lattica-mesh-") as folder:
        mesh_share(Path(folder), options.mib * MIB)


def mesh_share(folder: Path, size: int) -> None:
    """Share a checkpoint of about `size` bytes among the processes and print who sent what."""
    source = folder / "checkpoint.safetensors"
    size = make_checkpoint(source, size)
    with ExitStack() as later:
        bootstrap = later.enter_context(lattica(folder / "bootstrap", "bootstrap", *LOCAL))
        join = ("--bootstrap", bootstrap.wait_for("up")["addresses"][0], *LOCAL)

        first = later.enter_context(lattica(folder / "first", "share", str(source), *join))
        shared = first.wait_for("shared")
        names = {peer_of(folder / "first"): "first"}
        print(f"{source.name}: {size / 1e6:.0f} MB, {shared['segments']} segments")
        print(f"shared by the first as {shared['cid']}\n")

        total = 0
        for name in ("second", "third"):
            done = _get_and_serve(later, folder, name, shared["cid"], join)
            _print_row(name, done, names)
            total += _checked(source, folder, name, done)
            names[peer_of(folder / name)] = name

        first.stop()
        print("\nthe first, where it came from, is gone")
        done = _get_and_serve(later, folder, "fourth", shared["cid"], join)
        _print_row("fourth", done, names)
        total += _checked(source, folder, "fourth", done)
    print(f"\nreceived in all: {total / 1e6:.0f} MB, for three copies of {size / 1e6:.0f} MB")
    print(
        "Not shown: peers behind NAT, links slower than this machine's memory, peers that lie or"
        " stall,\nand more peers than one machine's cores can keep busy."
    )


def _get_and_serve(
    later: ExitStack, folder: Path, name: str, cid: str, join: tuple[str, ...]
) -> dict[str, Any]:
    """Start a peer that gets `cid` and stays to serve it; wait until it has it."""
    target = str(folder / f"{name}.safetensors")
    peer = later.enter_context(lattica(folder / name, "get", cid, "-o", target, "--serve", *join))
    return peer.wait_for("done")


def _print_row(name: str, done: dict[str, Any], names: dict[str, str]) -> None:
    rate = done["received_bytes"] / done["seconds"] / 1e6
    sources = ", ".join(
        f"{source['received_bytes'] / 1e6:.0f} MB from the {names[source['peer']]}"
        for source in done["sources"]
    )
    print(f"the {name} has it after {done['seconds']:.2f} s ({rate:.0f} MB/s): {sources}")


def _checked(source: Path, folder: Path, name: str, done: dict[str, Any]) -> int:
    if not filecmp.cmp(source, folder / f"{name}.safetensors", shallow=False):
        raise SystemExit(f"the copy of the {name} differs")
    received: int = done["received_bytes"]
    return received


if __name__ == "__main__":
    main()
