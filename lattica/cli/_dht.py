"""`lattica dht`: values, providers and peers of the DHT.

The node that runs on this home does it. Where none runs, the command visits the DHT with a node of
its own, which answers nobody and leaves when it is done.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica._control import Request
from lattica._sizes import parse_duration
from lattica.errors import InvalidInput

from ._command import VISIT, command
from ._options import (
    TimeoutOption,
)
from ._session import Session
from ._visit import visit

if TYPE_CHECKING:
    from ._output import Output

dht = typer.Typer(
    name="dht",
    help="Put and get signed values, find providers, walk the network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyArgument = Annotated[
    str,
    typer.Argument(metavar="KEY", help="A key such as /lattica/greeting.", show_default=False),
]
CidArgument = Annotated[str, typer.Argument(metavar="CID", help="A CID.", show_default=False)]


@dht.command()
@command(*VISIT, "dht_protocol", "as_json", "lines", "quiet")
def put(
    session: Session,
    key: KeyArgument,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE", help="Text; - reads it from standard input.", show_default=False
        ),
    ],
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="TIME", help="How long it lives: 15m, 24h, 7d.")
    ] = "24h",
    subkey: Annotated[
        str, typer.Option("--subkey", metavar="TEXT", help="Beside your other values of the key.")
    ] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Put bytes instead of text.")] = False,
    typed: Annotated[
        bool, typer.Option("--typed", help="VALUE is JSON: a number, a list, a map, …")
    ] = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Put a value under a key, signed by this node.

    Other nodes' values under the key stay. The running node puts it again until its time is over.
    """
    if raw and typed:
        raise typer.BadParameter("--raw and --typed exclude each other")
    params: dict[str, Any] = {
        "key": key,
        "ttl": parse_duration(ttl),
        "subkey": subkey,
        "timeout": timeout,
    }
    params |= _read_value(value, raw=raw, typed=typed)
    found = visit(session, Request("dht_put", params))
    output = session.output
    who = _nodes(found["holders"], "keep")
    output.data(f"{who} it until {_moment(found['expires'])}")
    for why, count in sorted(found["refused"].items()):
        output.say(f"{count} did not: {why}")
    output.result(found, "put")


@dht.command()
@command(*VISIT, "dht_protocol", "as_json", "lines", "quiet")
def get(
    session: Session,
    key: KeyArgument,
    subkey: Annotated[
        str | None, typer.Option("--subkey", metavar="TEXT", help="Only values of this subkey.")
    ] = None,
    author: Annotated[
        str | None, typer.Option("--author", metavar="PEER", help="Only values of this peer.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the newest value, text or bytes, as it is.")
    ] = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Print the values under a key.

    The newest valid one of each subkey and author.
    """
    params = {"key": key, "subkey": subkey, "author": author, "timeout": timeout}
    found = visit(session, Request("dht_get", params))
    if raw:
        sys.stdout.buffer.write(_raw(found["entries"]))
        sys.stdout.buffer.flush()
        return
    _show_values(session.output, found)


@dht.command()
@command("home", "as_json", "lines", "quiet")
def provide(
    session: Session,
    cid: CidArgument,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Have the running node announce that it has a CID.

    From now on. What is shared is announced without this.
    """
    found = session.ask(Request("dht_provide", {"cid": cid, "timeout": timeout}))
    session.output.data(f"{found['told']} peers were told")
    session.output.result(found, "provided")


@dht.command()
@command(*VISIT, "dht_protocol", "as_json", "lines", "quiet")
def providers(
    session: Session,
    cid: CidArgument,
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="N", min=1, help="How many at most.")
    ] = 20,
    timeout: TimeoutOption = 60.0,
) -> None:
    """List the peers that provide what a CID names."""
    params = {"cid": cid, "count": count, "timeout": timeout}
    found = visit(session, Request("dht_providers", params))
    output = session.output
    rows = [(row["peer"], " ".join(row["addresses"])) for row in found["providers"]]
    output.table(("PEER", "ADDRESSES"), rows)
    if found["this_node"]:
        output.say("this node provides it, too" if rows else "this node alone provides it")
    _show_rows(output, found, "providers", "provider")


