"""How windows size themselves, and what goes out in one batch."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from lattica.transport.limits import Limits
from lattica.transport.yamux import INITIAL_WINDOW_BYTES, CreditLedger, Opened, Session, Substream
from lattica.transport.yamux._frames import MAX_BODY_BYTES
from lattica.transport.yamux._session import JOINED_BYTES, MAX_BATCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
NOISE_PLAINTEXT = 65_519


class Transfer:
    """A sender that always has more, a receiver that reads at a rate, a path with a round trip."""

    def __init__(self, *, rtt_s: float, ledger: CreditLedger | None = None) -> None:
        self.limits = Limits()
        self.ledger = ledger or CreditLedger(self.limits)
        self.now, self.rtt_s = 0.0, rtt_s
        self.sender = self._session(CreditLedger(self.limits), initiator=True)
        self.receiver = self._session(self.ledger, initiator=False)
        self.updates = 0
        self.receiver.ping(0.0)
        self.sender.receive(self.receiver.take_control(), 0.0)
        self.now = rtt_s
        self.receiver.receive(self.sender.take_control(), self.now)

    def _session(self, ledger: CreditLedger, *, initiator: bool) -> Session:
        account = ledger.open_account()
        return Session(initiator=initiator, account=account, limits=self.limits, now=0.0)

    def open_stream(self) -> tuple[Substream, Substream]:
        near = self.sender.open_stream(self.now)
        self.receiver.receive(self.sender.take_control(), self.now)
        event = self.receiver.events()[-1]
        assert isinstance(event, Opened)
        return near, event.stream

    def run(self, near: Substream, far: Substream, total: int, *, bytes_per_s: float) -> None:
        """Move `total` bytes; the receiver reads each batch as it comes, at its rate."""
        data = memoryview(bytes(MIB))
        while total > 0:
            buffers, size = self.sender.batch(near, data[: min(total, MIB)])
            assert size, "the window closed for good"
            total -= size
            self.now += size / bytes_per_s
            for buffer in buffers:
                self.receiver.receive(buffer, self.now)
            while far.take() is not None:
                if far.wants_grant:
                    self.receiver.grant(far, self.now)
            self.receiver.events()
            if self.receiver.has_control:
                self.updates += 1
                self.sender.receive(self.receiver.take_control(), self.now)


def test_the_window_of_a_fast_reader_grows_to_16_mib_and_credit_goes_back_in_large_steps() -> None:
    transfer = Transfer(rtt_s=0.0002)
    near, far = transfer.open_stream()
    transfer.run(near, far, 32 * MIB, bytes_per_s=1e9)
    assert far.window_bytes == 16 * MIB
    before = transfer.updates
    transfer.run(near, far, 512 * MIB, bytes_per_s=1e9)
    assert far.window_bytes == 16 * MIB
    assert transfer.updates - before <= 512 / 8
    assert transfer.ledger.used_bytes == 16 * MIB


def test_where_the_round_trip_is_long_the_window_grows_to_64_mib() -> None:
    transfer = Transfer(rtt_s=0.05)
    near, far = transfer.open_stream()
    transfer.run(near, far, 512 * MIB, bytes_per_s=1e9)
    assert far.window_bytes == 64 * MIB


def test_the_window_is_no_larger_than_the_rate_and_the_round_trip_ask_for() -> None:
    transfer = Transfer(rtt_s=0.05)
    near, far = transfer.open_stream()
    transfer.run(near, far, 64 * MIB, bytes_per_s=5e6)
    needed = 5e6 * 0.05
    assert 2 * needed < far.window_bytes < 16 * needed


def test_the_window_of_a_slow_reader_stays_small() -> None:
    transfer = Transfer(rtt_s=0.0002)
    near, far = transfer.open_stream()
    transfer.run(near, far, 8 * MIB, bytes_per_s=1e6)
    assert far.window_bytes == INITIAL_WINDOW_BYTES


def test_the_windows_of_a_connection_grow_to_32_mib_together() -> None:
    transfer = Transfer(rtt_s=0.0002)
    pairs = [transfer.open_stream() for _ in range(4)]
    for near, far in pairs:
        transfer.run(near, far, 128 * MIB, bytes_per_s=1e9)
    assert transfer.ledger.used_bytes <= 32 * MIB
    assert [far.window_bytes for _, far in pairs][:1] == [16 * MIB]


def test_windows_of_many_connections_leave_the_last_quarter_of_the_node_alone() -> None:
    ledger = CreditLedger(Limits())
    for _ in range(10):
        transfer = Transfer(rtt_s=0.0002, ledger=ledger)
        transfer.run(*transfer.open_stream(), 128 * MIB, bytes_per_s=1e9)
    assert 64 * MIB < ledger.used_bytes <= 96 * MIB + 10 * INITIAL_WINDOW_BYTES


def test_windows_shrink_when_the_node_has_promised_most_of_its_memory() -> None:
    transfer = Transfer(rtt_s=0.0002)
    near, far = transfer.open_stream()
    transfer.run(near, far, 128 * MIB, bytes_per_s=1e9)
    hogs = [transfer.ledger.open_account() for _ in range(64)]
    while any(hog.admit(ours=False) for hog in hogs):
        pass
    transfer.run(near, far, 128 * MIB, bytes_per_s=1e9)
    assert far.window_bytes == INITIAL_WINDOW_BYTES
    for hog in hogs:
        hog.close()
    transfer.run(near, far, 128 * MIB, bytes_per_s=1e9)
    assert far.window_bytes == 16 * MIB


def test_credit_that_waits_goes_out_as_one_frame_and_not_for_a_stream_that_ended() -> None:
    transfer = Transfer(rtt_s=0.0002)
    near, far = transfer.open_stream()
    for _ in range(2):
        buffers, _ = transfer.sender.batch(near, memoryview(bytes(128 * 1024)))
        transfer.now += 1.0
        transfer.receiver.receive(b"".join(buffers), transfer.now)
        while far.take() is not None:
            pass
        transfer.receiver.grant(far, transfer.now)
    update = transfer.receiver.take_control()
    assert update == struct.pack("!BBHII", 0, 1, 2, 1, 256 * 1024)  # the first frame acknowledges
    buffers, _ = transfer.sender.batch(near, memoryview(bytes(128 * 1024)))
    transfer.receiver.receive(b"".join(buffers), transfer.now)
    while far.take() is not None:
        pass
    transfer.receiver.grant(far, transfer.now)
    transfer.sender.finish(near)
    transfer.receiver.receive(transfer.sender.take_control(), transfer.now)
    assert not transfer.receiver.has_control


def _frames(buffers: list[bytes | memoryview]) -> Iterator[int]:
    wire = memoryview(b"".join(buffers))
    while wire:
        size = int.from_bytes(wire[8:12])
        yield size
        wire = wire[12 + size :]


def _wide_open() -> tuple[Session, Substream]:
    transfer = Transfer(rtt_s=0.0002)
    near, _ = transfer.open_stream()
    near.send_credit_bytes = 64 * MIB
    return transfer.sender, near


@pytest.mark.parametrize("size", [1, JOINED_BYTES, JOINED_BYTES + 1, 65_536, 300_000, MIB, 3 * MIB])
def test_frames_are_less_than_1_mib_and_a_batch_is_one_turn_on_the_link(size: int) -> None:
    session, stream = _wide_open()
    data = memoryview(bytes(size))
    buffers, taken = session.batch(stream, data)
    bodies = list(_frames(buffers))
    assert sum(bodies) == taken == min(size, MAX_BATCH_BYTES)
    assert max(bodies) <= MAX_BODY_BYTES <= MIB


def test_the_bodies_of_a_large_write_are_the_callers_memory() -> None:
    session, stream = _wide_open()
    data = bytes(MIB)
    buffers, _ = session.batch(stream, memoryview(data))
    bodies = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
    assert sum(map(len, bodies)) >= MAX_BODY_BYTES
    assert all(body.obj is data for body in bodies)
    assert not MAX_BODY_BYTES % NOISE_PLAINTEXT  # so that no Noise message is left half full


def test_a_small_write_is_one_buffer_with_the_control_frames_before_it() -> None:
    session, stream = _wide_open()
    session.ping(1.0)
    buffers, taken = session.batch(stream, memoryview(b"request"))
    assert taken == 7
    assert len(buffers) == 1
    assert buffers[0][1] == 2  # a ping
    assert buffers[0][-7:] == b"request"
    assert not session.has_control


def test_a_batch_takes_no_more_than_the_window_and_control_goes_out_all_the_same() -> None:
    session, stream = _wide_open()
    stream.send_credit_bytes = 10
    buffers, taken = session.batch(stream, memoryview(bytes(100)))
    assert (list(_frames(buffers)), taken) == ([10], 10)
    session.finish(stream)
    buffers, taken = session.batch(stream, memoryview(bytes(100)))
    assert (len(b"".join(buffers)), taken) == (12, 0)
    assert not stream.can_send
