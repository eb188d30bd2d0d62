"""Whom to offer a message to while a task waits for it: see `Stream.receive_message`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Prompt:
    """An offer that stands, and what came of it.

    Attributes:
        max_size: of a message, in bytes.
        offer: takes a message; says whether it has dealt with it.
        declined: the message that it has not dealt with, for the task that waits.
        error: what `offer`, or reading the message, has raised; for that task as well.
    """

    __slots__ = ("declined", "error", "max_size", "offer")

    def __init__(self, max_size: int, offer: Callable[[bytes], bool]) -> None:
        self.max_size, self.offer = max_size, offer
        self.declined: bytes | None = None
        self.error: Exception | None = None

    def is_over(self) -> bool:
        """Whether the task has to wake before the next message is offered."""
        return self.declined is not None or self.error is not None
