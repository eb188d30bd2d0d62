"""From what the layers tell to what callers see."""

from __future__ import annotations

from lattica._report import FetchReporter, reporter
from lattica.cid import CID
from lattica.content import (
    BadLeaf,
    FetchProgress,
    FetchStarted,
    LeafMismatch,
    ProviderJoined,
    ProviderLeft,
    ProviderSlow,
)
from lattica.identity import Identity
from lattica.results import Phase, Progress

CID_ = CID.of(b"x")
A, B = (Identity(bytes([number]) * 32).peer_id for number in (1, 2))


def test_a_fetch_is_reported_from_looking_to_the_last_byte() -> None:
    seen: list[Progress] = []
    fetch = FetchReporter(seen.append)
    fetch.looking()
    fetch(ProviderJoined(A))
    fetch(FetchStarted(CID_, 100, 10))
    fetch.looking()  # says nothing any more
    fetch(ProviderJoined(B))
    fetch(FetchProgress(CID_, 100, 60, 50, {}))
    fetch(ProviderLeft(A, "it went away"))
    fetch(FetchProgress(CID_, 100, 100, 90, {}))
    assert seen.pop(4).news == f"{A.short} is not asked for now: it went away"
    assert fetch.last_news == f"{A.short} is not asked for now: it went away"
    assert seen == [
        Progress(Phase.FIND, 0, None, 0),
        Progress(Phase.FIND, 0, None, 1),
        Progress(Phase.FETCH, 10, 100, 1, 0),
        Progress(Phase.FETCH, 60, 100, 2, 50),
        Progress(Phase.FETCH, 100, 100, 1, 90),
    ]


def test_a_long_reason_is_cut_to_a_line() -> None:
    seen: list[Progress] = []
    fetch = FetchReporter(seen.append)
    fetch(ProviderLeft(A, f"cannot reach {A}: " + "/ip4/192.0.2.1/tcp/1: refused; " * 20))
    (news,) = [report.news for report in seen if report.news]
    assert news.startswith(f"{A.short} is not asked for now: cannot reach {A.short}: /ip4")
    assert len(news) < 220


def test_a_peer_that_was_never_there_is_no_news_while_others_serve() -> None:
    seen: list[Progress] = []
    fetch = FetchReporter(seen.append)
    fetch(ProviderLeft(B, "cannot reach it"))
    assert seen[-1].news, "nobody serves: this may be why"
    fetch(ProviderJoined(A))
    told = len(seen)
    fetch(ProviderLeft(B, "cannot reach it"))
    assert len(seen) == told
    fetch(ProviderLeft(A, "it went away"))
    assert "it went away" in seen[-1].news


def test_a_lie_and_a_silence_are_news() -> None:
    seen: list[Progress] = []
    fetch = FetchReporter(seen.append)
    fetch(FetchStarted(CID_, 100, 10))
    fetch(BadLeaf(LeafMismatch(cid=CID_, leaf=7, offset=0, path="", peer=A)))
    fetch(ProviderSlow(B, 4.0))
    lie, silence = seen[1:]
    assert "leaf 7" in lie.news
    assert str(A) in lie.news
    assert "silent for 4 s" in silence.news
    assert lie.done_bytes == silence.done_bytes == 10


def test_nobody_needs_to_listen() -> None:
    FetchReporter(None)(FetchStarted(CID_, 1, 0))
    reporter(None, Phase.HASH, 1)(1)


def test_a_count_ends_at_the_total_even_when_the_guess_was_low() -> None:
    seen: list[Progress] = []
    add = reporter(seen.append, Phase.HASH, 10)
    for _ in range(3):
        add(5)
    assert seen[-1] == Progress(Phase.HASH, 15, 15)
