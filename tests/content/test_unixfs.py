"""Index blocks: one form, read back as written; anything else is a typed error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from lattica.cid import CID, DIGEST_SIZE, Codec, HashFunction
from lattica.content import DagError, DirectoryNode, Entry, FileNode, Link, UnsafeName
from lattica.content._unixfs import (
    MAX_BLOCK_BYTES,
    MAX_ENTRIES,
    MAX_LINKS,
    decode,
    encode_directory,
    encode_file,
    encode_name,
)
from lattica.errors import CodecError, IntegrityError

digests = st.binary(min_size=DIGEST_SIZE, max_size=DIGEST_SIZE)
multihashes = digests.map(lambda digest: bytes((HashFunction.BLAKE3, DIGEST_SIZE)) + digest)
leaf_links = st.builds(
    lambda multihash, size: Link(CID(Codec.RAW, multihash), size, size),
    multihashes,
    st.integers(1, MAX_BLOCK_BYTES),
)
index_links = st.builds(
    lambda multihash, size, more: Link(CID(Codec.DAG_PB, multihash), size, size + more),
    multihashes,
    st.integers(1, 2**50),
    st.integers(1, 2**40),
)
safe = st.characters(exclude_characters="/\\", exclude_categories=["Cc", "Cs"])
names = st.text(safe, min_size=1, max_size=60).filter(lambda name: name not in (".", ".."))
A_LEAF = CID.of(b"a leaf")


def cid_of(block: bytes) -> CID:
    return CID.of(block, Codec.DAG_PB)


@given(st.lists(leaf_links | index_links, min_size=1, max_size=20))
def test_a_file_block_reads_back_as_it_was_written(links: list[Link]) -> None:
    block = encode_file(links)
    node = decode(cid_of(block), block)
    assert isinstance(node, FileNode)
    assert list(node.links) == links
    assert node.size == sum(link.size for link in links)
    assert node.total_size == len(block) + sum(link.total_size for link in links)


@given(st.dictionaries(names, leaf_links | index_links, max_size=20))
def test_a_directory_block_reads_back_sorted_by_the_bytes_of_its_names(
    children: dict[str, Link],
) -> None:
    entries = [Entry(name, link.cid, link.total_size) for name, link in children.items()]
    block = encode_directory(entries)
    node = decode(cid_of(block), block)
    assert isinstance(node, DirectoryNode)
    assert list(node.entries) == sorted(entries, key=lambda entry: entry.name.encode())


@given(st.data())
@settings(max_examples=300)
def test_a_changed_block_has_one_form_or_is_refused(data: st.DataObject) -> None:
    links = data.draw(st.lists(leaf_links, min_size=1, max_size=4))
    block = bytearray(encode_file(links))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(block) - 1))
        block[position] = data.draw(st.integers(0, 255))
    _is_canonical_or_refused(bytes(block))


@given(st.binary(max_size=200))
def test_any_bytes_have_one_form_or_are_refused(block: bytes) -> None:
    _is_canonical_or_refused(block)


@given(st.binary(max_size=100))
def test_any_bytes_after_a_directory_are_refused_or_canonical(tail: bytes) -> None:
    _is_canonical_or_refused(encode_directory([Entry("a", A_LEAF, 3)])[:-4] + tail)


def _is_canonical_or_refused(block: bytes) -> None:
    try:
        node = decode(cid_of(block), block)
    except DagError:
        return
    if isinstance(node, FileNode):
        assert encode_file(node.links) == block
    else:
        assert encode_directory(node.entries) == block


def test_a_block_that_does_not_hash_to_its_cid_is_the_senders_fault() -> None:
    block = encode_file([Link(A_LEAF, 6, 6)])
    with pytest.raises(IntegrityError):
        decode(cid_of(b"other"), block)
    with pytest.raises(IntegrityError):
        decode(cid_of(block), block + b"\0")


def test_a_malformed_object_is_nobodys_protocol_fault_to_retry() -> None:
    assert issubclass(DagError, CodecError)
    assert not DagError.retryable
    assert DagError.exit_code == 5


def test_a_raw_cid_has_no_index() -> None:
    with pytest.raises(DagError, match="codec"):
        decode(CID.of(b"abc"), b"abc")


def test_a_file_block_takes_1024_links_and_no_more() -> None:
    link = Link(A_LEAF, 6, 6)
    full = encode_file([link] * MAX_LINKS)
    node = decode(cid_of(full), full)
    assert isinstance(node, FileNode)
    assert len(node.links) == MAX_LINKS
    over = encode_file([link] * (MAX_LINKS + 1))
    with pytest.raises(DagError, match="more than 1024 links"):
        decode(cid_of(over), over)


def test_a_directory_takes_10_000_entries_and_no_more() -> None:
    entries = [Entry(f"{number:05}", A_LEAF, 6) for number in range(MAX_ENTRIES + 1)]
    full = encode_directory(entries[:-1])
    node = decode(cid_of(full), full)
    assert isinstance(node, DirectoryNode)
    assert len(node.entries) == MAX_ENTRIES
    over = encode_directory(entries)
    with pytest.raises(DagError, match="more than 10000 entries"):
        decode(cid_of(over), over)


def test_a_block_above_2_mib_is_refused_unread() -> None:
    block = bytes(MAX_BLOCK_BYTES + 1)
    with pytest.raises(IntegrityError):
        decode(cid_of(block), block)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/",
        "a\\b",
        "a\0",
        "a\n",
        "\x1b[2J",
        "\x7f",
        "\x9b2J",
        "\ud800",
        "n" * 256,
    ],
)
def test_a_name_that_could_be_misread_is_refused(name: str) -> None:
    with pytest.raises(UnsafeName):
        encode_name(name)
    with pytest.raises(UnsafeName):
        encode_directory([Entry(name, A_LEAF, 6)])


@pytest.mark.parametrize("name", ["a", "...", ".hidden", "é" * 127, "a b:c*?", "日本語"])
def test_an_odd_but_harmless_name_is_kept(name: str) -> None:
    assert encode_name(name).decode() == name


@pytest.mark.parametrize("function", list(HashFunction))
def test_links_have_the_hash_function_of_their_block(function: HashFunction) -> None:
    block = encode_file([Link(CID.of(b"x", Codec.RAW, function), 1, 1)])
    for other in HashFunction:
        cid = CID.of(block, Codec.DAG_PB, other)
        if other is function:
            decode(cid, block)
        else:
            with pytest.raises(DagError, match="hash function"):
                decode(cid, block)
