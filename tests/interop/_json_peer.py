"""Foreign peers that are driven by JSON lines over a pipe: `js/peer.mjs` and `py_peer.py`."""

from __future__ import annotations

import itertools
import json
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lattica.identity import PeerId
from lattica.transport import Multiaddr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

MAX_LINE = 1 << 20


class ForeignFailure(Exception):
    """The foreign peer says that a command failed."""


class JsonPeer:
    """A running foreign peer. Made by `open_json_peer`."""

    half_closes = True

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._news = trio.Condition()
        self.peer: PeerId
        self.address: Multiaddr

    async def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a command of the peer and return its answer. Raises ForeignFailure."""
        number = next(self._ids)
        line = json.dumps({"id": number, "command": command, **arguments}) + "\n"
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode())
        async with self._news:
            while number not in self._answers:
                await self._news.wait()
        answer = self._answers.pop(number)
        if "failed" in answer:
            raise ForeignFailure(answer["failed"])
        return answer

    async def event(
        self, kind: str, matches: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Wait for an event of that kind, or return one that came already."""
        async with self._news:
            while True:
                for event in self._events:
                    if event["event"] == kind and matches(event):
                        return event
                await self._news.wait()

    async def dial(self, to: Multiaddr) -> str:
        return str((await self.call("dial", to=str(to)))["security"])

    async def ping(self, to: Multiaddr) -> float:
        return float((await self.call("ping", to=str(to)))["ms"]) / 1e3

    async def echo(self, to: Multiaddr, size: int) -> int:
        return int((await self.call("echo", to=str(to), size=size))["received"])

    async def echoes(self, to: Multiaddr, streams: int, size: int) -> list[int]:
        answer = await self.call("echoes", to=str(to), streams=streams, size=size)
        return list(answer["received"])

    async def sink(self, to: Multiaddr, size: int) -> int:
        return int((await self.call("sink", to=str(to), size=size))["received"])

    async def reset(self, to: Multiaddr) -> None:
        await self.call("reset", to=str(to))

    async def sees_reset(self, to: Multiaddr) -> bool:
        return bool((await self.call("expect-reset", to=str(to)))["error"])

    async def is_refused(self, to: Multiaddr) -> bool:
        return bool((await self.call("unknown", to=str(to)))["error"])

    async def read_forever(self) -> None:
        assert self._process.stdout is not None
        buffer = bytearray()
        async for data in self._process.stdout:
            buffer += data
            assert len(buffer) < MAX_LINE
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                await self._take(json.loads(line))

    async def _take(self, message: dict[str, Any]) -> None:
        async with self._news:
            if "answer" in message:
                self._answers[message["answer"]] = message
            else:
                self._events.append(message)
            self._news.notify_all()


@asynccontextmanager
async def open_json_peer(command: Sequence[str]) -> AsyncIterator[JsonPeer]:
    """Start a peer and stop it at the end of the block."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        foreign = JsonPeer(process)
        nursery.start_soon(foreign.read_forever)
        with trio.fail_after(60):
            ready = await foreign.event("ready")
        foreign.peer = PeerId.parse(ready["peer"])
        address = Multiaddr.parse(ready["addresses"][0])
        foreign.address = address if address.peer_id else address.with_peer(foreign.peer)
        yield foreign
        nursery.cancel_scope.cancel()
