"""What a hostile peer can make a session hold, and how each bound answers."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lattica.transport.limits import Limits
from lattica.transport.yamux import (
    INITIAL_WINDOW_BYTES,
    CreditLedger,
    GoAwayCode,
    GoneAway,
    Opened,
    PeerFlood,
    PeerSilent,
    Session,
    SessionClosing,
    StreamIdsExhausted,
    StreamLimit,
    Substream,
    WindowExceeded,
    YamuxError,
)
from lattica.transport.yamux._control import MAX_ANSWERS, MAX_PONGS
from lattica.transport.yamux._frames import MAX_STREAM_ID
from lattica.transport.yamux._ids import MAX_SKIPPED, StreamIds
from lattica.transport.yamux._session import LINGER_S

if TYPE_CHECKING:
    from lattica.errors import LatticaError

HEADER = struct.Struct("!BBHII")
DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream_id: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return HEADER.pack(0, kind, flags, stream_id, len(value)) + value
    return HEADER.pack(0, kind, flags, stream_id, value)


def make(
    *, initiator: bool = False, ledger: CreditLedger | None = None, limits: Limits | None = None
) -> Session:
    limits = limits or Limits()
    ledger = ledger or CreditLedger(limits)
    account = ledger.open_account()
    return Session(initiator=initiator, account=account, limits=limits, now=0.0)


def receive(session: Session, *frames: bytes, now: float = 0.0) -> list[object]:
    session.receive(b"".join(frames), now)
    return list(session.events())


def opened(session: Session, stream_id: int, data: bytes = b"") -> Substream:
    event = receive(session, frame(DATA, SYN, stream_id, data))[0]
    assert isinstance(event, Opened)
    return event.stream


def unread(stream: Substream) -> bytes:
    data = b""
    while (piece := stream.take()) is not None:
        data += piece
    return data


# Memory


def test_a_peer_that_sends_more_than_it_was_granted_is_cut_off_before_it_is_buffered() -> None:
    session = make()
    stream = opened(session, 1)
    receive(session, frame(DATA, 0, 1, bytes(INITIAL_WINDOW_BYTES)))
    with pytest.raises(WindowExceeded) as caught:
        session.receive(frame(DATA, 0, 1, b"x"), 0.0)
    assert caught.value.go_away is GoAwayCode.PROTOCOL_ERROR
    assert stream.unread_bytes == INITIAL_WINDOW_BYTES


def test_one_connection_holds_256_streams_and_refuses_the_next() -> None:
    limits = Limits()
    ledger = CreditLedger(limits)
    session = make(ledger=ledger)
    events = receive(session, *(frame(UPDATE, SYN, 2 * n + 1, 0) for n in range(257)))
    assert len(events) == 256
    assert session.take_control() == frame(UPDATE, RST, 513, 0)
    assert ledger.used_bytes == 256 * INITIAL_WINDOW_BYTES == limits.connection_unread_max_bytes


def test_streams_per_connection_bounds_each_side_of_its_own() -> None:
    session = make(limits=Limits(streams_per_connection=3))
    assert len(receive(session, *(frame(UPDATE, SYN, 2 * n + 1, 0) for n in range(4)))) == 3
    assert session.take_control() == frame(UPDATE, RST, 7, 0)
    for _ in range(3):
        session.open_stream(0.0)
    with pytest.raises(StreamLimit):
        session.open_stream(0.0)


def test_all_connections_together_stay_within_the_bytes_of_the_node() -> None:
    limits = Limits()
    ledger = CreditLedger(limits)
    sessions = [make(ledger=ledger) for _ in range(8)]
    for session in sessions:
        receive(session, *(frame(UPDATE, SYN, 2 * n + 1, 0) for n in range(256)))
    assert ledger.used_bytes <= limits.node_unread_bytes
    for session in sessions:
        session.lose()
    assert ledger.used_bytes == 0


def test_two_greedy_peers_leave_room_for_everybody_else() -> None:
    limits = Limits()
    ledger = CreditLedger(limits)
    for _ in range(2):
        receive(make(ledger=ledger), *(frame(UPDATE, SYN, 2 * n + 1, 0) for n in range(256)))
    modest = [make(ledger=ledger) for _ in range(8)]
    for session in modest:
        assert len(receive(session, *(frame(UPDATE, SYN, 2 * n + 1, 0) for n in range(8)))) == 8
    assert ledger.used_bytes <= limits.node_unread_bytes


def test_strangers_however_many_leave_room_for_the_streams_that_the_node_opens() -> None:
    limits = Limits()
    ledger = CreditLedger(limits)
    for _ in range(40):
        receive(make(ledger=ledger), *(frame(UPDATE, SYN, 2 * n + 1, 0) for n in range(256)))
    ours = make(ledger=ledger)
    for _ in range(64):
        ours.open_stream(0.0)
    assert ledger.used_bytes == limits.node_unread_bytes


def test_our_own_streams_are_refused_only_when_the_node_is_full() -> None:
    limits = Limits(node_unread_bytes=4 << 20, connection_unread_max_bytes=4 << 20)
    session = make(limits=limits)
    for _ in range(16):
        session.open_stream(0.0)
    with pytest.raises(StreamLimit, match="promised"):
        session.open_stream(0.0)


def test_unread_bytes_in_tiny_frames_cost_about_what_they_count() -> None:
    session = make()
    stream = opened(session, 1)
    pieces = [frame(DATA, 0, 1, b"x") * 1000 for _ in range(200)]
    tracemalloc.start()
    try:
        for piece in pieces:
            receive(session, piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream.unread_bytes == 200_000
    assert held < 400_000
    assert unread(stream) == b"x" * 200_000


def test_an_unread_crumb_does_not_keep_the_whole_piece_alive() -> None:
    session = make()
    crumbs, other = opened(session, 1), opened(session, 3)
    tracemalloc.start()
    try:
        for _ in range(64):
            receive(session, frame(DATA, 0, 1, bytes(2048)) + frame(DATA, 0, 3, bytes(60_000)))
            while other.take() is not None:
                pass
            if other.wants_grant:
                session.grant(other, 0.0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert crumbs.unread_bytes == 64 * 2048
    assert held < 4 * crumbs.unread_bytes


def test_large_payloads_are_handed_over_uncopied() -> None:
    session = make()
    stream = opened(session, 1)
    body = bytes(65_519)
    receive(session, frame(DATA, 0, 1, body)[:12])
    receive(session, body)
    assert stream.take() is body
    piece = frame(DATA, 0, 1, body)
    receive(session, piece)
    view = stream.take()
    assert isinstance(view, memoryview)
    assert view.obj is piece


@pytest.mark.parametrize("how", ["close", "reset", "their reset", "both finish", "lose"])
def test_a_stream_that_is_over_costs_nothing(how: str) -> None:
    ledger = CreditLedger(Limits())
    session = make(ledger=ledger)
    stream = opened(session, 1, bytes(100_000))
    if how == "close":
        session.close(stream, 0.0)
    elif how == "reset":
        session.reset(stream)
    elif how == "their reset":
        receive(session, frame(UPDATE, RST, 1, 0))
        stream.discard()
    elif how == "both finish":
        receive(session, frame(UPDATE, FIN, 1, 0))
        session.finish(stream)
        assert ledger.used_bytes == 100_000  # unread, and no more
        assert unread(stream) == bytes(100_000)
    else:
        session.lose()
        assert unread(stream) == bytes(100_000)
    assert ledger.used_bytes == 0
    assert stream.take() is None


def test_nothing_is_put_back_into_a_stream_that_is_over() -> None:
    session = make()
    stream = opened(session, 1, b"abc")
    piece = stream.take()
    assert piece is not None
    session.reset(stream)
    stream.put_back(piece)
    assert stream.unread_bytes == 0
    assert stream.take() is None


def test_a_stream_that_the_peer_finished_is_charged_for_its_unread_bytes_alone() -> None:
    ledger = CreditLedger(Limits())
    session = make(ledger=ledger)
    stream = opened(session, 1, b"abc")
    receive(session, frame(UPDATE, FIN, 1, 0))
    assert ledger.used_bytes == 3
    piece = stream.take(2)
    assert ledger.used_bytes == 1
    assert piece is not None
    stream.put_back(piece)
    assert ledger.used_bytes == 3


# Floods


def test_a_flood_of_refused_streams_ends_the_session_when_nobody_takes_the_answers() -> None:
    session = make(limits=Limits(streams_per_connection=1))
    session.receive(frame(UPDATE, SYN, 1, 0), 0.0)
    with pytest.raises(PeerFlood):
        for n in range(1, MAX_ANSWERS + 2):
            session.receive(frame(UPDATE, SYN, 2 * n + 1, 0), 0.0)
    assert session.queued_bytes <= 12 * MAX_ANSWERS


def test_refused_streams_are_answered_without_end_while_the_answers_are_taken() -> None:
    session = make(limits=Limits(streams_per_connection=1))
    session.receive(frame(UPDATE, SYN, 1, 0), 0.0)
    for n in range(1, 3 * MAX_ANSWERS):
        session.receive(frame(UPDATE, SYN, 2 * n + 1, 0), 0.0)
        assert session.take_control() == frame(UPDATE, RST, 2 * n + 1, 0)


def test_a_flood_of_pings_gets_a_few_answers() -> None:
    session = make()
    receive(session, *(frame(PING, SYN, 0, n) for n in range(10_000)))
    assert session.take_control() == b"".join(frame(PING, ACK, 0, n) for n in range(MAX_PONGS))
    receive(session, frame(PING, SYN, 0, 77))
    assert session.take_control() == frame(PING, ACK, 0, 77)


def test_answers_that_the_peer_provokes_in_negotiation_are_counted_too() -> None:
    session = make()
    stream = opened(session, 1)
    for _ in range(MAX_ANSWERS):
        session.send_soon(stream, b"na\n", answer=True)
    with pytest.raises(PeerFlood):
        session.send_soon(stream, b"na\n", answer=True)


def test_go_aways_and_readable_bytes_are_told_once() -> None:
    session = make()
    stream = opened(session, 1)
    events = receive(session, *[frame(GO_AWAY, 0, 0, 0)] * 100, *[frame(DATA, 0, 1, b"x")] * 100)
    assert len(events) == 2
    assert isinstance(events[0], GoneAway)
    assert unread(stream) == b"x" * 100


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=8), st.booleans())
def test_random_bytes_end_in_events_or_a_yamux_error(pieces: list[bytes], initiator: bool) -> None:
    session = make(initiator=initiator)
    with contextlib.suppress(YamuxError):
        for piece in pieces:
            receive(session, piece)
        session.receive_eof()


few_ids = st.sampled_from([0, 1, 2, 3, 4, 5, 1 << 31, MAX_STREAM_ID])
values = st.sampled_from([0, 1, 5, 12, INITIAL_WINDOW_BYTES, 1 << 31, (1 << 32) - 1])
headers = st.builds(
    HEADER.pack,
    st.sampled_from([0, 0, 0, 1]),
    st.integers(0, 4),
    st.integers(0, 15),
    few_ids,
    values,
)


@settings(max_examples=300)
@given(st.lists(st.one_of(headers, st.binary(max_size=12)), max_size=30), st.integers(1, 60))
def test_random_frames_end_in_events_or_a_yamux_error(frames: list[bytes], size: int) -> None:
    ledger = CreditLedger(Limits())
    session = make(ledger=ledger)
    session.open_stream(0.0, b"hello")
    wire = b"".join(frames)
    with contextlib.suppress(YamuxError):
        for start in range(0, len(wire), size):
            receive(session, wire[start : start + size])
    assert ledger.used_bytes <= Limits().connection_unread_max_bytes
    assert session.queued_bytes <= 12 * MAX_ANSWERS + 100


# Stream IDs


def test_skipped_ids_may_be_used_once_and_the_memory_of_them_is_bounded() -> None:
    ids = StreamIds(odd=True)
    ids.use(MAX_STREAM_ID)
    ids.use(MAX_STREAM_ID - 2)
    with pytest.raises(YamuxError):
        ids.use(MAX_STREAM_ID - 2)
    with pytest.raises(YamuxError):
        ids.use(MAX_STREAM_ID - 2 * (MAX_SKIPPED + 1))  # given up
    assert not ids.was_used(MAX_STREAM_ID - 4)
    assert len(ids._skipped) <= MAX_SKIPPED


def test_when_all_ids_are_used_no_stream_can_be_opened() -> None:
    session = make(initiator=True)
    session._next_id = MAX_STREAM_ID
    session.open_stream(0.0)
    with pytest.raises(StreamIdsExhausted):
        session.open_stream(0.0)


# Streams that we left


def test_a_peer_with_no_credit_left_is_told_at_once_that_we_closed() -> None:
    session = make()
    stream = opened(session, 1, bytes(INITIAL_WINDOW_BYTES))
    session.close(stream, 0.0)
    assert session.take_control() == frame(UPDATE, ACK | FIN, 1, 0) + frame(UPDATE, RST, 1, 0)
    assert not session.streams


def test_a_stream_closed_in_the_middle_of_a_frame_is_reset_when_the_rest_comes() -> None:
    session = make()
    stream = opened(session, 1)
    session.receive(frame(DATA, 0, 1, bytes(100))[:50], 0.0)
    session.close(stream, 0.0)
    session.take_control()
    receive(session, bytes(30))
    assert session.take_control() == frame(UPDATE, RST, 1, 0)
    assert receive(session, bytes(32), frame(DATA, SYN, 3, b"next"))  # in step again


def test_a_peer_that_does_not_finish_is_reset_after_a_while() -> None:
    session = make()
    stream = opened(session, 1)
    session.close(stream, 5.0)
    session.take_control()
    session.ping(5.0)
    session.receive(frame(PING, ACK, 0, 1), 5.0)
    due = 5.0 + LINGER_S
    assert session.next_timeout() <= due
    session.handle_timeout(due - 0.1)
    assert session.streams
    session.take_control()
    session.receive(frame(PING, ACK, 0, 2), due - 0.1)
    assert session.next_timeout() == due
    session.handle_timeout(due)
    assert session.take_control() == frame(UPDATE, RST, 1, 0)
    assert not session.streams


def test_bytes_that_came_before_a_clean_end_survive_a_reset() -> None:
    session = make()
    stream = opened(session, 1, b"all of it")
    receive(session, frame(UPDATE, FIN, 1, 0), frame(UPDATE, RST, 1, 0))
    assert stream.finished_there
    assert stream.reset_there
    assert unread(stream) == b"all of it"


# Goodbye


def test_after_a_goodbye_no_side_opens_streams_and_open_ones_go_on() -> None:
    session = make()
    stream = opened(session, 1)
    session.go_away()
    session.go_away()
    session.take_control()
    assert not receive(session, frame(UPDATE, SYN, 3, 0))
    assert session.take_control() == frame(UPDATE, RST, 3, 0)
    with pytest.raises(SessionClosing):
        session.open_stream(0.0)
    receive(session, frame(DATA, 0, 1, b"still"))
    assert unread(stream) == b"still"


def test_their_goodbye_stops_our_openings() -> None:
    session = make()
    receive(session, frame(GO_AWAY, 0, 0, 0))
    assert session.peer_left
    with pytest.raises(SessionClosing):
        session.open_stream(0.0)


def test_a_connection_that_ends_inside_a_frame_was_cut() -> None:
    session = make()
    session.receive_eof()
    receive(session, frame(DATA, SYN, 1, b"abc")[:-1])
    with pytest.raises(YamuxError, match="inside a frame"):
        session.receive_eof()


# Signs of life


def test_the_first_ping_goes_out_at_once_and_measures_the_round_trip() -> None:
    session = make()
    assert session.next_timeout() == 0.0
    session.handle_timeout(0.0)
    assert session.take_control() == frame(PING, SYN, 0, 1)
    assert session.rtt_s is None
    receive(session, frame(PING, ACK, 0, 1), now=0.25)
    assert session.rtt_s == 0.25
    assert session.next_timeout() == 1.0  # the first pings follow quickly, while the link is idle
    for now in (1.0, 2.0):
        session.handle_timeout(now)
        nonce = int.from_bytes(session.take_control()[-4:])
        receive(session, frame(PING, ACK, 0, nonce), now=now + 0.25)
    assert session.next_timeout() == 2.0 + Limits().keep_alive_s


def test_an_answer_to_another_ping_measures_nothing() -> None:
    session = make()
    session.handle_timeout(0.0)
    assert not receive(session, frame(PING, ACK, 0, 2), now=0.1)
    assert session.rtt_s is None


def test_a_better_round_trip_is_believed_at_once_and_a_worse_one_slowly() -> None:
    session = make()
    for at, took in [(0.0, 0.2), (15.0, 0.1), (30.0, 0.5)]:
        session.handle_timeout(at)
        nonce = int.from_bytes(session.take_control()[-4:])
        receive(session, frame(PING, ACK, 0, nonce), now=at + took)
    assert session.rtt_s == pytest.approx(0.15)


def test_a_silent_peer_is_given_up() -> None:
    session = make()
    session.handle_timeout(0.0)
    assert session.next_timeout() == Limits().keep_alive_timeout_s
    session.handle_timeout(14.9)
    with pytest.raises(PeerSilent):
        session.handle_timeout(15.0)


def test_a_peer_that_sends_but_does_not_answer_pings_is_alive() -> None:
    session = make()
    session.handle_timeout(0.0)
    receive(session, frame(DATA, SYN, 1, b"busy"), now=14.0)
    session.handle_timeout(15.0)
    assert session.next_timeout() == 29.0
    with pytest.raises(PeerSilent, match="15"):
        session.handle_timeout(29.0)


def test_every_error_of_the_session_has_a_code_and_a_hint() -> None:
    def walk(kind: type[LatticaError]) -> list[type[LatticaError]]:
        return [kind, *(each for sub in kind.__subclasses__() for each in walk(sub))]

    errors: list[type[LatticaError]] = [PeerSilent, SessionClosing, StreamLimit, StreamIdsExhausted]
    errors += walk(YamuxError)
    assert len({error.code for error in errors}) == len(errors)
    assert all(error.hint for error in errors)
