"""The commands: what they are called, what they take, and whom they ask.

This module is loaded for every `--help`, so it imports neither Trio nor cryptography: those come
with the node, where a command brings its own.
"""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica._control import NodeNotRunning, Request

from . import _delta, _manifests, _show, _tensors
from ._dht import dht
from ._index import write_index
from ._options import (
    AnnounceOption,
    BaseOption,
    BootstrapOption,
    CompressOption,
    DhtProtocolOption,
    EncryptToOption,
    ExcludeOption,
    HomeOption,
    IncludeOption,
    JsonOption,
    LinesOption,
    ListenOption,
    MaxDownOption,
    MaxUpOption,
    MdnsOption,
    QuietOption,
    QuotaOption,
    RuleOption,
    SwarmKeyOption,
    SwarmOption,
    TimeoutOption,
    TrustOption,
    UnsealOption,
    VerboseOption,
    session as _session,
)
from ._preview import preview
from ._ranges import get_range
from ._session import EXIT_INTERRUPTED, Session
from ._sim import sim
from ._storage import add_commands
from ._swarm import swarm_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lattica.node import AsyncNode

    from ._output import Output

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


def _existing_path(text: str) -> Path:
    # An empty text would be the current directory: a script's unset variable must not share that.
    if not text or not os.path.exists(text):
        raise typer.BadParameter(f"path {text!r} does not exist")
    return Path(text)


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


