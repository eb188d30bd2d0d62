"""Room set aside, so that something can be deleted from a disk that is full.

To delete an object takes a few pages of the index first. Where there is no room even for those,
the store gives up a file that it has kept for this.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ._values import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPARE = "spare"  # its name in the store
SPARE_BYTES = 256 << 10
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Spare:
    """The room that one store has set aside."""

    def __init__(self, folder: Path) -> None:
        """Set it aside in `folder`, if the disk has it, and it is not there yet."""
        self._path = folder / SPARE
        self.keep()

    def keep(self) -> None:
        """*Slow.* Set it aside, if the disk has it."""
        if self._path.exists():
            return
        try:
            with self._path.open("xb") as file:
                file.write(bytes(SPARE_BYTES))  # not a hole, which would set nothing aside
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                self._path.unlink()

    def spend_on(self, work: Callable[[], _T]) -> _T:
        """*Slow.* Do what makes room; where it lacks some itself, with what was set aside."""
        try:
            return work()
        except StorageError as error:
            try:
                self._path.unlink()
            except OSError:  # it was spent before
                raise error from None
            _log.warning("the disk is full: room that was set aside is given up")
            return work()
        finally:
            self.keep()


def unless_full(work: Callable[[], object]) -> None:
    """Do what can as well be left undone where the disk refuses it."""
    try:
        work()
    except StorageError as error:
        _log.warning("left undone: %s", error)
