"""`lattica stat`, `pin`, `unpin`, `du`, `gc`: what is here, and what is kept for how long."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from lattica._control import Request
from lattica._progress import counted, size

from ._command import command
from ._options import RefArgument
from ._session import Session


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for each in (stat, pin, unpin, du, gc):
        app.command()(each)


@command("home", "as_json")
def stat(
    session: Session,
    ref: RefArgument,
    peers: Annotated[
        bool, typer.Option("--peers", help="Ask who else holds it now; takes some seconds.")
    ] = False,
) -> None:
    """Show what is known of an object that is here."""
    found = session.ask(Request("stat", {"ref": ref, "ask_peers": peers}))
    blocks, leaves, here = found["index_blocks"], found["leaves"], found["leaves_here"]
    index = f"{blocks} block{'s' * (blocks != 1)}, {size(found['index_bytes'])}"
    rows = [
        ("cid", found["cid"]),
        ("name", found["name"]),
        ("kind", found["kind"]),
        ("size", f"{size(found['size'])} ({found['size']} bytes)"),
        ("files", str(found["files"])),
        ("leaves", f"{leaves}" if here == leaves else f"{here} of {leaves} are here"),
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


@command("home", "as_json")
def pin(session: Session, ref: RefArgument) -> None:
    """Keep an object when the store needs room."""
    answer = session.ask(Request("pin", {"ref": ref}))
    session.output.say("pinned: it stays")
    session.output.result(answer)


@command("home", "as_json")
def unpin(session: Session, ref: RefArgument) -> None:
    """Let an object go when the store needs room."""
    answer = session.ask(Request("unpin", {"ref": ref}))
    session.output.say("unpinned: it may make room")
    session.output.result(answer)


@command("home", "as_json")
def du(session: Session) -> None:
    """Show what the store keeps of its own.

    Files that are shared in place are not.
    """
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
    session.output.say(f"{size(found['used_bytes'])}{bound}; index {size(found['index_bytes'])}")
    session.output.result(found)


@command("home", "as_json")
def gc(session: Session) -> None:
    """Delete what no object needs.

    Forgets objects whose files are gone.
    """
    found = session.ask(Request("collect"))
    for cid in found["forgotten"]:
        session.output.data(cid)
    count = len(found["forgotten"])
    session.output.say(f"{size(found['freed_bytes'])} freed, {counted(count, 'object')} forgotten")
    session.output.result(found)