@app.command()
def up(
    home: HomeOption = None,
    listen: ListenOption = None,
    announce: AnnounceOption = None,
    bootstrap: BootstrapOption = None,
    mdns: MdnsOption = None,
    swarm_key: SwarmKeyOption = None,
    max_up: MaxUpOption = None,
    max_down: MaxDownOption = None,
    compress: CompressOption = None,
    quota: QuotaOption = None,
    dht_protocol: DhtProtocolOption = None,
    swarm: SwarmOption = None,
    lines: LinesOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Run a node: serve what is shared, hear what others share."""
    with _session(
        home,
        verbose,
        lines=lines,
        quiet=quiet,
        listen=listen,
        announce=announce,
        bootstrap=bootstrap,
        mdns=mdns,
        swarm_key=swarm_key,
        max_up=max_up,
        max_down=max_down,
        compress=compress,
        quota=quota,
        dht_protocol=dht_protocol,
        swarm=swarm,
    ) as session:
        _serve(session, _show.node_is_up, join_swarm=True)


@app.command()
def bootstrap(
    home: HomeOption = None,
    listen: ListenOption = None,
    announce: AnnounceOption = None,
    bootstrap: BootstrapOption = None,
    mdns: MdnsOption = None,
    dht_protocol: DhtProtocolOption = None,
    swarm_key: SwarmKeyOption = None,
    max_up: MaxUpOption = None,
    max_down: MaxDownOption = None,
    lines: LinesOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Run a node that others join the network through.

    Prints its addresses, which others give as --bootstrap.
    """
    with _session(
        home,
        verbose,
        lines=lines,
        quiet=quiet,
        listen=listen,
        announce=announce,
        bootstrap=bootstrap,
        mdns=mdns,
        dht_protocol=dht_protocol,
        swarm_key=swarm_key,
        max_up=max_up,
        max_down=max_down,
    ) as session:
        _serve(session, _show.bootstrap_is_up, join_swarm=False, dht_server=True)


@app.command()
def share(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="The file or directory.", show_default=False, parser=_existing_path
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="What others call it.")] = None,
    hash_name: Annotated[
        str, typer.Option("--hash", help="blake3 or sha2-256 (what most IPFS nodes use).")
    ] = "blake3",
    follow_symlinks: Annotated[
        bool,
        typer.Option(
            "--follow-symlinks", help="Share files that symlinks in a directory point to."
        ),
    ] = False,
    symlinks: Annotated[
        str,
        typer.Option(
            "--symlinks", metavar="refuse|follow|skip", help="What to do with those in a directory."
        ),
    ] = "refuse",
    include: IncludeOption = None,
    base: BaseOption = None,
    exclude: ExcludeOption = None,
    origin: Annotated[
        str | None,
        typer.Option("--origin", metavar="URL", help="Where else it lies; named in the ticket."),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            "--chunk", metavar="cdc|SIZE", help="Cut by content, or into leaves of this size."
        ),
    ] = None,
    encrypt_to: EncryptToOption = None,
    home: HomeOption = None,
    listen: ListenOption = None,
    announce: AnnounceOption = None,
    bootstrap: BootstrapOption = None,
    mdns: MdnsOption = None,
    swarm_key: SwarmKeyOption = None,
    max_up: MaxUpOption = None,
    max_down: MaxDownOption = None,
    compress: CompressOption = None,
    quota: QuotaOption = None,
    swarm: SwarmOption = None,
    as_json: JsonOption = False,
    lines: LinesOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Share a file or directory in place.

    Prints the command that gets it. The running node serves it. Where none runs, this command is
    the node, until Ctrl-C.
    """
    with _session(
        home,
        verbose,
        as_json=as_json,
        lines=lines,
        quiet=quiet,
        listen=listen,
        announce=announce,
        bootstrap=bootstrap,
        mdns=mdns,
        swarm_key=swarm_key,
        max_up=max_up,
        max_down=max_down,
        compress=compress,
        quota=quota,
        swarm=swarm,
    ) as session:
        params = {
            "path": str(path.absolute()),
            "name": name,
            "chunk": chunk,
            "hash": hash_name,
            "follow_symlinks": follow_symlinks,
            "symlinks": symlinks,
            "include": list(include or ()),
            "base": None if base is None else str(base.absolute()),
            "exclude": list(exclude or ()),
            "origin": origin,
            "encrypt_to": list(encrypt_to or ()),
        }
        request = Request("share", params)
        label = f"share {path.name}"
        _show.started(session.output, label)

        async def share_it(node: AsyncNode) -> None:
            from ._foreground import carry_out

            await node.join_swarm(session.config.text("swarm"))
            with _show.progress(session.output, label) as update:
                result = await carry_out(node, request, update)
            _show.shared(session.output, result)
            session.output.say("serving it until Ctrl-C")

        answer = session.ask_or_run(
            partial(_ask, session, request, label),
            partial(_run_until_stopped, session, share_it),
        )
        if answer is not None:
            _show.shared(session.output, answer)


@app.command()
def get(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A ticket or a CID.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            "--local-dir",
            metavar="PATH",
            help="Where to: a new name, or a directory that is there.",
        ),
    ] = None,
    from_peer: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="ADDR", help="Ask this peer, too (repeatable)."),
    ] = None,
    include: IncludeOption = None,
    base: BaseOption = None,
    exclude: ExcludeOption = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            metavar="URL|PATH",
            help="Where else it lies: read while no peer serves it (repeatable).",
        ),
    ] = None,
    use_origin: Annotated[
        bool, typer.Option("--use-origin", help="Read the origin that the ticket names, too.")
    ] = False,
    rule: RuleOption = None,
    trust: TrustOption = None,
    unseal: UnsealOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be fetched, and fetch nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Into the store, to keep while its quota allows.")
    ] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="With --cache: keep it when others need the room.")
    ] = False,
    byte_range: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="OFFSET:LENGTH", help="Only these bytes; to stdout without -o."
        ),
    ] = None,
    file: Annotated[
        str, typer.Option("--file", metavar="PATH", help="Of which file in it --range is.")
    ] = "",
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="A:B", help="Of a model, layers A to B - 1 only."),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor", metavar="NAME", help="This tensor, or 'NAME[0:128]' of it (repeatable)."
        ),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option("--rank", metavar="R/N", help="Of each tensor, part R of N of its rows."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay and serve it to others, until Ctrl-C.")
    ] = False,
    home: HomeOption = None,
    listen: ListenOption = None,
    bootstrap: BootstrapOption = None,
    mdns: MdnsOption = None,
    swarm_key: SwarmKeyOption = None,
    max_up: MaxUpOption = None,
    max_down: MaxDownOption = None,
    compress: CompressOption = None,
    quota: QuotaOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    lines: LinesOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Get what a peer shares, every byte verified.

    Prints where it is. Interrupted, it goes on where it was when the same command is run again.
    """
    if cache and output is not None:
        raise typer.BadParameter("--cache and --output exclude each other")
    if base is not None and (layers is not None or rank is not None or tensor):
        raise typer.BadParameter("--base is for all of a version, not for chosen tensors")
    if rule is not None and (cache or dry_run or tensor or any((layers, rank, byte_range))):
        raise typer.BadParameter("--rule is for getting all of a version")
    if trust is not None and rule is None:
        raise typer.BadParameter("--trust is for --rule")
    if pin and not cache:
        raise typer.BadParameter("--pin is for --cache; `lattica pin` pins what is here")
    with _session(
        home,
        verbose,
        as_json=as_json,
        lines=lines,
        quiet=quiet,
        listen=listen,
        bootstrap=bootstrap,
        mdns=mdns,
        swarm_key=swarm_key,
        max_up=max_up,
        max_down=max_down,
        compress=compress,
        quota=quota,
    ) as session:
        from lattica._reference import is_name, read_reference

        # Before anything starts: most mistakes are made here. A name is looked up by the node.
        cid, ticket = (ref, None) if is_name(ref) else read_reference(ref)
        if layers is not None or rank is not None or tensor:
            choice = {"layers": layers, "rank": rank, "tensors": list(tensor or ())}
            choice |= {"include": list(include or ()), "exclude": list(exclude or ())}
            options = {"path": file, "peers": list(from_peer or ()), "timeout": timeout}
            _tensors.get_selection(session, ref, output, choice | options, overwrite=force)
            return
        if byte_range is not None:
            options = {"peers": list(from_peer or ()), "overwrite": force, "timeout": timeout}
            get_range(session, ref, byte_range, output, file=file, options=options)
            return
        named = ticket.name if ticket is not None and ticket.name else _show.short(str(cid))
        params = {
            "ref": ref,
            "peers": list(from_peer or ()),
            "include": list(include or ()),
            "base": None if base is None else str(base.absolute()),
            "exclude": list(exclude or ()),
            "timeout": timeout,
        }
        if dry_run:
            preview(session, Request("preview", params))
            return
        place = {
            "destination": str((output or Path()).absolute()),
            "overwrite": force,
            "origins": [_origin_from_here(address) for address in origin or ()],
            "use_origin": use_origin,
            "unseal": unseal,
            **_manifests.trust_params(trust, rule),
        }
        request = Request(*(("cache", params | {"pin": pin}) if cache else ("get", params | place)))
        label = f"get {named}"
        try:
            _show.started(session.output, label)
            _get(session, request, label=label, serve=serve)
        except KeyboardInterrupt:
            _say_how_to_resume(session.output)
            raise SystemExit(EXIT_INTERRUPTED) from None


