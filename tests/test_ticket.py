"""Tickets: one line of text, read back as it was written or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lattica.cid import CID
from lattica.errors import InvalidInput
from lattica.identity import Identity
from lattica.ticket import MAX_TEXT, Ticket, TicketError, TicketFault, fitting, is_plain_name
from lattica.transport import Multiaddr

ROOT = CID.of(b"hello")
PEER = Identity(bytes(range(32))).peer_id
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")

options = st.dictionaries(
    st.text(max_size=6).filter(lambda key: key not in ("name", "size")),
    st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8) | st.text(max_size=8) | st.none(),
    max_size=4,
)
addresses = st.builds(
    lambda host, port: Multiaddr.parse(f"/ip4/{host}/tcp/{port}"),
    st.ip_addresses(v=4),
    st.integers(0, 65_535),
)


@given(st.binary(max_size=40), st.lists(addresses, max_size=5), options)
def test_a_ticket_is_read_back(
    content: bytes, known: list[Multiaddr], extra: dict[str, int | str | bytes | None]
) -> None:
    ticket = Ticket(CID.of(content), PEER, tuple(known), extra)
    assert Ticket.parse(str(ticket)) == ticket


@given(st.text(max_size=200) | st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=200))
def test_any_text_is_a_ticket_or_a_ticket_error(text: str) -> None:
    for candidate in (text, f"lattica:{text}"):
        try:
            ticket = Ticket.parse(candidate)
        except TicketError:
            continue
        assert Ticket.parse(str(ticket)) == ticket


@given(st.integers(8, 150), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_changed_character_is_noticed(position: int, character: str) -> None:
    text = str(Ticket(ROOT, PEER, (ADDRESS,), {"name": "model.safetensors"}))
    changed = text[:position] + character + text[position + 1 :]
    if changed != text:
        with pytest.raises(TicketError):
            Ticket.parse(changed)


def test_a_ticket_takes_as_many_addresses_as_fit() -> None:
    long = [Multiaddr.parse(f"/dns4/{'a' * 60}.{'b' * 60}{n}.example/tcp/1") for n in range(20)]
    ticket = fitting(ROOT, PEER, long, {"name": "n" * 200})
    assert 0 < len(ticket.addresses) < 16
    assert ticket.addresses == tuple(long[: len(ticket.addresses)])
    assert len(str(ticket)) <= MAX_TEXT


def test_options_that_do_not_fit_are_refused_when_written() -> None:
    with pytest.raises(TicketError) as caught:
        str(Ticket(ROOT, PEER, (), {"note": "x" * 2000}))
    assert caught.value.fault is TicketFault.SIZE


def test_a_ticket_made_by_hand_is_held_to_the_same_rules() -> None:
    with pytest.raises(TicketError, match="plain file name"):
        Ticket(ROOT, PEER, (), {"name": "../../etc/passwd"})
    with pytest.raises(TicketError, match="names a peer"):
        Ticket(ROOT, PEER, (ADDRESS.with_peer(PEER),))


@given(st.text(max_size=30))
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    if is_plain_name(name):
        assert Path("/folder", name).parent == Path("/folder")
        assert Path("/folder", name).name == name


def test_a_ticket_error_is_wrong_input_that_says_what_to_do() -> None:
    with pytest.raises(InvalidInput) as caught:
        Ticket.parse("bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4")
    assert (caught.value.exit_code, caught.value.code) == (2, "ticket")
    assert "lattica:" in caught.value.hint
