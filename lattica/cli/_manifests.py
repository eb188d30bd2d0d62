"""`lattica publish`, `manifest` and `trust`: what a model is, and whom to believe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica._control import Request
from lattica._progress import counted, size

from . import _show
from ._command import VISIT, command
from ._options import (
    FromOption,
    PathArgument,
    RuleOption,
    TimeoutOption,
    TrustOption,
    existing_path,
)
from ._output import one_line
from ._session import Session
from ._visit import visit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lattica.cid import HashFunction

    from ._output import Output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
trust_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

RefArgument = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="A manifest's ticket or CID, or PEER/NAME.", show_default=False
    ),
]
RefsOption = list[str] | None
EXIT_REFUSED = 6


@command("home", "as_json", "quiet")
def publish(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What you call it: team/model.", show_default=False),
    ],
    path: PathArgument,
    licence: Annotated[str, typer.Option("--licence", metavar="SPDX", help="Its licence.")] = "",
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What changed.")
    ] = "",
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="REF", help="The version before.")
    ] = None,
    base: Annotated[
        RefsOption, typer.Option("--base", metavar="REF", help="A model it was made from.")
    ] = None,
    data: Annotated[
        RefsOption, typer.Option("--data", metavar="REF", help="A data set it was trained on.")
    ] = None,
    recipe: Annotated[
        RefsOption, typer.Option("--recipe", metavar="REF", help="How it was made.")
    ] = None,
    timeout: TimeoutOption = None,
) -> None:
    """Publish a version of a model, signed.

    It is shared in place. The running node does it, and serves it.
    """
    from lattica.ticket import Ticket

    params = {
        "name": name,
        "path": str(path.absolute()),
        "licence": licence,
        "message": message,
        "parent": parent,
        "base": list(base or ()),
        "data": list(data or ()),
        "recipe": list(recipe or ()),
        "timeout": timeout,
    }
    with _show.progress(session.output, f"publish {name}") as update:
        found = session.ask(Request("publish", params), update)
    news = f", of which {size(found['wire_bytes'])} are new" if found["version"] > 1 else ""
    session.output.say(
        f"{found['name']} version {found['version']}: {size(found['full_bytes'])}{news}"
    )
    session.output.say(f"manifest {found['cid']}")
    publisher = Ticket.parse(found["ticket"]).peer
    session.output.say(f"the newest version, by its name: lattica get {publisher}/{found['name']}")
    session.output.data(f"lattica get {found['ticket']}")
    session.output.result(found)


@app.command()
@command(*VISIT, "as_json", "quiet")
def show(
    session: Session,
    ref: RefArgument,
    from_peer: FromOption = None,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Show what a manifest says, and who says so."""
    found = _manifest(session, ref, from_peer, timeout)
    _print(session.output, found)
    session.output.result(found)


@app.command()
@command(*VISIT, "as_json", "quiet")
def verify(
    session: Session,
    ref: RefArgument,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="A copy of the content, to hash.",
            show_default=False,
            parser=existing_path,
        ),
    ] = None,
    trust: TrustOption = None,
    rule: RuleOption = None,
    from_peer: FromOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Check a manifest, and the content that is here.

    Its signature, its signer, its approvals, and that the content is what it names. Exits with 5
    where something was changed, with 6 where its signer is not trusted or too few approve.
    """
    found = _manifest(session, ref, from_peer, timeout, trust=trust, rule=rule)
    say = session.output.say
    say(f"signature: {found['signer']} signed {found['name']} version {found['version']}")
    content = _check_content(session, found, path)
    trusted = found["trusted"]
    say(f"signer: {'trusted' if trusted else 'NOT TRUSTED'} {found['note']}".rstrip())
    if not trusted:
        say(f"  if you know that key to be theirs: lattica trust add {found['signer']}")
    approved = found.get("approved", True)
    if rule is not None:
        count = len(found["approved_by"])
        verdict = "" if approved else ": NOT APPROVED"
        say(f"approval: {count} approve, {rule} are needed{verdict}")
    status = 5 if content == "changed" else 0 if trusted and approved else EXIT_REFUSED
    session.output.data("valid" if status == 0 else "NOT VALID")
    session.output.result({**found, "content": content, "valid": status == 0})
    if status:
        raise SystemExit(status)


@app.command()
@command(*VISIT, "as_json", "quiet")
def lineage(
    session: Session,
    ref: RefArgument,
    dot: Annotated[bool, typer.Option("--dot", help="Print a graph for Graphviz.")] = False,
    from_peer: FromOption = None,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Print what a model was made from, to the roots.

    From whichever peers have the manifests.
    """
    params = {"ref": ref, "peers": list(from_peer or ()), "timeout": timeout}
    found = visit(session, Request("lineage", params))
    if dot:
        session.output.data(found["dot"])
    else:
        for line in found["lines"]:
            session.output.data(_lineage_line(line))
    if not found["complete"]:
        session.output.say("not all of it was found")
    session.output.result(found)


@app.command()
@command(*VISIT, "as_json", "quiet")
def sign(
    session: Session,
    ref: RefArgument,
    from_peer: FromOption = None,
    timeout: TimeoutOption = 120.0,
) -> None:
    """Countersign a manifest, with this node's key.

    That tells others: what it says is true.
    """
    _vouch(session, ref, "sign", from_peer, timeout)


@app.command()
@command(*VISIT, "as_json", "quiet")
def approve(
    session: Session,
    ref: RefArgument,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Take it back: it must not be used.")
    ] = False,
    from_peer: FromOption = None,
    timeout: TimeoutOption = 120.0,
) -> None:
    """Approve of a version, with this node's key.

    Those who ask for approvals may use it then.
    """
    _vouch(session, ref, "revoke" if revoke else "approve", from_peer, timeout)


