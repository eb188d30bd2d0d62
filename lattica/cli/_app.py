"""The commands: what they are called, what they take, and whom they ask.

This module is loaded for every `--help`, so it imports neither Trio nor cryptography: those come
with the node, where a command brings its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lattica._control import NodeNotRunning, Request

from . import _delta, _manifests, _show, _tensors
from ._command import command
from ._dht import dht
from ._getting import get
from ._index import write_index
from ._options import HashOption, PathArgument, RefArgument, TimeoutOption
from ._output import Face
from ._running import bootstrap, up
from ._session import Session
from ._sharing import share
from ._sim import sim
from ._storage import add_commands
from ._swarm import swarm_app

app = typer.Typer(
    epilog="Exit codes: 0 ok, 1 unexpected, 2 usage, 3 not found, 4 unreachable, 5 integrity, "
    "6 refused, 7 deadline, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print local variables, and those may hold a key
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from lattica import __version__

        typer.echo(f"lattica-mesh {__version__}")
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Share models, tensors and files between peers, without a broker."""


app.command()(up)
app.command()(bootstrap)
app.command()(share)
app.command()(get)


@app.command()
@command("as_json", "quiet")
def index(
    session: Session,
    path: PathArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to [PATH.lattica-index]."),
    ] = None,
    hash_name: HashOption = "blake3",
) -> None:
    """Write an index file for a web server.

    Put it beside PATH there, and every leaf that is read from there is verified. Prints the CID,
    which `lattica get CID --origin URL` then gets, with or without a peer.
    """
    write_index(session, path, output, hash_name)


@app.command("id")
@command("home", "as_json")
def show_id(session: Session) -> None:
    """Print this node's peer ID and addresses."""
    try:
        status = session.ask(Request("status"))
    except NodeNotRunning:
        from lattica.identity import Identity

        identity = Identity.load_or_create(session.home.key)
        status = {"peer": str(identity.peer_id), "addresses": [], "running": False}
    else:
        status["running"] = True
    _show.status(session.output, status)


@app.command()
@command("home", "as_json")
def peers(
    session: Session,
    swarm: Annotated[
        bool, typer.Option("--shares", help="What peers have announced instead.")
    ] = False,
) -> None:
    """List the connected peers."""
    if swarm:
        _show.announcements(session.output, session.ask(Request("swarm")))
    else:
        _show.peers(session.output, session.ask(Request("peers")))


@app.command()
@command("home", "as_json")
def ping(
    session: Session,
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="A peer ID or an address.", show_default=False)
    ],
    count: Annotated[int, typer.Option("--count", "-c", metavar="N", min=1, help="How often.")] = 3,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Measure the way to a peer and back."""
    params = {"peer": peer, "count": count, "timeout": timeout}
    _show.pong(session.output, session.ask(Request("ping", params)))


@app.command()
@command("home", "as_json")
def ls(session: Session) -> None:
    """List the objects that are shared."""
    _show.objects(session.output, session.ask(Request("ls")))


@app.command()
@command("home", "as_json", "quiet")
def verify(
    session: Session,
    ref: RefArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write what is damaged anew, in place, from peers.")
    ] = False,
    from_peer: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="ADDR", help="With --repair: ask this peer, too."),
    ] = None,
) -> None:
    """Hash what is on disk again, or repair it.

    Lists what no longer matches, and exits with 5 then.
    """
    with _show.progress(session.output, f"verify {_show.short(ref)}") as update:
        params = {"ref": ref, "repair": repair, "peers": list(from_peer or ())}
        found = session.ask(Request("verify", params), update)
    _show.verification(session.output, found)
    if found["damaged_count"]:
        raise SystemExit(5)


@app.command()
@command("as_json")
def conform(
    session: Session,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="ADDR", help="Check the running node at this address."),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", metavar="NAME", help="Run these vectors only (repeatable)."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML as well.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show what passed, case by case.")] = False,
) -> None:
    """Hold this program, or a running node, to the specification.

    Runs the specification's vectors; with --target, checks of a node from outside instead.
    """
    from lattica import conform as conformance

    as_json = session.output.face is Face.JSON
    status = conformance.run(
        target, suites=suite or (), as_json=as_json, junit=junit, verbose=every
    )
    raise typer.Exit(status)


app.command()(sim)
app.add_typer(dht)
app.add_typer(swarm_app, name="swarm")
app.add_typer(_tensors.app, name="tensor", help="List, print and compare tensors.")
app.command("publish")(_manifests.publish)
app.add_typer(_manifests.app, name="manifest", help="Show, check, sign and approve manifests.")
app.add_typer(_manifests.trust_app, name="trust", help="Say whose signatures to believe.")
app.add_typer(_delta.app, name="delta", help="Write a checkpoint as its difference from another.")


@app.command("config")
@command("home", "as_json")
def show_config(session: Session) -> None:
    """Print every setting and where it comes from."""
    _show.settings(session.output, session.config)


add_commands(app)


def run() -> None:
    """Run the command line and exit."""
    app(prog_name="lattica")
