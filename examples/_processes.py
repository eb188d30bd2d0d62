"""What the examples share: real `lattica` processes on 127.0.0.1, and a checkpoint to move."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
LOCAL = ("--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")  # the examples stay on this machine
STOP_TIMEOUT_S = 15.0


class LatticaProcess:
    """A running `lattica` command whose `--json-lines` events are read one by one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait_for(
        self, name: str, on_progress: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Return the next event called `name`; pass `progress` on that comes before.

        Raises:
            SystemExit: the command ended before; the message is its error.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
            if event["event"] == "progress" and on_progress is not None:
                on_progress(event)
            elif event["event"] == "error":
                raise SystemExit(f"lattica: {event['message']}")
        raise SystemExit(f"lattica ended, with status {self._process.wait()}, before `{name}`")

    def stop(self) -> None:
        """End the command as Ctrl-C does, and wait until it has said goodbye."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def lattica(home: Path, command: str, *arguments: str) -> Iterator[LatticaProcess]:
    """Run `lattica <command>` on a home of its own until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lattica", command, *arguments, "--json-lines"],
        env=_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for the example, which stops it
        text=True,
    )
    running = LatticaProcess(process)
    try:
        yield running
    finally:
        running.stop()
        assert process.stdout is not None
        process.stdout.close()


def peer_of(home: Path) -> str:
    """Return the peer ID of the node on `home`."""
    command = [sys.executable, "-P", "-m", "lattica", "id", "--json"]
    finished = subprocess.run(command, env=_environment(home), stdout=subprocess.PIPE, check=True)
    peer: str = json.loads(finished.stdout)["peer"]
    return peer


def _environment(home: Path) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if "LATTICA" not in name}
    return {**others, "LATTICA_HOME": str(home)}


def make_checkpoint(path: Path, size: int, *, tensors: int = 32, seed: int = 0) -> int:
    """Write a safetensors file of about `size` bytes: bf16 matrices of seeded noise.

    Returns the size of the file in bytes. The format: 8 bytes of header length, the header in JSON,
    the tensors one after the other.
    """
    columns = 1024
    rows = max(1, size // (2 * columns * tensors))
    length = 2 * columns * rows
    header = {
        f"layers.{number}.weight": {
            "dtype": "BF16",
            "shape": [rows, columns],
            "data_offsets": [number * length, (number + 1) * length],
        }
        for number in range(tensors)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    noise = random.Random(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(tensors):
            for start in range(0, length, MIB):
                file.write(noise.randbytes(min(MIB, length - start)))
    return path.stat().st_size
