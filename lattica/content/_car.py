"""The index of an object as a file: its index blocks, in the CAR format of IPLD, version 1. Pure.

It stands beside the object where that has no peer, `model.bin.lattica-index` beside `model.bin`, so
that who fetches the bytes from there can check each leaf as it comes. It holds no leaves: 50 bytes
for each quarter of a mebibyte. Any tool that reads CAR files can import it. Format:
spec/content.md section 6.

    varint of 58 | header: CBOR {"roots": [root], "version": 1}
    varint of 36 + n | CID | block of n bytes          once for each block
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lattica import _varint
from lattica.cid import CID, Codec
from lattica.errors import CodecError, InvalidInput

from ._unixfs import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX_SUFFIX = ".lattica-index"
MAX_INDEX = 128 << 20  # bytes of such a file: of content of 600 GiB, in small leaves
_CID_SIZE = 36
_HEADER_START = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00"
_HEADER_END = b"\x67version\x01"
_HEADER_SIZE = len(_HEADER_START) + _CID_SIZE + len(_HEADER_END)


class IndexFileError(CodecError):
    """The bytes are not an index file of the object that was expected."""

    code = "index-file"
    hint = "write it anew with `lattica index FILE`"


def encode_index(root: CID, blocks: Mapping[CID, bytes]) -> bytes:
    """Return the index file of `root`; of an object of one leaf it has no blocks."""
    parts = [_varint.encode(_HEADER_SIZE), _HEADER_START, bytes(root), _HEADER_END]
    for cid, block in blocks.items():
        parts += (_varint.encode(_CID_SIZE + len(block)), bytes(cid), block)
    return b"".join(parts)


def decode_index(data: bytes | bytearray | memoryview, root: CID) -> dict[CID, memoryview]:
    """Return the blocks of an index file by their CIDs, each as claimed: hash it before use.

    Blocks that are no index blocks are left out.

    Raises:
        IndexFileError: not an index file, or that of another object.
    """
    view = memoryview(data)
    if len(view) > MAX_INDEX:
        raise IndexFileError(f"an index file of {len(view)} bytes, limit {MAX_INDEX}")
    header, at = _section(view, 0)
    expected = b"".join((_HEADER_START, bytes(root), _HEADER_END))
    if len(header) != _HEADER_SIZE or header != expected:
        raise IndexFileError(f"not an index file of {root}", cid=root)
    blocks: dict[CID, memoryview] = {}
    while at < len(view):
        section, at = _section(view, at)
        try:
            cid = CID.from_bytes(bytes(section[:_CID_SIZE]))
        except (CodecError, InvalidInput) as error:
            raise IndexFileError(f"the index file of {root}: {error}", cid=root) from None
        if cid.codec == Codec.DAG_PB:
            blocks[cid] = section[_CID_SIZE:]
    return blocks


def _section(view: memoryview, at: int) -> tuple[memoryview, int]:
    try:
        found = _varint.decode(view, at)
    except CodecError as error:
        raise IndexFileError(f"the index file is damaged at {at}: {error}") from None
    if found is None:
        raise IndexFileError(f"the index file is cut short at {at}")
    length, start = found
    if length > _CID_SIZE + MAX_BLOCK_BYTES or length > len(view) - start:
        raise IndexFileError(f"a block of {length} bytes at {at} of an index file of {len(view)}")
    return view[start : start + length], start + length
