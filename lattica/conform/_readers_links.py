"""Readers of the vectors of links: negotiation, Noise, TLS certificates, yamux (links.md).

Machines are fed the whole input and once more byte by byte: what comes of it must not depend on how
a link splits it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lattica.identity import Identity
from lattica.transport import Limits, ProtocolNotSupported, noise, tls, yamux
from lattica.transport.multistream import DialerNegotiation, ListenerNegotiation

from ._outcome import Failure
from ._readers import expect, wire_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Case = Mapping[str, Any]

_T = TypeVar("_T")


def _however_split(read: Callable[[list[bytes]], _T], wire: bytes) -> _T:
    """Return what comes of `wire` in one piece. Raises Failure if single bytes give another."""
    found = read([wire] if wire else [])
    expect(
        "what comes of single bytes", read([wire[at : at + 1] for at in range(len(wire))]), found
    )
    return found


def read_multistream(case: Case) -> object:
    """One side of a negotiation (links.md §2)."""
    setup = case["setup"]

    def read(pieces: list[bytes]) -> object:
        machine: DialerNegotiation | ListenerNegotiation
        reply = after = b""
        if setup["role"] == "dialer":
            machine = DialerNegotiation(setup["protocols"])
            reply = machine.start()
        else:
            machine = ListenerNegotiation(frozenset(setup["supported"]))
        for piece in pieces:
            if machine.protocol is None:
                reply += machine.receive(piece)
            else:
                after += piece
        leftover = (machine.leftover + after).hex()
        return {"reply": reply.hex(), "protocol": machine.protocol, "leftover": leftover}

    try:
        return _however_split(read, wire_of(case))
    except ProtocolNotSupported:
        return "refused"


def read_noise(case: Case) -> object:
    """Handshakes, payloads and frames of Noise (links.md §3)."""
    setup = case["setup"]
    if case["kind"] == "transcript":
        return _noise_transcript(case)
    if case["kind"] == "payload":
        payload = noise.read_payload(wire_of(case), bytes.fromhex(setup["static_key"]))
        found: dict[str, object] = {"peer": str(payload.key.peer_id)}
        found["muxers"] = list(payload.muxers)
        if payload.ciphers:
            found["ciphers"] = list(payload.ciphers)
        return found
    if case["kind"] == "first-message":
        noise.NoiseHandshake(Identity(bytes(32)), initiator=False).receive(wire_of(case))
        return "accepted"

    def read(pieces: list[bytes]) -> object:
        cipher = noise.CIPHERS[setup.get("cipher", noise.CHACHA20_POLY1305.name)]
        opener = noise.Opener(bytes.fromhex(setup["key"]), cipher, received=setup["received"])
        opened = [bytes(one).hex() for piece in pieces for one in opener.receive(piece)]
        return {"plaintexts": opened}

    return _however_split(read, wire_of(case))


def _noise_transcript(case: Case) -> object:
    """Play both sides with the keys of the case, and compare each message with the published."""

    def key(name: str) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(case["setup"][name]))

    sides = [
        noise.XXHandshake(
            initiator=role == "initiator",
            static=key(f"{role}_static"),
            ephemeral=key(f"{role}_ephemeral"),
            prologue=bytes.fromhex(case["setup"]["prologue"]),
        )
        for role in ("initiator", "responder")
    ]
    messages = []
    published = case["result"]["messages"]
    for turn, message in enumerate(published[:3]):
        ciphertext = sides[turn % 2].write(bytes.fromhex(message["payload"]))
        payload = sides[1 - turn % 2].read(ciphertext)
        messages.append({"payload": payload.hex(), "ciphertext": ciphertext.hex()})
    sealers = [noise.Sealer(side.split()[0]) for side in sides]
    openers = [noise.Opener(side.split()[1]) for side in sides]
    for turn, message in enumerate(published[3:], start=3):
        frame = b"".join(map(bytes, sealers[turn % 2].seal([bytes.fromhex(message["payload"])])))
        payload = b"".join(map(bytes, openers[1 - turn % 2].receive(frame)))
        messages.append({"payload": payload.hex(), "ciphertext": frame[2:].hex()})
    found: dict[str, object] = {"messages": messages}
    if "handshake_hash" in case["result"]:
        found["handshake_hash"] = sides[0].hash.hex()
    return found


def read_certificate(case: Case) -> object:
    """Certificates of libp2p's TLS (links.md §4)."""
    key = tls.read_certificate(wire_of(case), now=case["now"])
    return {"peer": str(key.peer_id)}


