"""From what the layers tell while they work to the `Progress` that callers see."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lattica.content import (
    BadLeaf,
    FetchProgress,
    FetchStarted,
    OriginLeft,
    OriginUsed,
    ProviderJoined,
    ProviderLeft,
    ProviderSlow,
)
from lattica.results import Phase, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.content import FetchEvent
    from lattica.identity import PeerId
    from lattica.results import ProgressCallback

_INTERVAL_S = 0.1
_MAX_REASON = 160  # characters of a reason, in a line that passes by

logger = logging.getLogger(__name__)


def reporter(
    callback: ProgressCallback | None,
    phase: Phase,
    total_bytes: int,
    received: Callable[[], int] | None = None,
) -> Callable[[int], None]:
    """Return a function that is told of bytes as they are done and reports their sum.

    `received` says how many came over the network so far.
    """
    done, due = 0, 0.0

    def add(size: int) -> None:
        nonlocal done, due
        done += size
        now = time.monotonic()
        if callback is not None and (now >= due or done >= total_bytes):
            due = now + _INTERVAL_S
            came = received() if received is not None else 0
            callback(Progress(phase, done, max(total_bytes, done), received_bytes=came))

    return add


class FetchReporter:
    """Turns a fetch's events into reports and log lines. Call it with each event.

    Attributes:
        last_news: the latest thing that went wrong, for whoever gives up waiting; else empty.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._peers: set[PeerId] = set()
        self._latest = Progress(Phase.FIND, 0)
        self.last_news = ""

    def looking(self) -> None:
        """Report that providers are looked for, until it is known what is fetched."""
        if self._latest.phase is Phase.FIND:
            self._report(Progress(Phase.FIND, 0, None, len(self._peers)))

    def __call__(self, event: FetchEvent) -> None:
        """Take the next event."""
        match event:
            case ProviderJoined(peer):
                self._peers.add(peer)
                self.looking()
            case ProviderLeft(peer, reason):
                news = f"{peer.short} is not asked for now: {_shortened(reason, peer)}"
                if peer in self._peers or not self._peers:
                    self._peers.discard(peer)
                    self.tell(news)
                else:  # somebody said that it has it, and others do: nobody misses it
                    logger.debug("%s", news)
            case ProviderSlow(peer, seconds):
                self.tell(f"{peer.short} is silent for {seconds:.0f} s: others do its work")
            case OriginUsed(name):
                self.tell(f"no peer serves it: reading from {name}")
            case OriginLeft(name, reason):
                self.tell(f"{name} is not read for now: {reason}")
            case BadLeaf(error):
                self.tell(f"{error}; it was not written, and that peer is asked no more")
            case FetchStarted(_, size, verified):
                self._report(Progress(Phase.FETCH, verified, size, len(self._peers)))
            case FetchProgress(_, size, verified, received, _, wire):
                peers = len(self._peers)
                self._report(Progress(Phase.FETCH, verified, size, peers, received, wire))

    def tell(self, news: str) -> None:
        logger.info("%s", news)
        self.last_news = news
        self._report(replace(self._latest, news=news))

    def _report(self, progress: Progress) -> None:
        self._latest = replace(progress, news="")
        if self._callback is not None:
            self._callback(progress)


def _shortened(reason: str, peer: PeerId) -> str:
    """Return what of a reason fits a line: the error of a get that fails for it says all."""
    text = reason.replace(str(peer), peer.short)
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"
