"""How a command is made: it names the common options that it takes, and is handed a session.

    @app.command()
    @command("home", "as_json")
    def peers(session: Session) -> None: ...

The options stand in one table, so that each is spelled, explained and ordered the same everywhere.
A command has those of its own as parameters; they come first in its help.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ._options import (
    AnnounceOption,
    BootstrapOption,
    CompressOption,
    DhtProtocolOption,
    HomeOption,
    JsonOption,
    LinesOption,
    ListenOption,
    MaxDownOption,
    MaxUpOption,
    MdnsOption,
    QuietOption,
    QuotaOption,
    SwarmKeyOption,
    SwarmOption,
    VerboseOption,
)
from ._output import Face
from ._session import Session, open_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_COMMON: dict[str, tuple[Any, Any]] = {  # in the order of `--help`, each with its default
    "home": (HomeOption, None),
    "listen": (ListenOption, None),
    "announce": (AnnounceOption, None),
    "bootstrap": (BootstrapOption, None),
    "mdns": (MdnsOption, None),
    "swarm_key": (SwarmKeyOption, None),
    "max_up": (MaxUpOption, None),
    "max_down": (MaxDownOption, None),
    "compress": (CompressOption, None),
    "quota": (QuotaOption, None),
    "dht_protocol": (DhtProtocolOption, None),
    "swarm": (SwarmOption, None),
    "as_json": (JsonOption, False),
    "lines": (LinesOption, False),
    "quiet": (QuietOption, False),
    "verbose": (VerboseOption, 0),
}
VISIT = ("home", "listen", "bootstrap", "mdns")  # of commands that may bring a node of their own
NODE = (*VISIT, "swarm_key", "max_up", "max_down")  # of those whose node moves content


def command(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command with these of the common options, and `--verbose`.

    The function's first parameter is the `Session`; those options are gone into it.
    """
    taken = {name: _COMMON[name] for name in _COMMON if name in {*names, "verbose"}}
    if unknown := set(names) - set(taken):
        raise ValueError(f"no common options: {unknown}")

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        common = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for name, (kind, default) in taken.items()
        ]

        @functools.wraps(function)
        def run(**given: Any) -> None:
            options = {name: given.pop(name) for name in taken}
            with _begin(options.pop("home", None), options.pop("verbose"), **options) as session:
                function(session, **given)

        # What Typer reads.
        parameters = [*(one.replace(kind=one.KEYWORD_ONLY) for one in own), *common]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # see above
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _begin(
    home: Path | None,
    verbose: int,
    *,
    as_json: bool = False,
    lines: bool = False,
    quiet: bool = False,
    **flags: Any,
) -> AbstractContextManager[Session]:
    """Read the settings, and say things the command's way. `flags` are settings that it sets."""
    if as_json and lines:
        raise typer.BadParameter("--json and --json-lines exclude each other")
    face = Face.JSON if as_json else Face.JSON_LINES if lines else Face.TEXT
    given = {  # an empty list: a repeatable flag that was never given
        name: (tuple(value) or None)
        if isinstance(value, list)
        else str(value.absolute())
        if isinstance(value, Path)
        else value
        for name, value in flags.items()
    }
    return open_session(home=home, verbose=verbose, face=face, quiet=quiet, flags=given)