@trust_app.command("add")
@command("home", "quiet")
def trust_add(
    session: Session,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="A peer ID.", show_default=False)],
    note: Annotated[str, typer.Argument(metavar="NOTE", help="Who that is.")] = "",
) -> None:
    """Trust what a key signs."""
    from lattica.identity import PeerId
    from lattica.models import add_key

    session.home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    added = add_key(session.home.trust, PeerId.parse(peer), note)
    session.output.say(f"{peer} is trusted{'' if added else ' already'}")


@trust_app.command("rm")
@command("home", "quiet")
def trust_rm(
    session: Session,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="A peer ID.", show_default=False)],
) -> None:
    """Trust a key no longer."""
    from lattica.errors import NotFound
    from lattica.identity import PeerId
    from lattica.models import remove_key

    if not remove_key(session.home.trust, PeerId.parse(peer)):
        raise NotFound(f"{peer} was not trusted", hint="see `lattica trust ls`")
    session.output.say(f"{peer} is no longer trusted")


@trust_app.command("ls")
@command("home", "as_json")
def trust_ls(session: Session) -> None:
    """List the keys that are trusted."""
    from lattica.models import read_keys

    keys = [(str(one.peer), one.note) for one in read_keys(session.home.trust)]
    session.output.table(("PEER", "NOTE"), keys)
    session.output.result({"keys": [{"peer": peer, "note": note} for peer, note in keys]})


def _manifest(
    session: Session,
    ref: str,
    from_peer: list[str] | None,
    timeout: float | None,
    *,
    trust: Path | None = None,
    rule: str | None = None,
) -> Any:
    params = {"ref": ref, "peers": list(from_peer or ()), "timeout": timeout}
    return visit(session, Request("manifest", params | trust_params(trust, rule)))


def trust_params(trust: Path | None, rule: str | None) -> dict[str, Any]:
    """Return what a request says of whom to believe, and of how many must approve."""
    keys = []
    if trust is not None:
        from lattica.models import read_keys

        keys = [str(one.peer) for one in read_keys(trust)]
    return {"trust": keys, "only": trust is not None, "rule": rule}


def _check_content(session: Session, found: Mapping[str, Any], path: Path | None) -> str:
    """Say, and return, whether the content that is here is what the manifest names."""
    if path is not None:
        from lattica.content import build
        from lattica.models import cut_file

        function = _hash_of(found["root"])
        root = str(build(path, segments=cut_file, hash_function=function).root)
        same = root == found["root"]
        session.output.say(
            f"content: {path} is what was published"
            if same
            else f"content: CHANGED: {path} is {root}, {found['root']} was published"
        )
        return "same" if same else "changed"
    if not found["here"]:
        session.output.say("content: not here; it is verified as it arrives")
        return "absent"
    report = visit(session, Request("verify", {"ref": found["root"]}), "verify")
    damaged = report["damaged_count"]
    session.output.say(
        f"content: CHANGED: {damaged} blocks do not match"
        if damaged
        else f"content: {size(report['checked_bytes'])} here, all of it matches"
    )
    return "changed" if damaged else "same"


def _hash_of(root: str) -> HashFunction:
    from lattica.cid import CID

    return CID.parse(root).hash_function


def _vouch(
    session: Session, ref: str, verdict: str, from_peer: list[str] | None, timeout: float | None
) -> None:
    params = {
        "ref": ref,
        "verdict": verdict,
        "peers": list(from_peer or ()),
        "timeout": timeout,
    }
    found = visit(session, Request("vouch", params))
    words = {"sign": "signed", "approve": "approved", "revoke": "revoked"}
    session.output.data(f"{words[verdict]}\t{found['manifest']}\t{found['signer']}")
    if not found["told"]:
        session.output.say("nobody else knows of it yet: a running node goes on telling the DHT")
    session.output.result(found)


def _print(output: Output, found: Mapping[str, Any]) -> None:
    trusted = "trusted" if found["trusted"] else "NOT TRUSTED"
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(found["created"]))
    files = counted(len(found["files"]), "file")
    rows = [
        ("manifest", found["cid"]),
        ("name", f"{found['name']} version {found['version']}"),
        ("signer", f"{found['signer']} ({trusted}{', ' if found['note'] else ''}{found['note']})"),
        ("published", when),
        ("licence", found["licence"] or "none is named"),
        ("message", found["message"]),
        ("content", f"{found['root']} ({size(found['size'])}, {files})"),
        *((link["kind"], link["cid"]) for link in found["links"]),
        *(("delta", f"{one['delta']} ({size(one['size'])})") for one in found["deltas"]),
        *((f"meta {name}", str(value)) for name, value in found["meta"].items()),
        *(
            (one["verdict"], f"{one['signer']} ({'trusted' if one['trusted'] else 'NOT TRUSTED'})")
            for one in found["statements"]
        ),
    ]
    for name, value in rows:
        if value:
            output.data(f"{one_line(name):10} {one_line(value)}")


def _lineage_line(line: Mapping[str, Any]) -> str:
    about = line["state"]
    if "name" in line:
        trusted = "" if line["trusted"] else ", NOT TRUSTED"
        licence = f", {one_line(line['licence'])}" if line["licence"] else ""
        about = f"{line['name']} v{line['version']}{licence}, by {line['signer'][-8:]}{trusted}"
    how = f"{line['kind']}: " if line["kind"] else ""
    again = " (see above)" if line["again"] else ""
    return f"{'  ' * line['depth']}{how}{about}  {line['cid']}{again}"
