"""From what the layers tell while they work to the `Progress` that callers see."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from lattica.content import BadLeaf, FetchProgress, FetchStarted, ProviderJoined, ProviderLeft
from lattica.results import Phase, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.content import FetchEvent
    from lattica.identity import PeerId
    from lattica.results import ProgressCallback

_INTERVAL_S = 0.1

logger = logging.getLogger(__name__)


def reporter(
    callback: ProgressCallback | None, phase: Phase, total_bytes: int
) -> Callable[[int], None]:
    """Return a function that is told of bytes as they are done and reports their sum."""
    done, due = 0, 0.0

    def add(size: int) -> None:
        nonlocal done, due
        done += size
        now = time.monotonic()
        if callback is not None and (now >= due or done >= total_bytes):
            due = now + _INTERVAL_S
            callback(Progress(phase, done, max(total_bytes, done)))

    return add


def report_fetch(callback: ProgressCallback | None) -> Callable[[FetchEvent], None]:
    """Return a function that turns a fetch's events into reports and log lines."""
    peers: set[PeerId] = set()

    def tell(event: FetchEvent) -> None:
        report = None
        match event:
            case ProviderJoined(peer):
                peers.add(peer)
                report = Progress(Phase.FIND, 0, None, len(peers))
            case ProviderLeft(peer, reason):
                peers.discard(peer)
                logger.info("%s is not asked any more: %s", peer.short, reason)
            case BadLeaf(error):
                logger.warning("%s; that peer is not asked again", error)
            case FetchStarted(_, size, verified):
                report = Progress(Phase.FETCH, verified, size, len(peers))
            case FetchProgress(_, size, verified, received):
                report = Progress(Phase.FETCH, verified, size, len(peers), received)
        if report is not None and callback is not None:
            callback(report)

    return tell
