"""Files kept open between uses: some, whatever the number of files.

Opening a file for each read or write would cost more than small ones take; keeping thousands open
would use up what the operating system grants a process, which its connections need, too.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")


@dataclass(slots=True)
class OpenFile(Generic[_T]):
    """A file descriptor, and what its user wants to know of the file."""

    descriptor: int
    about: _T
    users: int = 0
    retired: bool = False  # closed by its last user


class OpenFiles(Generic[_T]):
    """Files that are open, by number. Safe to use from any thread."""

    def __init__(self, most: int) -> None:
        """Keep at most `most` files open that nobody uses."""
        self._most = most
        self._open: OrderedDict[int, OpenFile[_T]] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    @contextmanager
    def using(
        self, number: int, open_file: Callable[[], OpenFile[_T] | None]
    ) -> Iterator[OpenFile[_T] | None]:
        """Use a file, opening it if need be; None if `open_file` gives None."""
        file = self._take(number) or self._add(number, open_file())
        try:
            yield file
        finally:
            if file is not None:
                with self._lock:
                    file.users -= 1
                    if file.retired and file.users == 0:
                        os.close(file.descriptor)

    def forget(self, number: int) -> None:
        """Close a file, if it is open, once nobody uses it any more."""
        with self._lock:
            if (file := self._open.pop(number, None)) is not None:
                _retire(file)

    def close(self) -> None:
        """Close every file."""
        for number in list(self._open):
            self.forget(number)

    def _take(self, number: int) -> OpenFile[_T] | None:
        with self._lock:
            file = self._open.get(number)
            if file is not None:
                self._open.move_to_end(number)
                file.users += 1
            return file

    def _add(self, number: int, file: OpenFile[_T] | None) -> OpenFile[_T] | None:
        if file is None:
            return None
        with self._lock:
            file.users += 1
            if (other := self._open.pop(number, None)) is not None:  # two opened it at once
                _retire(other)
            self._open[number] = file
            while len(self._open) > self._most:
                _retire(self._open.popitem(last=False)[1])
        return file


def _retire(file: OpenFile[_T]) -> None:
    file.retired = True
    if file.users == 0:
        os.close(file.descriptor)
