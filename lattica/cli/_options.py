"""The options that several commands take, spelled once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def existing_path(text: str) -> Path:
    """Return the path of something that is there."""
    # An empty text would be the current directory: a script's unset variable must not share that.
    if not text or not os.path.exists(text):
        raise typer.BadParameter(f"path {text!r} does not exist")
    return Path(text)


PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="The file or directory.", show_default=False, parser=existing_path
    ),
]
RefArgument = Annotated[
    str, typer.Argument(metavar="REF", help="A ticket or a CID.", show_default=False)
]
HashOption = Annotated[
    str,
    typer.Option(
        "--hash", metavar="blake3|sha2-256", help="The hash; most IPFS nodes use sha2-256."
    ),
]
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The node's folder [LATTICA_HOME, ~/.lattica]."),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, help="Log more; -vv everything."
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No talk and no progress, only data and errors.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
LinesOption = Annotated[bool, typer.Option("--json-lines", help="Print JSON events, one a line.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Give up after so long."),
]
ListenOption = Annotated[
    list[str] | None, typer.Option("--listen", metavar="ADDR", help="Listen here (repeatable).")
]
AnnounceOption = Annotated[
    list[str] | None,
    typer.Option("--announce", metavar="ADDR", help="Tell others this address (repeatable)."),
]
BootstrapOption = Annotated[
    list[str] | None,
    typer.Option("--bootstrap", metavar="ADDR", help="Join through this peer (repeatable)."),
]
MdnsOption = Annotated[
    bool | None, typer.Option("--mdns/--no-mdns", help="Find peers on the local network.")
]
FromOption = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="ADDR", help="Ask this peer, too (repeatable)."),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--include", metavar="PATTERN", help="Of a directory, only such files (repeatable)."
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="PATTERN", help="Of a directory, no such files (repeatable)."
    ),
]
CompressOption = Annotated[
    str | None,
    typer.Option(
        "--compress", metavar="auto|on|off", help="Compress on the wire [auto: on slow links]."
    ),
]
QuotaOption = Annotated[
    str | None,
    typer.Option("--quota", metavar="SIZE", help="What the store may keep of its own: 50G."),
]
EncryptToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--encrypt-to", metavar="PEER", help="Only this peer ID can read it (repeatable)."
    ),
]
UnsealOption = Annotated[
    bool | None,
    typer.Option(
        "--unseal/--sealed", help="Open what was encrypted, or take it unread [what REF says]."
    ),
]
SwarmKeyOption = Annotated[
    Path | None,
    typer.Option("--swarm-key", metavar="FILE", help="Be in the private swarm of this key file."),
]
MaxUpOption = Annotated[
    str | None,
    typer.Option("--max-up", metavar="RATE", help="Send at most so much a second: 5M."),
]
MaxDownOption = Annotated[
    str | None,
    typer.Option("--max-down", metavar="RATE", help="Fetch at most so much a second: 5M."),
]
BaseOption = Annotated[
    Path | None,
    typer.Option(
        "--base", metavar="PATH", help="An older version: only the delta from it travels."
    ),
]
SwarmOption = Annotated[
    str | None, typer.Option("--swarm", metavar="NAME", help="Whose announcements to hear.")
]
DhtProtocolOption = Annotated[
    str | None,
    typer.Option("--dht-protocol", metavar="ID", help="Which DHT to join [/lattica/kad/1.0.0]."),
]
TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust", metavar="KEYFILE", help="Trust these keys only: a peer ID a line.", exists=True
    ),
]
RuleOption = Annotated[
    str | None,
    typer.Option("--rule", metavar="2of3", help="How many of the trusted keys must approve."),
]
