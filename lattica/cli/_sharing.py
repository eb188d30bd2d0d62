"""`lattica share`: a file or directory in place, by the running node or one of its own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica._control import Request

from . import _show
from ._options import (
    AnnounceOption,
    BaseOption,
    BootstrapOption,
    CompressOption,
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
    SwarmKeyOption,
    SwarmOption,
    VerboseOption,
    session as _session,
)
from ._running import ask, run_until_stopped

if TYPE_CHECKING:
    from lattica.node import AsyncNode


def existing_path(text: str) -> Path:
    # An empty text would be the current directory: a script's unset variable must not share that.
    if not text or not os.path.exists(text):
        raise typer.BadParameter(f"path {text!r} does not exist")
    return Path(text)


def share(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="The file or directory.", show_default=False, parser=existing_path
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
            partial(ask, session, request, label),
            partial(run_until_stopped, session, share_it),
        )
        if answer is not None:
            _show.shared(session.output, answer)
