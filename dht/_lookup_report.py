"""What a lookup did, for whoever started it and for people."""

from __future__ import annotations

import enum
from dataclasses import dataclass

TIMED_OUT = "timed out"


class Outcome(enum.Enum):
    """Why a lookup ended, or did not find what it was for."""

    RUNNING = "running"
    COMPLETE = "complete"  # the nearest peers have all answered
    SATISFIED = "satisfied"  # it was stopped: what was sought is found
    NOBODY_KNOWN = "no peer known"
    NO_ANSWER = "no answer"
    TOO_MANY = "too many peers asked"
    OUT_OF_TIME = "out of time"


@dataclass(frozen=True, slots=True)
class LookupReport:
    """What a lookup did.

    Attributes:
        asked: peers that were sent a request.
        answered: peers that answered it.
        failures: how many of the others failed, by why.
        hops: steps from our own contacts to the furthest peer that answered.
        seconds: how long it took.
        paths: disjoint paths on which anybody has answered.
        outcome: why it ended.
    """

    asked: int
    answered: int
    failures: dict[str, int]
    hops: int
    seconds: float
    paths: int = 1
    outcome: Outcome = Outcome.COMPLETE

    @property
    def complete(self) -> bool:
        """Whether the nearest peers have all answered. False: it was stopped, or ran out."""
        return self.outcome is Outcome.COMPLETE

    @property
    def failed(self) -> int:
        """How many requests failed, those that timed out included."""
        return sum(self.failures.values())

    @property
    def timed_out(self) -> int:
        """How many requests failed because no answer came in time."""
        return self.failures.get(TIMED_OUT, 0)

    def __str__(self) -> str:
        if not self.asked:
            return "no peer could be asked: none is known"
        text = f"asked {self.asked} peers, {self.answered} answered"
        if self.failures:
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(self.failures.items()))
            text += f" ({reasons})"
        if self.outcome in (Outcome.TOO_MANY, Outcome.OUT_OF_TIME):
            text += f"; {self.outcome.value}"
        return text
