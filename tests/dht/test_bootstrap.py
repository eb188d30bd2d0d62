"""Bootstrap addresses: a state that can be looked at, tried again at growing intervals."""

from __future__ import annotations

import random

from lattica.dht._bootstrap import (
    FIRST_RETRY_SECONDS,
    LONELY_RETRY_SECONDS,
    RETRY_SECONDS,
    STEADY_SECONDS,
    Bootstrap,
    BootstrapPhase,
)
from lattica.identity import PeerId
from lattica.transport import Multiaddr

ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
PEER = PeerId(b"\x12\x20" + bytes(32))


def failures(count: int, *, lonely: bool) -> list[float]:
    bootstrap, rng, now, delays = Bootstrap(ADDRESS), random.Random(1), 0.0, []
    for _ in range(count):
        bootstrap.trying()
        again_at = bootstrap.lost("refused", now=now, lonely=lonely, rng=rng)
        delays.append(again_at - now)
        now = again_at
    return delays


def test_retries_come_at_growing_intervals_with_some_chance_in_them() -> None:
    delays = failures(14, lonely=False)
    assert FIRST_RETRY_SECONDS <= delays[0] <= 2 * FIRST_RETRY_SECONDS
    assert all(RETRY_SECONDS / 2 <= delay <= RETRY_SECONDS for delay in delays[10:])
    assert len(set(delays[10:])) > 1


def test_a_lonely_node_tries_more_often() -> None:
    assert max(failures(14, lonely=True)) <= LONELY_RETRY_SECONDS


def test_the_status_says_why_and_when_again() -> None:
    bootstrap = Bootstrap(ADDRESS)
    assert bootstrap.status(0.0).phase is BootstrapPhase.TRYING
    bootstrap.trying()
    again_at = bootstrap.lost("nobody listens", now=5.0, lonely=True, rng=random.Random(1))
    status = bootstrap.status(5.0)
    assert (status.phase, status.attempts, status.error, status.retry_in) == (
        BootstrapPhase.FAILED,
        1,
        "nobody listens",
        again_at - 5.0,
    )
    assert bootstrap.status(again_at + 9.0).retry_in == 0.0
    bootstrap.trying()
    assert bootstrap.status(6.0).error == "nobody listens"
    assert bootstrap.settled


def test_a_connection_that_held_makes_up_for_earlier_failures() -> None:
    bootstrap, rng = Bootstrap(ADDRESS), random.Random(1)
    for _ in range(8):
        bootstrap.trying()
        bootstrap.lost("refused", now=0.0, lonely=True, rng=rng)
    bootstrap.trying()
    bootstrap.connected(PEER, now=100.0)
    status = bootstrap.status(100.0)
    assert (status.peer, status.phase, status.error) == (PEER, BootstrapPhase.CONNECTED, None)
    assert not bootstrap.settled
    again_at = bootstrap.lost("closed", now=100.0 + STEADY_SECONDS, lonely=True, rng=rng)
    assert again_at <= 100.0 + STEADY_SECONDS + 2 * FIRST_RETRY_SECONDS


def test_a_connection_of_no_use_is_said_to_be_so() -> None:
    bootstrap = Bootstrap(ADDRESS)
    bootstrap.identified("too early")
    assert bootstrap.error is None
    bootstrap.trying()
    bootstrap.connected(PEER, now=0.0)
    bootstrap.identified("it does not serve /x")
    assert bootstrap.settled
    assert bootstrap.status(0.0).error == "it does not serve /x"
    bootstrap.identified(None)
    assert not bootstrap.settled


def test_our_own_address_is_nothing_to_wait_for() -> None:
    bootstrap = Bootstrap(ADDRESS)
    bootstrap.trying()
    bootstrap.is_ourselves()
    assert bootstrap.settled
    assert bootstrap.status(0.0).phase is BootstrapPhase.OURSELVES
