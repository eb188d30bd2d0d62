"""How long a fetch goes on while nothing comes of it. Pure: `now` is passed in, in seconds."""

from __future__ import annotations


class Patience:
    """The patience of one fetch.

    It ends some time after the last contact with anybody where nobody is there, or nothing can be
    asked of who is; and, whatever is asked, when nothing was gained for very long.

    Attributes:
        seconds: to wait for somebody to ask.
        last_contact: when somebody came or went last, who may help.
        last_gain: when something was verified last.
    """

    def __init__(self, seconds: float, stall_seconds: float) -> None:
        self.seconds = seconds
        self.last_contact = self.last_gain = 0.0
        self._stall_seconds = stall_seconds

    def start(self, now: float) -> None:
        """Begin anew."""
        self.last_contact = self.last_gain = now

    @property
    def stalled_at(self) -> float:
        """When the fetch ends, although somebody is asked, if nothing is gained until then."""
        return self.last_gain + max(self._stall_seconds, self.seconds)

    def ends_at(self, *, asking: bool, waiting: bool) -> float:
        """When it ends as things are.

        Args:
            asking: something is asked for, or could be.
            waiting: somebody is there who may come to have more. Who has just come may be idle
                until it has told what it holds.
        """
        if asking:
            return self.stalled_at
        since = max(self.last_gain, self.last_contact) if waiting else self.last_contact
        return min(since + self.seconds, self.stalled_at)
