"""The main job, as a user would do it: `make demo`.

Three `lattica` processes on 127.0.0.1. One is a bootstrap node. One shares a safetensors file. One
gets it, and is told two things only: the file's content identifier, and where the bootstrap node
is. It finds the sharer in the DHT, fetches over an encrypted link, and checks every leaf.
"""

from __future__ import annotations

import argparse
import filecmp
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from _processes import LOCAL, MIB, lattica, make_checkpoint

from lattica.content import build
from lattica.models import cut_file


def main() -> None:
    """Run the demo; exits with an error if any step does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the file, in MiB")
    parser.add_argument("--folder", type=Path, help="where to work, instead of a temporary folder")
    options = parser.parse_args()
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="lattica-demo-", dir=options.folder) as folder,
    ):
        demo(Path(folder), options.mib * MIB)


def demo(folder: Path, size: int) -> None:
    """Share a file of about `size` bytes between processes; raises SystemExit if anything fails."""
    source, copy = folder / "model.safetensors", folder / "copy.safetensors"
    started = time.monotonic()
    size = make_checkpoint(source, size)
    say(f"made {source.name}: {size / 1e6:.0f} MB, 32 tensors")

    with lattica(folder / "bootstrap", "bootstrap", *LOCAL) as bootstrap:
        meeting_point = bootstrap.wait_for("up")["addresses"][0]
        say(f"bootstrap node at {meeting_point}")
        join = ("--bootstrap", meeting_point, *LOCAL)

        with lattica(folder / "sharer", "share", str(source), *join) as sharer:
            shared = sharer.wait_for("shared")
            say(
                f"shared as {shared['cid']}\n   {shared['segments']} segments, "
                f"hashed at {size / shared['seconds'] / 1e6:.0f} MB/s"
            )
            say("another process gets that CID; it knows the bootstrap node and nothing else")
            getting = time.monotonic()
            get = ("get", shared["cid"], "-o", str(copy), *join)
            with lattica(folder / "getter", *get) as getter:
                done = getter.wait_for("done", Steps())
            seconds = time.monotonic() - getting

    say(f"fetched in {done['seconds']:.2f} s: {size / done['seconds'] / 1e6:.0f} MB/s, verified")
    say(f"with starting the process, joining and finding: {seconds:.2f} s")
    check("the bytes are the same", filecmp.cmp(source, copy, shallow=False))
    again = build(copy, segments=cut_file).root
    check("hashed again, the copy has the same CID", str(again) == shared["cid"])
    check("all of it came from the sharer", done["received_bytes"] == size)
    say(f"done in {time.monotonic() - started:.1f} s; everything it wrote is removed")


class Steps:
    """Prints progress, a line for each fifth that is verified."""

    def __init__(self) -> None:
        self._fifths = 0

    def __call__(self, report: dict[str, Any]) -> None:
        """Take a progress report of the getter."""
        done, total = report["done_bytes"], report["total_bytes"]
        fifths = 5 * done // total if total else 0
        if fifths > self._fifths:
            say(f"   verified {done / 1e6:.0f} of {total / 1e6:.0f} MB")
            self._fifths = fifths


def say(text: str) -> None:
    """Print one step."""
    print(f"-- {text}", flush=True)


def check(claim: str, holds: bool) -> None:
    """Print a claim that holds; end the demo at one that does not."""
    if not holds:
        raise SystemExit(f"FAILED: {claim}")
    say(f"{claim}: yes")


if __name__ == "__main__":
    main()
