"""`lattica stat`, `pin`, `unpin`, `du`, `gc`: what is here, and what is kept for how long."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from lattica._control import Request
from lattica._progress import size

from ._options import HomeOption, JsonOption, VerboseOption, session as open_session

RefArgument = Annotated[
    str, typer.Argument(metavar="REF", help="A ticket or a CID.", show_default=False)
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (stat, pin, unpin, du, gc):
        app.command()(command)


def stat(
    ref: RefArgument,
    peers: Annotated[
        bool, typer.Option("--peers", help="Ask who else holds it now; takes some seconds.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show what is known of an object that is here."""
    with open_session(home, verbose, as_json=as_json) as session:
        found = session.ask(Request("stat", {"ref": ref, "ask_peers": peers}))
        index = f"{found['index_blocks']} blocks, {size(found['index_bytes'])}"
        rows = [
            ("cid", found["cid"]),
            ("name", found["name"]),
            ("kind", found["kind"]),
            ("size", f"{size(found['size'])} ({found['size']} bytes)"),
            ("files", str(found["files"])),
            ("leaves", str(found["leaves"])),
            ("index", index),
            ("state", found["state"]),
            ("pinned", "yes" if found["pinned"] else "no"),
            ("where", found["path"]),
            ("added", time.strftime("%Y-%m-%d %H:%M", time.localtime(found["added"]))),
        ]
        if found["peers"] is not None:
            whole = sum(peer["whole"] for peer in found["peers"])
            rows.append(("peers", f"{whole} hold it, {len(found['peers']) - whole} a part of it"))
            rows += [
                (
                    "",
                    f"{peer['peer']} {'all' if peer['whole'] else str(peer['leaves']) + ' leaves'}",
                )
                for peer in found["peers"]
            ]
        session.output.table(("WHAT", "VALUE"), rows)
        session.output.result(found)


def pin(
    ref: RefArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Keep an object when the store needs room."""
    _pin(ref, True, home=home, as_json=as_json, verbose=verbose)


def unpin(
    ref: RefArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Let an object go when the store needs room."""
    _pin(ref, False, home=home, as_json=as_json, verbose=verbose)


def _pin(ref: str, pinned: bool, **options: Any) -> None:
    with open_session(**options) as session:
        answer = session.ask(Request("pin", {"ref": ref, "pinned": pinned}))
        session.output.say("pinned: it stays" if pinned else "unpinned: it may make room")
        session.output.result(answer)


def du(home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = 0) -> None:
    """Show what the store keeps of its own; files shared in place are not its own."""
    with open_session(home, verbose, as_json=as_json) as session:
        found = session.ask(Request("usage"))
        rows = [
            (
                item["cid"],
                size(item["size"]),
                "pinned" if item["pinned"] else "",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(item["used"])),
            )
            for item in found["objects"]
        ]
        session.output.table(("CID", "SIZE", "PINNED", "USED"), rows)
        bound = f" of {size(found['quota'])}" if found["quota"] is not None else ", no quota"
        session.output.say(
            f"{size(found['used_bytes'])}{bound}; index {size(found['index_bytes'])}"
        )
        session.output.result(found)


def gc(home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = 0) -> None:
    """Forget objects whose files are gone, and delete what no object needs."""
    with open_session(home, verbose, as_json=as_json) as session:
        found = session.ask(Request("collect"))
        for cid in found["forgotten"]:
            session.output.data(cid)
        count = len(found["forgotten"])
        session.output.say(f"{size(found['freed_bytes'])} freed, {count} objects forgotten")
        session.output.result(found)
