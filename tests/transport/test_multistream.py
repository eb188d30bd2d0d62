from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from lattica.errors import InvalidInput
from lattica.transport.multistream import (
    MAX_LINE,
    MAX_PROPOSALS,
    PROTOCOL_ID,
    DialerNegotiation,
    ListenerNegotiation,
    NegotiationError,
    ProtocolNotSupported,
)

protocol_ids = st.text(
    st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda text: text not in {"na", "ls"})


def _run(machine: DialerNegotiation | ListenerNegotiation, pieces: list[bytes]) -> dict[str, Any]:
    """Feed `pieces` as a link would: what comes after the agreement is the protocol's."""
    reply = machine.start() if isinstance(machine, DialerNegotiation) else b""
    after = b""
    for piece in pieces:
        if machine.protocol is None:
            reply += machine.receive(piece)
        else:
            after += piece
    return {
        "reply": reply.hex(),
        "protocol": machine.protocol,
        "leftover": (machine.leftover + after).hex(),
    }


@given(
    st.lists(protocol_ids, min_size=1, max_size=8, unique=True),
    st.sets(protocol_ids, max_size=4),
    st.integers(0, 7),
)
def test_dialer_and_listener_agree_on_the_best_common_protocol(
    proposed: list[str], supported: set[str], shared: int
) -> None:
    if shared < len(proposed):
        supported |= {proposed[shared]}
    dialer, listener = DialerNegotiation(proposed), ListenerNegotiation(supported)
    best = next((protocol for protocol in proposed if protocol in supported), None)
    flight = dialer.start()
    if best is None:
        with pytest.raises(ProtocolNotSupported) as refusal:
            for _ in proposed:
                flight = dialer.receive(listener.receive(flight))
        assert refusal.value.protocols == tuple(proposed)
    else:
        while dialer.protocol is None:
            flight = dialer.receive(listener.receive(flight))
        assert dialer.protocol == listener.protocol == best


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=6))
def test_the_first_bytes_of_the_protocol_survive_the_negotiation(
    request: bytes, cuts: list[int]
) -> None:
    dialer, listener = DialerNegotiation(["/echo/1"]), ListenerNegotiation({"/echo/1"})
    wire = dialer.start() + request
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    result = _run(listener, [wire[start:end] for start, end in pairwise(edges)])
    assert bytes.fromhex(result["leftover"]) == request
    assert dialer.receive(bytes.fromhex(result["reply"])) == b""
    assert dialer.protocol == "/echo/1"


@given(st.binary(max_size=400))
def test_whatever_a_stranger_sends_ends_in_an_answer_or_a_typed_error(data: bytes) -> None:
    header = ListenerNegotiation(set())
    header.receive(DialerNegotiation(["/x"]).start())
    for machine in (header, ListenerNegotiation({"/x"}), DialerNegotiation(["/x", "/y"])):
        with contextlib.suppress(NegotiationError, ProtocolNotSupported):
            machine.receive(data)


@pytest.mark.parametrize("protocol", ["", "two\nlines", "x" * MAX_LINE])
def test_what_is_not_a_protocol_id_is_never_proposed(protocol: str) -> None:
    with pytest.raises(InvalidInput):
        DialerNegotiation([protocol])


@pytest.mark.parametrize("count", [0, MAX_PROPOSALS + 1])
def test_a_dialer_proposes_a_bounded_number(count: int) -> None:
    with pytest.raises(InvalidInput):
        DialerNegotiation(["/x"] * count)


@pytest.mark.parametrize(
    "machine", [DialerNegotiation(["/x"]), ListenerNegotiation({"/x"})], ids=["dialer", "listener"]
)
def test_an_end_before_agreement_is_an_error(
    machine: DialerNegotiation | ListenerNegotiation,
) -> None:
    with pytest.raises(NegotiationError, match="ended before"):
        machine.finish()
    machine.receive(b"\x13" + PROTOCOL_ID.encode() + b"\n\x03/x\n")
    machine.finish()


def test_an_answer_is_quoted_in_the_error_but_not_at_length() -> None:
    dialer = DialerNegotiation(["/x"])
    line = b"/" + b"y" * 900 + b"\n"
    size = bytes([len(line) & 0x7F | 0x80, len(line) >> 7])
    with pytest.raises(NegotiationError) as caught:
        dialer.receive(b"\x13" + PROTOCOL_ID.encode() + b"\n" + size + line)
    assert "/yyy" in str(caught.value)
    assert len(str(caught.value)) < 200
