"""Two sessions on a wire that cuts anywhere deliver what was sent, in order, within windows."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from lattica.transport.limits import Limits
from lattica.transport.yamux import (
    INITIAL_WINDOW_BYTES,
    CreditLedger,
    Opened,
    Reset,
    Session,
    StreamLimit,
    Substream,
)
from lattica.transport.yamux._frames import MAX_BODY_BYTES

LIMITS = Limits(
    streams_per_connection=6,
    stream_unread_bytes=1 << 20,
    stream_unread_max_bytes=2 << 20,
    connection_unread_bytes=2 << 20,
    connection_unread_max_bytes=3 << 20,
    node_unread_bytes=4 << 20,
)
PATTERN = bytes(range(251)) * 2000  # its period does not divide any frame size


@dataclass(eq=False)
class End:
    """One end of the connection and what it should have seen."""

    session: Session
    ledger: CreditLedger
    wire: bytearray = field(default_factory=bytearray)  # on its way to the other end
    streams: dict[int, Substream] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)  # by us or, as we were told, by the peer


class TwoSessions(RuleBasedStateMachine):
    streams = Bundle("streams")

    @initialize(target=streams)
    def connect(self) -> tuple[bool, int]:
        self.now = 0.0
        self.ends = []
        for initiator in (True, False):
            ledger = CreditLedger(LIMITS)
            account = ledger.open_account()
            session = Session(initiator=initiator, account=account, limits=LIMITS, now=0.0)
            self.ends.append(End(session, ledger))
        return True, self._open(True)

    @rule(target=streams, side=st.booleans())
    def open_stream(self, side: bool) -> tuple[bool, int]:
        return side, self._open(side)

    @rule(which=streams, far=st.booleans(), size=st.sampled_from([0, 1, 77, 5000, 70_000, 400_000]))
    def send(self, which: tuple[bool, int], far: bool, size: int) -> None:
        end, stream = self._pick(which, far)
        if stream is None or not stream.can_send:
            return
        start = end.sent.get(stream.id, 0)
        data = memoryview(PATTERN)[start % 251 :][:size]
        buffers, taken = end.session.batch(stream, data)
        end.wire += b"".join(buffers)
        end.sent[stream.id] = start + taken

    @rule(which=streams, far=st.booleans(), rounds=st.integers(1, 6))
    def stream_along(self, which: tuple[bool, int], far: bool, rounds: int) -> None:
        for _ in range(rounds):
            self.send(which, far, 400_000)
            self.now += 0.001
            self._deliver_everything()
            self.read(which, not far, None)

    @rule(which=streams, far=st.booleans(), most=st.sampled_from([None, 1, 100, 65_536]))
    def read(self, which: tuple[bool, int], far: bool, most: int | None) -> None:
        end, stream = self._pick(which, far)
        if stream is not None:
            self._read(end, stream, most)

    @rule(which=streams, far=st.booleans())
    def read_and_put_back(self, which: tuple[bool, int], far: bool) -> None:
        _, stream = self._pick(which, far)
        if stream is not None and (piece := stream.take(1000)) is not None:
            stream.put_back(piece)

    @rule(which=streams, far=st.booleans())
    def finish(self, which: tuple[bool, int], far: bool) -> None:
        end, stream = self._pick(which, far)
        if stream is not None:
            end.session.finish(stream)

    @rule(which=streams, far=st.booleans(), politely=st.booleans())
    def leave(self, which: tuple[bool, int], far: bool, politely: bool) -> None:
        end, stream = self._pick(which, far)
        if stream is not None:
            end.given_up.add(stream.id)
            if politely:
                end.session.close(stream, self.now)
            else:
                end.session.reset(stream)

    @rule(seconds=st.sampled_from([0.001, 0.1, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for end in self.ends:
            end.session.handle_timeout(self.now)
        self._deliver_everything()  # so that nobody is taken for dead

    @rule(side=st.booleans(), size=st.sampled_from([1, 5, 11, 12, 13, 500, 65_519, 1 << 20]))
    def deliver(self, side: bool, size: int) -> None:
        end, other = self.ends[side], self.ends[not side]
        end.wire += end.session.take_control()
        piece = bytes(end.wire[:size])
        del end.wire[:size]
        other.session.receive(piece, self.now)
        for event in other.session.events():
            if isinstance(event, Opened):
                other.streams[event.stream.id] = event.stream
            elif isinstance(event, Reset):
                other.given_up.add(event.stream.id)
                if not event.stream.finished_there:
                    event.stream.discard()

    @invariant()
    def the_books_balance(self) -> None:
        for end in self.ends:
            charged = 0
            for stream in end.streams.values():
                charged += stream.window_bytes
                if not (stream.finished_there or stream.closed or stream.reset_there):
                    held = stream.credit_bytes + stream.unread_bytes + stream.returnable_bytes
                    assert (
                        0 <= stream.window_bytes - held <= MAX_BODY_BYTES
                    )  # what is arriving right now
                assert stream.unread_bytes <= max(stream.window_bytes, INITIAL_WINDOW_BYTES)
            assert end.ledger.used_bytes == charged <= LIMITS.connection_unread_max_bytes

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        self._deliver_everything()
        for end in self.ends:
            for stream in end.streams.values():
                end.session.finish(stream)
        self._deliver_everything()
        for side in (False, True):
            end, other = self.ends[side], self.ends[not side]
            for stream_id, stream in end.streams.items():
                while self._read(end, stream, None):
                    pass
                if stream_id not in end.given_up | other.given_up:
                    assert stream.finished_there
                    assert end.received.get(stream_id, 0) == other.sent.get(stream_id, 0)
            assert end.ledger.used_bytes == 0
            assert not [stream for stream in end.session.streams if not stream.closed]

    def _open(self, side: bool) -> int:
        end = self.ends[side]
        try:
            stream = end.session.open_stream(self.now, PATTERN[:5])
        except StreamLimit:
            return 0
        end.streams[stream.id] = stream
        end.sent[stream.id] = 5
        return stream.id

    def _pick(self, which: tuple[bool, int], far: bool) -> tuple[End, Substream | None]:
        side, stream_id = which
        end = self.ends[side ^ far]
        stream = end.streams.get(stream_id)
        return end, None if stream_id in end.given_up else stream

    def _read(self, end: End, stream: Substream, most: int | None) -> int:
        start = end.received.get(stream.id, 0)
        total = 0
        while (piece := stream.take(most)) is not None:
            data = bytes(piece)
            at = (start + total) % 251
            assert data == PATTERN[at : at + len(data)]
            total += len(data)
            if stream.wants_grant:
                end.session.grant(stream, self.now)
        end.received[stream.id] = start + total
        return total

    def _deliver_everything(self) -> None:
        while any(end.wire or end.session.has_control for end in self.ends):
            self.deliver(False, 1 << 20)
            self.deliver(True, 1 << 20)


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