@dht.command()
@command(*VISIT, "dht_protocol", "as_json", "lines", "quiet")
def crawl(
    session: Session,
    most: Annotated[
        int, typer.Option("--most", metavar="N", min=1, help="Peers to find at most.")
    ] = 10_000,
    timeout: TimeoutOption = 120.0,
) -> None:
    """Walk the whole DHT, and list who is in it. When time is up, what was found is listed."""
    found = visit(session, Request("dht_crawl", {"most": most, "timeout": timeout}))
    output = session.output
    rows = [
        (
            row["peer"],
            "answers" if row["reachable"] else row["error"] or "not asked",
            str(row["contacts"]),
            row["agent"],
            row["addresses"][0] if row["addresses"] else "",
        )
        for row in found["peers"]
    ]
    output.table(("PEER", "STATE", "CONTACTS", "AGENT", "ADDRESS"), rows)
    whole = "all that were named were asked" if found["complete"] else "there may be more"
    output.say(
        f"{found['reachable']} of {len(rows)} peers of {found['protocol']} answer, found in "
        f"{found['seconds']:.1f} s; {whole}"
    )
    if not rows:
        output.say("no peer is known: --bootstrap ADDR joins the network through one")
    _show_rows(output, found, "peers", "peer")


@dht.command()
@command("home", "as_json", "quiet")
def status(session: Session) -> None:
    """Show the running node's part in the DHT."""
    found = session.ask(Request("dht_status"))
    for name, value in found.items():
        if not isinstance(value, (dict, list)):
            session.output.data(f"{name}\t{_said(value)}")
    session.output.result(found)


def _said(value: object) -> str:
    """Return a value as people write it: yes, and three digits of a fraction."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}"
        case None:
            return "-"
    return str(value)


def _read_value(text: str, *, raw: bool, typed: bool) -> dict[str, Any]:
    """Return the value as the node takes it."""
    if text == "-":
        data = sys.stdin.buffer.read((1 << 16) + 1)  # far more than a value may have
    else:
        data = text.encode("utf-8", "surrogateescape")
    if raw:
        return {"base64": base64.b64encode(data).decode()}
    try:
        value = data.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the value is not UTF-8 text", hint="put bytes with --raw") from None
    if not typed:
        return {"value": value}
    try:
        return {"value": json.loads(value)}
    except ValueError as error:
        raise InvalidInput(f"the value is not JSON: {error}") from None


def _show_values(output: Output, found: dict[str, Any]) -> None:
    now = time.time()
    rows = []
    for entry in found["entries"]:
        value = entry["value"]
        shown = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
        left = f"{max(0.0, entry['expires'] - now):.0f} s"
        rows.append((shown, _name(entry["subkey"]), entry["author"] or "", left))
    output.table(("VALUE", "SUBKEY", "AUTHOR", "EXPIRES IN"), rows)
    said = f"{_nodes(found['holders'], 'hold')} it; "
    said += f"{found['answered']} of {found['asked']} peers answered"
    if found["stale"]:
        said += f"; {found['stale']} lacked something newer"
    if not found["complete"]:
        said += "; there may be newer values"
    if found["invalid"]:
        said += f"; {found['invalid']} values were refused"
    output.say(said)
    _show_rows(output, found, "entries", "value")


def _show_rows(output: Output, found: dict[str, Any], rows: str, event: str) -> None:
    for row in found[rows]:
        output.event(event, row)
    rest = {name: value for name, value in found.items() if name != rows}
    output.result(found) if output.face.name == "JSON" else output.event("done", rest)


def _raw(entries: list[dict[str, Any]]) -> bytes:
    newest = max(entries, key=lambda entry: (entry["created"], entry["sequence"]))
    value = newest["value"]
    if newest["type"] == "bytes":
        return base64.b64decode(value["base64"])
    if newest["type"] == "str":
        return bytes(value, "utf-8")
    raise InvalidInput(f"the value is of type {newest['type']}", hint="print it with --json")


def _nodes(count: int, verb: str) -> str:
    return f"1 node {verb}s" if count == 1 else f"{count} nodes {verb}"


def _name(subkey: Any) -> str:
    return subkey if isinstance(subkey, str) else json.dumps(subkey)


def _moment(seconds: float) -> str:
    with contextlib.suppress(OverflowError, OSError, ValueError):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{seconds:.0f}"
