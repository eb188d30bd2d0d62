"""The commands: what they are called, what they take, and whom they ask.

This module is loaded for every `--help`, so it imports neither Trio nor cryptography: those come
with the node, where a command brings its own.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import Annotated

import typer

from lattica._control import NodeNotRunning, Request

from . import _delta, _manifests, _show, _tensors
from ._dht import dht
from ._getting import get
from ._index import write_index
from ._options import (
    HomeOption,
    JsonOption,
    QuietOption,
    TimeoutOption,
    VerboseOption,
    session as _session,
)
from ._running import bootstrap, up
from ._sharing import existing_path, share
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
        from importlib.metadata import version

        typer.echo(f"lattica-mesh {version('lattica-mesh')}")
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
def index(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="The file or directory.", show_default=False, parser=existing_path
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to [PATH.lattica-index]."),
    ] = None,
    hash_name: Annotated[str, typer.Option("--hash", help="blake3 or sha2-256.")] = "blake3",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Write an index file: put beside PATH on a web server, every leaf from there is verified.

    Prints the CID, which `lattica get CID --origin URL` then gets, with or without a peer.
    """
    with _session(None, verbose, as_json=as_json, quiet=quiet) as session:
        write_index(session, path, output, hash_name)


@app.command("id")
def show_id(
    home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = 0
) -> None:
    """Print this node's peer ID and addresses."""
    with _session(home, verbose, as_json=as_json) as session:
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
def peers(
    home: HomeOption = None,
    swarm: Annotated[
        bool, typer.Option("--shares", help="What peers have announced instead.")
    ] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List the connected peers."""
    with _session(home, verbose, as_json=as_json) as session:
        if swarm:
            _show.announcements(session.output, session.ask(Request("swarm")))
        else:
            _show.peers(session.output, session.ask(Request("peers")))


@app.command()
def ping(
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="A peer ID or an address.", show_default=False)
    ],
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="How often.")] = 3,
    home: HomeOption = None,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Measure the way to a peer and back."""
    with _session(home, verbose, as_json=as_json) as session:
        params = {"peer": peer, "count": count, "timeout": timeout}
        _show.pong(session.output, session.ask(Request("ping", params)))


@app.command()
def ls(home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = 0) -> None:
    """List the objects that are shared."""
    with _session(home, verbose, as_json=as_json) as session:
        _show.objects(session.output, session.ask(Request("ls")))


@app.command()
def verify(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A ticket or a CID.", show_default=False)
    ],
    repair: Annotated[
        bool, typer.Option("--repair", help="Write what is damaged anew, in place, from peers.")
    ] = False,
    from_peer: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="ADDR", help="With --repair: ask this peer, too."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Hash what is on disk again; list what no longer matches, or repair it."""
    with _session(home, verbose, as_json=as_json, quiet=quiet) as session:
        with _show.progress(session.output, f"verify {_show.short(ref)}") as update:
            params = {"ref": ref, "repair": repair, "peers": list(from_peer or ())}
            found = session.ask(Request("verify", params), update)
        _show.verification(session.output, found)
        if found["damaged_count"]:
            raise SystemExit(5)


@app.command()
def conform(
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
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Hold this program, or a running node, to the specification.

    Runs the specification's vectors; with --target, checks of a node from outside instead.
    """
    from lattica import conform as conformance

    with _session(None, verbose, as_json=as_json):
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
def show_config(
    home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = 0
) -> None:
    """Print every setting and where it comes from."""
    with _session(home, verbose, as_json=as_json) as session:
        _show.settings(session.output, session.config)


add_commands(app)


def run() -> None:
    """Run the command line and exit."""
    app(prog_name="lattica")