def _origin_from_here(address: str) -> str:
    """A path must be absolute: a node that runs may run in another folder."""
    return address if "://" in address else str(Path(address).expanduser().absolute())


def _get(session: Session, request: Request, *, label: str, serve: bool) -> None:
    done = False

    async def work(node: AsyncNode) -> None:
        nonlocal done
        from ._foreground import carry_out

        with _show.progress(session.output, label) as update:
            result = await carry_out(node, request, update)
        done = True
        _show.fetched(session.output, result)
        if serve:
            session.output.say("serving it until Ctrl-C")
            await node.serve_forever()
        else:
            await node.wait_unused()  # by another command that found this node running

    def run() -> None:
        from ._foreground import Interrupted, run_node

        try:
            run_node({**session.node_options, "dht_server": None if serve else False}, work)
        except Interrupted:
            if not done:
                raise KeyboardInterrupt from None

    answer = session.ask_or_run(partial(_ask, session, request, label), run)
    if answer is not None:
        _show.fetched(session.output, answer)


def _ask(session: Session, request: Request, label: str) -> Any:
    with _show.progress(session.output, label) as update:
        return session.ask(request, update)


@app.command()
def index(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="The file or directory.", show_default=False, parser=_existing_path
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


def _serve(
    session: Session,
    announce: Callable[[Output, dict[str, Any]], None],
    *,
    join_swarm: bool,
    dht_server: bool | None = None,
) -> None:
    async def come_up(node: AsyncNode) -> None:
        if join_swarm:
            await node.join_swarm(session.config.text("swarm"))
        announce(session.output, node.status().to_json())

    _run_until_stopped(session, come_up, dht_server=dht_server)


def _run_until_stopped(
    session: Session,
    begin: Callable[[AsyncNode], Awaitable[None]],
    *,
    dht_server: bool | None = None,
) -> None:
    """Run a node that serves; being told to stop is its proper end, once it has begun."""
    from ._foreground import Interrupted, run_node

    begun = False

    async def work(node: AsyncNode) -> None:
        nonlocal begun
        await begin(node)
        begun = True
        await node.serve_forever()

    try:
        run_node({**session.node_options, "dht_server": dht_server}, work)
    except Interrupted:
        session.output.say("stopped")
        if not begun:
            raise SystemExit(EXIT_INTERRUPTED) from None


def _say_how_to_resume(output: Output) -> None:
    command = shlex.join(["lattica", *sys.argv[1:]])
    output.event("interrupted", {"resume": command})
    output.say(f"interrupted; the same command goes on where it was:\n  {command}")


def run() -> None:
    """Run the command line and exit."""
    app(prog_name="lattica")
