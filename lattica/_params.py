"""What a request of a command carries, checked as it is read, and who carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from lattica.node import AsyncNode
    from lattica.results import Json, ProgressCallback

    Method = Callable[["AsyncNode", "Params", ProgressCallback], Awaitable[Json]]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Params:
    """A request's parameters. What is not of the type asked for raises InvalidInput."""

    values: Mapping[str, Any]

    @overload
    def get(self, name: str, kind: type[_T]) -> _T | None: ...
    @overload
    def get(self, name: str, kind: type[_T], default: _T) -> _T: ...
    def get(self, name: str, kind: type[_T], default: _T | None = None) -> _T | None:
        """Return a parameter; `default` where it is missing, or null."""
        value = self.values.get(name)
        if value is None:
            return default
        # A bool is an int to Python, and 1 is a fine number of seconds.
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise InvalidInput(f"parameter {name!r} is {value!r}, expected {kind.__name__}")
        return value  # type: ignore[return-value]  # an int where a float is fine

    def need(self, name: str, kind: type[_T]) -> _T:
        """Return a parameter that must be there."""
        value = self.get(name, kind)
        if value is None:
            raise InvalidInput(f"parameter {name!r} is missing")
        return value

    def path(self, name: str) -> Path:
        """Return a path. It must be absolute: command and node may run in different folders."""
        path = Path(self.need(name, str))
        if not path.is_absolute():
            raise InvalidInput(f"parameter {name!r} is {str(path)!r}, expected an absolute path")
        return path

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; an empty one where it is missing."""
        values: list[Any] = self.get(name, list, [])
        if not all(isinstance(value, str) for value in values):
            raise InvalidInput(f"parameter {name!r} is {values!r}, expected a list of strings")
        return list(values)
