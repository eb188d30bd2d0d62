"""What the router hands out: messages, verdicts on them, counters."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.identity import PeerId


class Verdict(enum.Enum):
    """What a validator says of a message.

    ACCEPT delivers it and passes it on. IGNORE drops it. REJECT drops it and holds it against the
    peer that sent it: only for what no honest peer would pass on.
    """

    ACCEPT = enum.auto()
    IGNORE = enum.auto()
    REJECT = enum.auto()


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the application gets it. Its signature held.

    It comes once within two minutes. Later anybody may send it again, as its author signed it; who
    must not act twice on the same message compares `sequence`.

    Attributes:
        topic: where it was published.
        data: the payload.
        author: who published it.
        sequence: the author's number for it; larger is later.
        received_from: the peer that brought it, which need not be the author.
    """

    topic: str
    data: bytes = field(repr=False)
    author: PeerId
    sequence: int
    received_from: PeerId


@dataclass(slots=True)
class Statistics:
    """Counters since the router was made.

    Attributes:
        published: messages of ours.
        delivered: messages handed to the application.
        duplicates: messages that had been seen.
        invalid: messages malformed, forged or rejected.
        ignored: messages of a topic not joined, or that a validator ignored.
        graylisted: RPCs thrown away unread.
        malformed: RPCs that were none.
        floods: RPCs of peers that had said too much in this heartbeat already.
        queue_drops: messages dropped because a peer was too slow to take them.
        recovered: messages sent to a peer that asked.
        broken_promises: messages announced, asked for, and never sent.
        foreign_ids: message names in a spelling that we do not know.
    """

    published: int = 0
    delivered: int = 0
    duplicates: int = 0
    invalid: int = 0
    ignored: int = 0
    graylisted: int = 0
    malformed: int = 0
    floods: int = 0
    queue_drops: int = 0
    recovered: int = 0
    broken_promises: int = 0
    foreign_ids: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


Validator = Callable[[Message], Verdict]
