"""`lattica index`: the index file of what lies somewhere without a peer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lattica._progress import size

if TYPE_CHECKING:
    from ._session import Session


def write_index(session: Session, path: Path, output: Path | None, hash_name: str) -> None:
    """Hash `path` and write its index file; nothing is shared, and no node is asked."""
    from lattica._new_file import open_new
    from lattica.cid import HashFunction
    from lattica.content import INDEX_SUFFIX, Symlinks, build, encode_index
    from lattica.errors import InvalidInput
    from lattica.models import cut_file

    hashes = {"blake3": HashFunction.BLAKE3, "sha2-256": HashFunction.SHA2_256}
    if hash_name not in hashes:
        raise InvalidInput(
            f"hash function {hash_name!r}, expected one of {', '.join(sorted(hashes))}"
        )
    path = Path(os.path.abspath(path))
    target = path.with_name(path.name + INDEX_SUFFIX) if output is None else output
    built = build(
        path, segments=cut_file, hash_function=hashes[hash_name], symlinks=Symlinks.FOLLOW
    )
    data = encode_index(built.root, built.index)
    part = target.with_name(f"{target.name}.part")
    try:
        with open_new(part) as file:
            file.write(data)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    session.output.data(str(built.root))
    session.output.say(f"{target}: {size(len(data))}, of {size(built.size)}; put it beside those")
    session.output.result({"cid": str(built.root), "path": str(target), "size": len(data)})