def read_yamux(case: Case) -> object:
    """A side of a yamux session (links.md §5). What it refuses it answers with go-away 1."""
    try:
        return _however_split(lambda pieces: _Yamux(case["role"]).play(case, pieces), wire_of(case))
    except yamux.YamuxError as error:
        if error.go_away != yamux.GoAwayCode.PROTOCOL_ERROR:
            raise Failure(f"refused with go-away {error.go_away}, expected 1") from error
        raise


class _Yamux:
    """A session that does as a case says, and tells what happens in the case's words."""

    def __init__(self, role: str) -> None:
        limits = Limits()
        self._session = yamux.Session(
            initiator=role == "dialer",
            account=yamux.CreditLedger(limits).open_account(),
            limits=limits,
            now=0.0,
        )
        self._streams: dict[int, yamux.Substream] = {}
        self._events: list[str] = []
        self._reply = b""

    def play(self, case: Case, pieces: list[bytes]) -> dict[str, object]:
        """Run the commands and take the input; return events and reply, spelt as the case does."""
        commands = case.get("commands", [])
        for command in commands:
            if not command.startswith("after: "):
                self._command(*command.split())
        for piece in pieces:
            self._session.receive(piece, 0.0)
            for event in self._session.events():
                self._note(event)
            self._reply += self._session.take_control()
        for command in commands:
            if command.startswith("after: "):
                self._command(*command.removeprefix("after: ").split())
        reply, expected = self._reply.hex(), case["result"]
        if isinstance(expected, dict) and expected["reply"].replace(" ", "") == reply:
            reply = expected["reply"]
        return {"events": [self._told(event) for event in self._events], "reply": reply}

    def _command(self, name: str, *arguments: str) -> None:
        session = self._session
        if name == "open":
            stream = session.open_stream(0.0, bytes.fromhex("".join(arguments)))
            self._streams[stream.id] = stream
        elif name == "ping":
            session.ping(0.0)
        elif name == "go-away":
            session.go_away()
        else:
            stream = self._streams[int(arguments[0])]
            if name == "send":
                buffers, _ = session.batch(stream, memoryview(bytes.fromhex(arguments[1])))
                self._reply += b"".join(buffers)
            elif name == "finish":
                session.finish(stream)
            elif name == "close":
                session.close(stream, 0.0)
            elif name == "reset":
                session.reset(stream)
            else:
                raise Failure(f"unknown command {name!r}")
        self._reply += session.take_control()

    def _note(self, event: yamux.Event) -> None:
        match event:
            case yamux.Answered():
                text = "answered"
            case yamux.GoneAway(code):
                text = f"go-away {int(code)}"
            case yamux.Writable():
                text = "writable"
            case yamux.Opened(stream):
                self._streams[stream.id] = stream
                text = f"opened {stream.id}"
            case yamux.Readable(stream):
                text = f"readable {stream.id}"
            case yamux.Ended(stream):
                text = f"ended {stream.id}"
            case yamux.Reset(stream):
                text = f"reset {stream.id}"
        if not (text.startswith("readable") and text in self._events):
            self._events.append(text)

    def _told(self, event: str) -> str:
        name, *rest = event.split()
        if name != "readable":
            return event
        data = b""
        while (piece := self._streams[int(rest[0])].take()) is not None:
            data += piece
        return f"{event} {data.hex()}"


READERS: dict[str, Callable[[Case], object]] = {
    "multistream": read_multistream,
    "noise": read_noise,
    "tls-certificates": read_certificate,
    "yamux-frames": read_yamux,
}
