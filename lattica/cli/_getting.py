"""`lattica get`: an object, or a part of it, from whoever has it."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica._control import Request

from . import _manifests, _show, _tensors
from ._command import NODE, command
from ._options import (
    BaseOption,
    ExcludeOption,
    FromOption,
    IncludeOption,
    RuleOption,
    TimeoutOption,
    TrustOption,
    UnsealOption,
)
from ._preview import preview
from ._ranges import get_range
from ._running import ask
from ._session import EXIT_INTERRUPTED, Session

if TYPE_CHECKING:
    from lattica.node import AsyncNode

    from ._output import Output


@command(*NODE, "compress", "quota", "as_json", "lines", "quiet")
def get(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="A ticket, a CID, or a name: PEER/NAME.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            "--local-dir",
            metavar="PATH",
            help="Where to: a new name, or a directory that is there; - is stdout.",
        ),
    ] = None,
    from_peer: FromOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    base: BaseOption = None,
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
        typer.Option(
            "--rank", metavar="R/N", help="Of each tensor, part R of its rows' N, from 0."
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay and serve it to others, until Ctrl-C.")
    ] = False,
    timeout: TimeoutOption = None,
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
    if output == Path("-"):  # as other tools have it
        if cache or dry_run or serve or tensor or any((include, exclude, layers, rank, base, rule)):
            raise typer.BadParameter("-o - prints one file, whole or a --range of it")
        output, byte_range = None, byte_range or "0:"
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
        options = {
            "peers": list(from_peer or ()),
            "overwrite": force,
            "unseal": unseal,
            "timeout": timeout,
        }
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

    answer = session.ask_or_run(partial(ask, session, request, label), run)
    if answer is not None:
        _show.fetched(session.output, answer)


def _say_how_to_resume(output: Output) -> None:
    command = shlex.join(["lattica", *sys.argv[1:]])
    output.event("interrupted", {"resume": command})
    output.say(f"interrupted; the same command goes on where it was:\n  {command}")
