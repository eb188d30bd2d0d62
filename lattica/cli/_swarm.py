"""`lattica swarm`: make a private swarm, bring others into it, change its key."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.errors import InvalidInput

from ._options import HomeOption, JsonOption, SwarmKeyOption, VerboseOption, session as _session

if TYPE_CHECKING:
    from lattica.private_swarm import KeyRing

    from ._session import Session

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_INVITE = 2048  # characters read from a pipe

swarm_app = typer.Typer(
    help="Private swarms: nodes that talk to members only.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@swarm_app.command("new")
def new_swarm(
    home: HomeOption = None,
    swarm_key: SwarmKeyOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Make a private swarm, and this node a member of it.

    Writes its key file, mode 0600: HOME/swarm.key unless --swarm-key says otherwise.
    """
    from lattica.private_swarm import KeyRing, write_ring

    with _session(home, verbose, as_json=as_json, swarm_key=swarm_key) as session:
        path, ring = _path(session), KeyRing.generate()
        write_ring(path, ring, new=True)
        _tell(session, path, ring)
        session.output.say("`lattica swarm invite` prints what makes another node a member")
        _say_restart(session)


@swarm_app.command()
def invite(
    home: HomeOption = None,
    swarm_key: SwarmKeyOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Print the line that makes whoever has it a member. It holds the key: send it in secret."""
    from lattica.private_swarm import read_ring

    with _session(home, verbose, as_json=as_json, swarm_key=swarm_key) as session:
        line = read_ring(_path(session)).invite(time.time())
        session.output.result({"invite": line}, "invite")
        session.output.data(line)
        session.output.say("this line is a secret; on the other machine: `lattica swarm join`")


@swarm_app.command()
def join(
    line: Annotated[
        str | None,
        typer.Argument(metavar="[INVITE]", help="The line; without it, it is read from stdin."),
    ] = None,
    home: HomeOption = None,
    swarm_key: SwarmKeyOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Make this node a member, by an invitation; or take over a swarm's new key by a new one."""
    from lattica.private_swarm import KeyRing, read_ring, write_ring

    with _session(home, verbose, as_json=as_json, swarm_key=swarm_key) as session:
        path = _path(session)
        ring = KeyRing.from_invite(line or sys.stdin.readline(_MAX_INVITE))
        if path.exists():
            ring = read_ring(path).joined(ring)
        write_ring(path, ring)
        _tell(session, path, ring)
        _say_restart(session)


@swarm_app.command()
def rotate(
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long old keys stay good.")
    ] = "7d",
    home: HomeOption = None,
    swarm_key: SwarmKeyOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Give the swarm a new key. The old one stays good for a while: bring the new one to all.

    Running nodes read the file again by themselves; nothing is interrupted.
    """
    from lattica.private_swarm import read_ring, write_ring

    with _session(home, verbose, as_json=as_json, swarm_key=swarm_key) as session:
        path = _path(session)
        ring = read_ring(path).rotated(overlap=parse_duration(overlap), now=time.time())
        write_ring(path, ring)
        _tell(session, path, ring)
        session.output.say(
            "copy the file to the other members, or `lattica swarm invite` and `join` there,"
            f" within {overlap}"
        )


@swarm_app.command()
def show(
    home: HomeOption = None,
    swarm_key: SwarmKeyOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Print the fingerprint of the swarm, which is no secret, and how many keys are good."""
    from lattica.private_swarm import read_ring

    with _session(home, verbose, as_json=as_json, swarm_key=swarm_key) as session:
        path = _path(session)
        _tell(session, path, read_ring(path))


def parse_duration(text: str) -> float:
    """Return seconds of `7d`, `24h`, `30m`, `45s` or `0`. Raises InvalidInput."""
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if found is None or not (found[2] or int(found[1]) == 0):
        raise InvalidInput(f"{text!r} is no duration", hint="for example 7d, 24h, 30m or 0")
    return int(found[1]) * _UNITS.get(found[2], 1)


def _path(session: Session) -> Path:
    named = session.config.text("swarm_key")
    return Path(named).expanduser().absolute() if named else session.home.swarm_key


def _tell(session: Session, path: Path, ring: KeyRing) -> None:
    live = ring.live(time.time())
    facts = {"swarm": ring.fingerprint, "file": str(path), "keys": len(live)}
    session.output.result(facts, "swarm")
    session.output.data(ring.fingerprint)
    session.output.say(f"{len(live)} good {'key' if len(live) == 1 else 'keys'} in {path}")


def _say_restart(session: Session) -> None:
    if session.home.control.exists():
        session.output.say("a running node becomes a member when it is started again")
