"""`lattica delta`: a checkpoint as its difference from another, made, applied and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lattica._progress import counted, size

from ._command import command
from ._session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_CODECS = ("auto", "sparse", "xor", "planes", "raw")


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise typer.BadParameter(f"{text!r} is not a file")
    return path


def _file_argument(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text, show_default=False, parser=_file)


OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="PATH", help="Where to.", show_default=False)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@app.command()
@command("home", "as_json", "quiet")
def make(
    session: Session,
    base: Annotated[Path, _file_argument("BASE", "The version that receivers have.")],
    new: Annotated[Path, _file_argument("NEW", "The version that they get.")],
    output: OutputOption,
    codec: Annotated[
        str, typer.Option("--codec", metavar="|".join(_CODECS), help="How every tensor is written.")
    ] = "auto",
    previous: Annotated[
        Path | None,
        typer.Option(
            "--previous",
            metavar="DELTA",
            help="The delta that gives BASE: this one goes on with its chain.",
            parser=_file,
        ),
    ] = None,
    anchor_every: Annotated[
        int | None,
        typer.Option(
            "--anchor-every",
            metavar="N",
            min=1,
            help="Say so when a chain gets as long as that [20].",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write what turns the safetensors file BASE into NEW. It is a safetensors file itself."""
    if codec not in _CODECS:
        raise typer.BadParameter(f"codec {codec!r}, expected one of {', '.join(_CODECS)}")
    from lattica.models import ANCHOR_EVERY, DeltaCodec, chain_after, make_delta

    _refuse_existing(output, force)
    anchor, depth = (None, 1) if previous is None else chain_after(previous, base)
    summary = make_delta(
        base,
        new,
        output,
        codec=None if codec == "auto" else DeltaCodec[codec.upper()],
        anchor=anchor,
        depth=depth,
    )
    full = new.stat().st_size
    session.output.say(
        f"{output.name}: {size(summary.size)} instead of {size(full)}, "
        f"{full / summary.size:.1f} times smaller; "
        f"{counted(len(summary.entries), 'tensor')} changed, {summary.unchanged} did not"
    )
    if depth >= (anchor_every or ANCHOR_EVERY):
        session.output.say(
            f"note: {depth} deltas in a row since {summary.delta.anchor}: publish {new.name} "
            "whole, too, for those who have none of the versions between"
        )
    session.output.data(str(output))
    session.output.result({**summary.to_json(), "path": str(output), "full_size": full})


@app.command()
@command("home", "as_json", "quiet")
def apply(
    session: Session,
    base: Annotated[Path, _file_argument("BASE", "The version that the delta starts from.")],
    delta: Annotated[Path, _file_argument("DELTA", "What `make` wrote.")],
    output: OutputOption,
    force: ForceOption = False,
) -> None:
    """Write the version that DELTA makes of BASE.

    Byte for byte, or nothing.
    """
    from lattica.models import apply_delta

    _refuse_existing(output, force)
    cid = apply_delta(base, delta, output)
    session.output.say(f"{output.name}: every byte matches {cid}")
    session.output.data(str(output))
    session.output.result({"path": str(output), "cid": str(cid), "size": output.stat().st_size})


@app.command()
@command("home", "as_json", "quiet")
def show(
    session: Session,
    delta: Annotated[Path, _file_argument("DELTA", "What `make` wrote.")],
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FILE", help="Its base: shows full sizes.", parser=_file),
    ] = None,
) -> None:
    """Show which versions a delta leads from and to.

    And what each tensor costs.
    """
    from lattica.models import describe_delta, read_delta

    described, entries = read_delta(delta), describe_delta(delta, base)
    session.output.say(f"base    {described.base}")
    session.output.say(f"result  {described.result}, {size(described.result_size)}")
    session.output.say(f"anchor  {described.anchor}, {described.depth} deltas away")
    rows = [
        (entry.name, entry.codec.name.lower(), size(entry.size), _full(entry.full_size))
        for entry in entries
    ]
    session.output.table(("TENSOR", "CODEC", "SIZE", "FULL"), rows)
    listed = [entry.to_json() for entry in entries]
    session.output.result({**described.to_json(), "tensors": listed})


def _full(count: int) -> str:
    return size(count) if count else "-"


def _refuse_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        from lattica.errors import InvalidInput

        raise InvalidInput(f"{output} exists", hint="choose another -o, or --force to replace it")
