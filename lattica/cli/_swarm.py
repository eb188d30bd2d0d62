"""`lattica swarm`: make a private swarm, bring others into it, change its key."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica._sizes import parse_duration

from ._command import command
from ._session import Session

if TYPE_CHECKING:
    from lattica.private_swarm import KeyRing

_MAX_INVITE = 2048  # characters read from a pipe

swarm_app = typer.Typer(
    help="Private swarms: nodes that talk to members only.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@swarm_app.command("new")
@command("home", "swarm_key", "as_json")
def new_swarm(session: Session) -> None:
    """Make a private swarm, and this node a member of it.

    Writes its key file, mode 0600: HOME/swarm.key unless --swarm-key says otherwise.
    """
    from lattica.private_swarm import KeyRing, write_ring

    path, ring = _path(session), KeyRing.generate()
    write_ring(path, ring, new=True)
    _tell(session, path, ring)
    session.output.say("`lattica swarm invite` prints what makes another node a member")
    _say_restart(session)


@swarm_app.command()
@command("home", "swarm_key", "as_json")
def invite(session: Session) -> None:
    """Print the line that makes whoever has it a member. It holds the key: send it in secret."""
    from lattica.private_swarm import read_ring

    line = read_ring(_path(session)).invite(time.time())
    session.output.result({"invite": line}, "invite")
    session.output.data(line)
    session.output.say("this line is a secret; on the other machine: `lattica swarm join`")


@swarm_app.command()
@command("home", "swarm_key", "as_json")
def join(
    session: Session,
    line: Annotated[
        str | None,
        typer.Argument(metavar="INVITE", help="The line; without it, it is read from stdin."),
    ] = None,
) -> None:
    """Make this node a member, by an invitation.

    A member takes over the swarm's new key by a new invitation.
    """
    from lattica.private_swarm import KeyRing, read_ring, write_ring

    path = _path(session)
    ring = KeyRing.from_invite(line or sys.stdin.readline(_MAX_INVITE))
    if path.exists():
        ring = read_ring(path).joined(ring)
    write_ring(path, ring)
    _tell(session, path, ring)
    _say_restart(session)


@swarm_app.command()
@command("home", "swarm_key", "as_json")
def rotate(
    session: Session,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long old keys stay good.")
    ] = "7d",
) -> None:
    """Give the swarm a new key. The old one stays good for a while: bring the new one to all.

    Running nodes read the file again by themselves; nothing is interrupted.
    """
    from lattica.private_swarm import read_ring, write_ring

    path = _path(session)
    ring = read_ring(path).rotated(overlap=parse_duration(overlap), now=time.time())
    write_ring(path, ring)
    _tell(session, path, ring)
    session.output.say(
        "copy the file to the other members, or `lattica swarm invite` and `join` there,"
        f" within {overlap}"
    )


@swarm_app.command()
@command("home", "swarm_key", "as_json")
def show(session: Session) -> None:
    """Print the fingerprint of the swarm.

    That is no secret. Says how many keys are good, too.
    """
    from lattica.private_swarm import read_ring

    path = _path(session)
    _tell(session, path, read_ring(path))


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
