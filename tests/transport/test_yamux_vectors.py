from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lattica.transport.limits import Limits
from lattica.transport.yamux import (
    Answered,
    CreditLedger,
    Ended,
    GoneAway,
    Opened,
    Readable,
    Reset,
    Session,
    Substream,
    Writable,
    YamuxError,
)

VECTORS = json.loads(
    Path(__file__, "../../../spec/vectors/yamux-frames.json").resolve().read_text(encoding="utf-8")
)


class Runner:
    """A session that does as a vector says, and notes what happens in the vector's words."""

    def __init__(self, role: str) -> None:
        limits = Limits()
        account = CreditLedger(limits).open_account()
        initiator = role == "dialer"
        self.session = Session(initiator=initiator, account=account, limits=limits, now=0.0)
        self.streams: dict[int, Substream] = {}
        self.events: list[str] = []
        self.reply = b""

    def command(self, text: str) -> None:
        name, *rest = text.split()
        session = self.session
        if name == "open":
            first = bytes.fromhex(rest[0]) if rest else b""
            stream = session.open_stream(0.0, first)
            self.streams[stream.id] = stream
        elif name == "ping":
            session.ping(0.0)
        elif name == "go-away":
            session.go_away()
        else:
            stream = self.streams[int(rest[0])]
            if name == "send":
                buffers, _ = session.batch(stream, memoryview(bytes.fromhex(rest[1])))
                self.reply += b"".join(buffers)
            elif name == "finish":
                session.finish(stream)
            elif name == "close":
                session.close(stream, 0.0)
            elif name == "reset":
                session.reset(stream)
        self.reply += session.take_control()

    def receive(self, piece: bytes) -> None:
        self.session.receive(piece, 0.0)
        for event in self.session.events():
            match event:
                case Opened(stream):
                    self.streams[stream.id] = stream
                    self.events.append(f"opened {stream.id}")
                case Readable(stream):
                    if f"readable {stream.id}" not in self.events:
                        self.events.append(f"readable {stream.id}")
                case Ended(stream):
                    self.events.append(f"ended {stream.id}")
                case Reset(stream):
                    self.events.append(f"reset {stream.id}")
                case Answered(_):
                    self.events.append("answered")
                case GoneAway(code):
                    self.events.append(f"go-away {code}")
                case Writable(_):
                    self.events.append("writable")
        self.reply += self.session.take_control()

    def told(self) -> list[str]:
        return [self._with_bytes(event) for event in self.events]

    def _with_bytes(self, event: str) -> str:
        name, *rest = event.split()
        if name != "readable":
            return event
        stream, data = self.streams[int(rest[0])], b""
        while (piece := stream.take()) is not None:
            data += piece
        return f"{event} {data.hex()}"


def _run(case: dict[str, Any], size: int) -> Runner:
    runner = Runner(case["role"])
    commands = case.get("commands", [])
    for command in commands:
        if not command.startswith("after: "):
            runner.command(command)
    wire = bytes.fromhex(case["wire"])
    for start in range(0, len(wire), size):
        runner.receive(wire[start : start + size])
    for command in commands:
        if command.startswith("after: "):
            runner.command(command.removeprefix("after: "))
    return runner


@pytest.mark.parametrize("size", [1, 7, 12, 1 << 20])
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_every_vector_holds_however_the_bytes_are_split(case: dict[str, Any], size: int) -> None:
    if case["result"] == "invalid":
        with pytest.raises(YamuxError) as caught:
            _run(case, size)
        assert caught.value.go_away == 1
    else:
        runner = _run(case, size)
        assert runner.told() == case["result"]["events"]
        assert runner.reply.hex() == case["result"]["reply"].replace(" ", "")
