"""UnixFS index blocks: the dag-pb bytes of files and directories (spec/content.md §3). Pure.

A block is a dag-pb node (links, then data) whose data is a UnixFS message. Of the many spellings
that the two formats allow, one is written and only that one is read: the bytes that go, js and rust
write for a file or plain directory with CIDv1 and raw leaves. So a value has one block, and a block
one meaning. Every CID that we accept has the same 36 bytes of shape (version, codec, hash function,
length, digest), which is why one regular expression can be the grammar of a file's links.

Sources: https://ipld.io/specs/codecs/dag-pb/spec/ and https://specs.ipfs.tech/unixfs/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from lattica import _varint
from lattica.cid import CID, Codec
from lattica.errors import CodecError, IntegrityError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_BLOCK_BYTES = 2 << 20  # of any block, index or leaf: what every IPFS node accepts
MAX_LINKS = 1024  # links of one file index block
MAX_ENTRIES = 10_000  # entries of one directory
MAX_NAME_BYTES = 255  # of an entry's name, in UTF-8: what file systems take
MAX_SIZE = (1 << 63) - 1  # bytes of content, or of blocks, below one link

_LINK, _DATA, _HASH, _NAME, _TSIZE = b"\x12", b"\x0a", b"\x0a\x24", b"\x12", b"\x18"
_CID = rb"\x01[\x55\x70][\x12\x1e]\x20[\x00-\xff]{32}"  # raw or dag-pb, SHA2-256 or BLAKE3-256
_VARINT = rb"[\x80-\xff]{0,8}[\x00-\x7f]"
_FILE_LINK = re.compile(rb"\x12(.)\x0a\x24(%b)\x12\x00\x18(%b)" % (_CID, _VARINT), re.DOTALL)
_DIRECTORY_LINK_HEAD = re.compile(rb"\x0a\x24(%b)\x12" % _CID)
_FILE_DATA, _DIRECTORY_DATA = b"\x08\x02\x18", b"\x08\x01"  # type (and the tag of filesize)
_BLOCKSIZE = 0x20
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")  # U+009B is as good as ESC [ to some terminals


class DagError(CodecError):
    """A block hashes to its CID and is not an index block of ours. No peer is to blame."""

    code = "dag"
    exit_code: ClassVar[int] = 5
    hint = "the object itself is malformed; whoever published it must publish it again"


class UnsafeName(InvalidInput):
    """A file name that another system could misread, so it is neither shared nor accepted."""

    code = "unsafe-name"
    hint = "rename the file, then share it again"


class Link(NamedTuple):
    """One child of a file: its CID, its content bytes, and `total_size` (dag-pb's Tsize)."""

    cid: CID
    size: int
    total_size: int


class Entry(NamedTuple):
    """One entry of a directory. For a raw `cid`, `total_size` is the length of the content."""

    name: str
    cid: CID
    total_size: int


@dataclass(frozen=True, slots=True)
class FileNode:
    """An index block of a file. `size` is the content below it, `total_size` the DAG with it."""

    links: tuple[Link, ...]
    size: int
    total_size: int


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A plain (unsharded) directory, its entries sorted by the bytes of their names."""

    entries: tuple[Entry, ...]
    total_size: int


def encode_file(links: Sequence[Link]) -> bytes:
    """Return the index block over `links`, in file order."""
    data = bytearray(_FILE_DATA + _varint.encode(sum(link.size for link in links)))
    for link in links:
        data.append(_BLOCKSIZE)
        data += _varint.encode(link.size)
    return _encode_node(((b"", link.cid, link.total_size) for link in links), bytes(data))


def encode_directory(entries: Iterable[Entry]) -> bytes:
    """Return the directory block of `entries`, which are sorted here. Raises UnsafeName."""
    named = sorted((encode_name(entry.name), entry.cid, entry.total_size) for entry in entries)
    return _encode_node(named, _DIRECTORY_DATA)


def decode(cid: CID, block: bytes | bytearray | memoryview) -> FileNode | DirectoryNode:
    """Read the index block of `cid`, after checking that it hashes to it.

    Raises:
        IntegrityError: it does not hash to `cid`: whoever sent it lied.
        DagError: it does, and is not in the one form we accept; `.cid` is set.
    """
    if len(block) > MAX_BLOCK_BYTES or not cid.matches(block):
        raise IntegrityError(f"a block of {len(block)} bytes does not hash to {cid}", cid=cid)
    if cid.codec != Codec.DAG_PB:
        raise DagError(f"{cid} has codec 0x{cid.codec:x}, expected dag-pb", cid=cid)
    try:
        return _decode(bytes(block), cid.multihash[:2])
    except (CodecError, UnsafeName) as error:
        raise DagError(f"index block {cid}: {error}", cid=cid) from None


def encode_name(name: str) -> bytes:
    """Return the bytes of a directory entry's name, if it is one (spec/content.md §4).

    Raises:
        UnsafeName: empty, `.`, `..`, over 255 bytes, not Unicode, or with a slash, a backslash or a
            control character.
    """
    if name in ("", ".", ".."):
        raise UnsafeName(f"{name!r} cannot be the name of a file")
    if found := _UNSAFE.search(name):
        raise UnsafeName(f"the file name {name!r} contains {found[0]!r}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise UnsafeName(f"the file name {name!r} is not UTF-8") from None
    if len(encoded) > MAX_NAME_BYTES:
        raise UnsafeName(f"a file name of {len(encoded)} bytes, limit {MAX_NAME_BYTES}")
    return encoded


def _encode_node(links: Iterable[tuple[bytes, CID, int]], data: bytes) -> bytes:
    out = bytearray()
    for name, cid, total_size in links:
        body = b"".join(
            (_HASH, bytes(cid), _NAME, _varint.encode(len(name)), name, _TSIZE)
        ) + _varint.encode(total_size)
        out += _LINK + _varint.encode(len(body)) + body
    return bytes(out + _DATA + _varint.encode(len(data)) + data)


def _decode(block: bytes, multihash_head: bytes) -> FileNode | DirectoryNode:
    # The data comes last, after links of unknown number; what kind of node it is decides how
    # strictly the links are read. Both kinds of link fail at the same place: where data starts.
    children, position = _file_links(block)
    data = _node_data(block, position)
    if data is not None and data.startswith(_FILE_DATA):
        node: FileNode | DirectoryNode = _file_node(block, children, data)
        cids = [cid for cid, _ in children]
    else:
        entries, position = _entries(block)
        if _node_data(block, position) != _DIRECTORY_DATA:
            raise DagError("neither a plain file nor a plain directory in canonical form")
        node = _directory_node(block, entries)
        cids = [entry.cid for entry in entries]
    if not all(cid.multihash.startswith(multihash_head) for cid in cids):
        raise DagError("links of another hash function than the block's own")
    return node


def _file_links(block: bytes) -> tuple[list[tuple[CID, int]], int]:
    """Read links without names, as CID and total size: `(links, offset after them)`."""
    links: list[tuple[CID, int]] = []
    position = 0
    while found := _FILE_LINK.match(block, position):
        length, cid, total = found.groups()
        if length[0] != found.end() - position - 2:
            break
        if len(links) == MAX_LINKS:
            raise DagError(f"an index block of more than {MAX_LINKS} links")
        links.append((_cid(cid), _varint.decode_whole(total)[0]))
        position = found.end()
    return links, position


def _file_node(block: bytes, children: list[tuple[CID, int]], data: bytes) -> FileNode:
    size, position = _varint.decode_whole(data, len(_FILE_DATA))
    sizes: list[int] = []
    while position < len(data):
        if data[position] != _BLOCKSIZE:
            raise DagError("a file carries more than links and sizes")
        blocksize, position = _varint.decode_whole(data, position + 1)
        sizes.append(blocksize)
    if not children or len(sizes) != len(children):
        raise DagError(f"{len(children)} links and {len(sizes)} sizes")
    if sum(sizes) != size:
        raise DagError(f"declares {size} bytes over links of {sum(sizes)}")
    pairs = zip(children, sizes, strict=True)
    links = tuple(Link(cid, part, total) for (cid, total), part in pairs)
    for link in links:
        _check_link(link)
    return FileNode(links, size, _total_size(block, links))


def _check_link(link: Link) -> None:
    if link.size == 0:
        raise DagError("a link to nothing")
    if link.cid.codec == Codec.RAW:
        if link.total_size != link.size or link.size > MAX_BLOCK_BYTES:
            raise DagError(f"a leaf of {link.size} bytes with total size {link.total_size}")
    elif link.total_size <= link.size:
        raise DagError(f"an index block over {link.size} bytes, {link.total_size} with its blocks")


def _entries(block: bytes) -> tuple[list[Entry], int]:
    entries: list[Entry] = []
    position = 0
    while block[position : position + 1] == _LINK:
        if len(entries) == MAX_ENTRIES:
            raise DagError(f"a directory of more than {MAX_ENTRIES} entries")
        length, start = _varint.decode_whole(block, position + 1)
        head = _DIRECTORY_LINK_HEAD.match(block, start)
        if head is None:
            raise DagError("a link whose CID is not raw or dag-pb under a hash we compute")
        size, offset = _varint.decode_whole(block, head.end())
        name, offset = block[offset : offset + size], offset + size
        if block[offset : offset + 1] != _TSIZE:
            raise DagError("a link without a total size after its name")
        total, position = _varint.decode_whole(block, offset + 1)
        if position - start != length:
            raise DagError(f"a link of {position - start} bytes that declares {length}")
        entries.append(Entry(_entry_name(name), _cid(head[1]), total))
    return entries, position


def _directory_node(block: bytes, entries: list[Entry]) -> DirectoryNode:
    names = [entry.name.encode() for entry in entries]
    if any(left >= right for left, right in pairwise(names)):
        raise DagError("entries out of order, or two of one name")
    for entry in entries:
        if entry.cid.codec == Codec.RAW and entry.total_size > MAX_BLOCK_BYTES:
            raise DagError(f"{entry.name!r} is a leaf of {entry.total_size} bytes")
    return DirectoryNode(tuple(entries), _total_size(block, entries))


def _entry_name(name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise DagError(f"the file name {name!r} is not UTF-8") from None
    encode_name(text)
    return text


def _node_data(block: bytes, position: int) -> bytes | None:
    """Return the data field if it starts at `position` and ends the block."""
    if block[position : position + 1] != _DATA:
        return None
    size, position = _varint.decode_whole(block, position + 1)
    return block[position:] if len(block) - position == size else None


def _total_size(block: bytes, children: Sequence[Link] | Sequence[Entry]) -> int:
    total = len(block) + sum(child.total_size for child in children)
    if total > MAX_SIZE:
        raise DagError(f"{total} bytes of blocks, limit {MAX_SIZE}")
    return total


def _cid(data: bytes) -> CID:
    return CID(data[1], data[2:])
