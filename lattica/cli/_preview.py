"""`lattica get --dry-run`: what would be fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica._progress import size

from ._visit import visit

if TYPE_CHECKING:
    from lattica._control import Request

    from ._session import Session


def preview(session: Session, request: Request) -> None:
    """List the files that a `get` with the same options would fetch, and their sizes."""
    found = visit(session, request)
    rows = [(file["path"] or found["cid"], size(file["size"])) for file in found["files"]]
    session.output.table(("FILE", "SIZE"), rows)
    count = len(rows)
    files = "1 file" if count == 1 else f"{count} files"
    session.output.say(f"{files}, {size(found['size'])}; nothing was fetched")
    session.output.result(found)
