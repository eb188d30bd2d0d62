"""Python processes that play a part in an example: they take requests and answer, line by line.

with role(__file__, "miner", folder) as miner:      # runs `python <this file> miner <folder>`
    print(miner.ask("train", steps=100))

if sys.argv[1:2] == ["miner"]:
    answer({"train": lambda steps: {...}})          # on the other side, until its input ends
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOCAL: dict[str, Any] = {"listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": False}


class Role:
    """A process that answers requests."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self._process = name, process

    def ask(self, request: str, **parameters: Any) -> Any:
        """Have it do something, and return what it answers. SystemExit: it ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([request, parameters]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended, with status {self._process.wait()}")
        return json.loads(line)


@contextmanager
def role(script: str | Path, name: str, *arguments: object) -> Iterator[Role]:
    """Run a part of an example in a process of its own until the block ends."""
    others = {key: value for key, value in os.environ.items() if "LATTICA" not in key}
    process = subprocess.Popen(
        [sys.executable, str(script), name, *map(str, arguments)],
        env={**others, "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is for the example, which ends it
        text=True,
    )
    try:
        yield Role(name, process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # its input ends, and so does it
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def answer(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests from standard input until it ends."""
    for line in sys.stdin:
        request, parameters = json.loads(line)
        sys.stdout.write(json.dumps(handlers[request](**parameters)) + "\n")
        sys.stdout.flush()
