"""`lattica share`: a file or directory in place, by the running node or one of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lattica._control import Request

from . import _show
from ._command import NODE, command
from ._options import (
    BaseOption,
    EncryptToOption,
    ExcludeOption,
    HashOption,
    IncludeOption,
    PathArgument,
)
from ._running import ask, run_until_stopped
from ._session import Session

if TYPE_CHECKING:
    from lattica.node import AsyncNode


@command(*NODE, "announce", "compress", "quota", "swarm", "as_json", "lines", "quiet")
def share(
    session: Session,
    path: PathArgument,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What others call it.")
    ] = None,
    hash_name: HashOption = "blake3",
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
    exclude: ExcludeOption = None,
    base: BaseOption = None,
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
) -> None:
    """Share a file or directory in place.

    Prints the command that gets it. The running node serves it. Where none runs, this command is
    the node, until Ctrl-C.
    """
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
