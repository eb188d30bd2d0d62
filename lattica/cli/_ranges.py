"""`lattica get --range`: a part of an object, into a file or to stdout."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattica._control import Request
from lattica._sizes import parse_range
from lattica.errors import InvalidInput

from . import _show
from ._visit import visit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ._session import Session


def get_range(
    session: Session,
    ref: str,
    text: str,
    output: Path | None,
    *,
    file: str,
    options: Mapping[str, Any],
) -> None:
    """Get the range `text` (`OFFSET:LENGTH`) of `ref`; without `output`, its bytes go to stdout."""
    offset, length = parse_range(text)
    with _destination(output) as path:
        params = {
            **options,
            "ref": ref,
            "offset": offset,
            "length": length,
            "path": file,
            "destination": str(path),
        }
        answer = visit(session, Request("read", params))
        if output is None:
            with path.open("rb") as found:
                shutil.copyfileobj(found, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
            session.output.say(f"{answer['length']} bytes match {answer['cid']}")
        else:
            _show.range_read(session.output, answer)


@contextmanager
def _destination(output: Path | None) -> Iterator[Path]:
    """Give where the node writes: for stdout, a file that nobody else can read, for a moment."""
    if output is not None:
        path = output.absolute()
        if path.is_dir():
            raise InvalidInput(f"{path} is a directory", hint="name the file: -o PATH")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lattica-") as folder:
        yield Path(folder) / "range"
