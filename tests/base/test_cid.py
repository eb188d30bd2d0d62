from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lattica.cid import CID, MAX_DIGEST, Codec, HashFunction, read_multihash
from lattica.errors import CodecError, InvalidInput

cids = st.builds(
    lambda codec, data, function: CID.of(data, codec, function),
    st.integers(0, 2**40),
    st.binary(max_size=100),
    st.sampled_from(list(HashFunction)),
)


def test_the_text_of_a_known_object_is_what_ipfs_prints() -> None:
    # `echo -n hello | ipfs add --cid-version 1`
    assert (
        str(CID.of(b"hello", hash_function=HashFunction.SHA2_256))
        == "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    )


@given(cids)
def test_text_and_bytes_name_the_same_cid(cid: CID) -> None:
    assert CID.parse(str(cid)) == cid
    assert CID.from_bytes(bytes(cid)) == cid
    assert read_multihash(cid.multihash) == cid.multihash


@given(cids, st.binary(max_size=9))
def test_a_cid_is_read_from_the_middle_of_a_message(cid: CID, rest: bytes) -> None:
    assert CID.read(b"xy" + bytes(cid) + rest, 2) == (cid, 2 + len(bytes(cid)))


@pytest.mark.parametrize("function", HashFunction)
def test_content_matches_its_own_cid_and_no_other(function: HashFunction) -> None:
    cid = CID.of(b"leaf", Codec.RAW, function)
    assert cid.matches(b"leaf")
    assert not cid.matches(b"leaF")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_cid_or_a_codec_error(data: bytes) -> None:
    try:
        cid = CID.from_bytes(data)
    except CodecError:
        return
    assert bytes(cid) == data


@given(st.text(max_size=80))
def test_any_text_is_a_cid_or_invalid_input(text: str) -> None:
    try:
        CID.parse(text)
    except InvalidInput:
        return


def test_an_oversized_digest_is_refused_before_it_is_read() -> None:
    with pytest.raises(CodecError, match=f"limit {MAX_DIGEST}"):
        CID.from_bytes(b"\x01\x55\x12\xff\xff\xff\x7f")


def test_version_0_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(InvalidInput, match="version 0") as caught:
        CID.parse("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG")
    assert "ipfs cid format" in caught.value.hint


def test_an_unknown_hash_function_is_carried_but_not_computed() -> None:
    cid = CID.from_bytes(b"\x01\x55\x16\x20" + bytes(32))
    with pytest.raises(InvalidInput, match="0x16"):
        cid.matches(b"")


def test_a_short_digest_of_a_known_function_is_not_trusted() -> None:
    cid = CID.from_bytes(b"\x01\x55\x1e\x01\xaf")
    with pytest.raises(InvalidInput, match="1 bytes"):
        cid.matches(b"")
