"""One command's run: its settings, its output, and the node that does the work.

There is one rule for all: the node that runs on this home does it; where none runs, `share` and
`get` bring their own, and the others say so.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lattica import config
from lattica._control import NodeNotRunning, connect, describe
from lattica._home import Home, HomeInUse
from lattica.errors import LatticaError

from ._output import Face, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lattica._control import Request

EXIT_INTERRUPTED = 130
_COMING_UP_S = 10.0  # from the lock on a home to the control socket: hardly ever more than one
_AGAIN_S = 0.05


class Session:
    """What every command needs. Made by `open_session`."""

    def __init__(self, settings: config.Config, output: Output) -> None:
        self.config, self.output = settings, output
        origins = [setting.origin for name, setting in settings.settings.items() if name != "log"]
        self._for_own_node = [origin for origin in origins if origin.startswith("--")]

    @property
    def home(self) -> Home:
        """The home that the command is about."""
        return Home(self.config.home)

    @property
    def node_options(self) -> dict[str, Any]:
        """What `open_node` takes, for a command that brings its own node."""
        return {
            "home": self.config.home,
            "listen": self.config.texts("listen"),
            "announce": self.config.texts("announce"),
            "bootstrap": self.config.texts("bootstrap"),
            # Unless somebody asked for it, a node decides: a private one is quiet.
            "mdns": self.config.flag("mdns") if self._asked("mdns") else None,
            "swarm_key": self.config.text("swarm_key") or None,
            "compress": self.config.text("compress"),
            "use_origin": self.config.flag("use_origin"),
            "quota": self.config.text("quota"),
            "dht_protocol": self.config.text("dht_protocol"),
            **{name: self.config.text(name) for name in ("max_up", "max_down")},
        }

    def _asked(self, name: str) -> bool:
        return self.config.settings[name].origin != "default"

    def ask(
        self, request: Request, on_progress: Callable[[dict[str, Any]], object] | None = None
    ) -> Any:
        """Have the running node do it. Raises NodeNotRunning, and what the node answers."""
        with connect(self.home) as client:
            if client is None:
                raise NodeNotRunning(f"no node runs on {self.home.path}")
            if self._for_own_node:
                flags = ", ".join(self._for_own_node)
                self.output.say(f"note: the running node does it; {flags} would be for a new one")
            return client.call(request, on_progress)

    def ask_or_run(self, ask: Callable[[], Any], run: Callable[[], None]) -> Any:
        """Return what the running node answers to `ask`; where none runs, `run` one: None.

        Commands that start together on one home contend for it: one brings the node, the others
        ask that one. It answers a moment after it has taken the home, and may be gone by then.

        Raises:
            HomeInUse: the node that has the home does not answer.
        """
        patience_ends = time.monotonic() + _COMING_UP_S
        while True:
            try:
                return ask()
            except NodeNotRunning:
                pass
            try:
                run()
            except HomeInUse:
                if time.monotonic() > patience_ends:
                    raise
            else:
                return None
            time.sleep(_AGAIN_S)


@contextmanager
def open_session(
    *,
    home: Path | None,
    verbose: int,
    face: Face,
    quiet: bool,
    flags: Mapping[str, config.Value | None],
) -> Iterator[Session]:
    """Read the settings, set up the log, and turn every error into its message and exit status."""
    output = Output(face, quiet=quiet)
    try:
        given: dict[str, config.Value | None] = {name: flags[name] for name in flags}
        given["home"] = None if home is None else str(home)
        if verbose:
            given["log"] = "info" if verbose == 1 else "debug"
        settings = config.load(os.environ, given, user_home=Path.home())
        _set_up_log(config.parse_log(settings.text("log")))
        yield Session(settings, output)
    except LatticaError as error:
        report = describe(error)
        output.error(report)
        raise SystemExit(int(report["exit_code"])) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # a full disk, a lost folder: the machine's fault and not a bug
        logging.getLogger(__name__).debug("the traceback", exc_info=True)
        output.error(describe(_refusal(error)))
        raise SystemExit(1) from None
    except (typer.BadParameter, typer.Exit):
        raise  # Typer says it, or has
    except Exception as error:
        logging.getLogger(__name__).debug("the traceback", exc_info=True)
        bug = LatticaError(f"{type(error).__name__}: {error}")
        bug.hint = "this is a bug: run again with -vv and report what it prints"
        output.error(describe(bug))
        raise SystemExit(1) from None


def _refusal(error: OSError) -> LatticaError:
    name = f": {error.filename}" if error.filename else ""
    refusal = LatticaError(f"the system refuses: {error.strerror or error}{name}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        refusal.hint = "free some space on the disk that holds the home, or choose another --home"
    else:
        refusal.hint = "see to what it names; where that is no help, -vv says what was being done"
    return refusal


def _set_up_log(levels: Mapping[str, str]) -> None:
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING,
    )
    for layer, level in levels.items():
        name = f"lattica.{layer}" if layer else "lattica"
        logging.getLogger(name).setLevel(level.upper())
