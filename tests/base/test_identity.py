from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st

from lattica import _protobuf
from lattica.errors import CodecError, InvalidInput
from lattica.identity import Identity, KeyFileError, KeyType, PeerId, PublicKey

if TYPE_CHECKING:
    from pathlib import Path

SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_the_peer_id_of_a_known_key_is_what_the_specification_says() -> None:
    # The Ed25519 key pair of libp2p's peer-ids specification.
    seed = bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d")
    identity = Identity(seed)
    assert identity.public_key.to_protobuf().hex() == (
        "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    assert PeerId.parse(str(identity.peer_id)) == identity.peer_id


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_survives_its_text_and_bytes(seed: bytes) -> None:
    peer = Identity(seed).peer_id
    assert PeerId.parse(str(peer)) == peer
    assert PeerId.from_bytes(peer.raw) == peer


@given(st.text(max_size=70))
def test_any_text_is_a_peer_id_or_invalid_input(text: str) -> None:
    try:
        PeerId.parse(text)
    except InvalidInput:
        return


def test_a_peer_id_written_as_a_cid_is_read() -> None:
    text = "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l"
    assert str(PeerId.parse(text)).startswith("12D3KooW")


def test_content_identifiers_are_not_peer_ids() -> None:
    with pytest.raises(InvalidInput, match="content"):
        PeerId.parse("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_public_key_or_a_codec_error(data: bytes) -> None:
    try:
        key = PublicKey.from_protobuf(data)
    except CodecError:
        return
    assert key.verify(b"message", b"signature") is False


def test_only_the_signer_verifies() -> None:
    one, other = Identity(b"1" * 32), Identity(b"2" * 32)
    signature = one.sign(b"message")
    assert one.public_key.verify(b"message", signature)
    assert not one.public_key.verify(b"massage", signature)
    assert not other.public_key.verify(b"message", signature)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_ecdsa_keys_of_foreign_peers_verify(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    key = PublicKey(KeyType.ECDSA, private.public_key().public_bytes(*SPKI))
    signature = private.sign(b"message", ec.ECDSA(hashes.SHA256()))
    assert key.verify(b"message", signature)
    assert not key.verify(b"other", signature)


def test_secp256k1_keys_of_foreign_peers_verify() -> None:
    private = ec.generate_private_key(ec.SECP256K1())
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    key = PublicKey(KeyType.SECP256K1, point)
    assert key.verify(b"message", private.sign(b"message", ec.ECDSA(hashes.SHA256())))


def test_rsa_keys_verify_and_are_named_by_their_hash() -> None:
    private = rsa.generate_private_key(65537, 2048)
    key = PublicKey(KeyType.RSA, private.public_key().public_bytes(*SPKI))
    assert key.verify(b"message", private.sign(b"message", padding.PKCS1v15(), hashes.SHA256()))
    assert str(key.peer_id).startswith("Qm")
    assert PeerId.parse(str(key.peer_id)) == key.peer_id


def test_a_key_that_claims_another_type_does_not_verify() -> None:
    private = rsa.generate_private_key(65537, 2048)
    key = PublicKey(KeyType.ECDSA, private.public_key().public_bytes(*SPKI))
    signature = private.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    assert not key.verify(b"message", signature)


def test_the_key_file_is_private_and_keeps_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.key"
    first = Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]
    assert Identity.load_or_create(path).peer_id == first.peer_id


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="0640") as caught:
        Identity.load(path)
    assert "chmod 600" in caught.value.hint


def test_an_existing_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = Identity.generate()
    first.save(path)
    with pytest.raises(KeyFileError, match="exists"):
        Identity.generate().save(path)
    assert Identity.load(path).peer_id == first.peer_id


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        _protobuf.encode([(1, 1), (2, b"short")]),
        _protobuf.encode([(1, 0), (2, bytes(64))]),
        _protobuf.encode([(1, 1), (2, bytes(64))]),
    ],
)
def test_a_damaged_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="damaged"):
        Identity.load(path)


def test_an_identity_neither_shows_nor_copies_its_secret() -> None:
    seed = bytes(range(32))
    identity = Identity(seed)
    for text in (repr(identity), str(identity), f"{identity}"):
        assert seed.hex() not in text
        assert repr(seed) not in text
    with pytest.raises(TypeError, match="key file"):
        pickle.dumps(identity)
    with pytest.raises(TypeError, match="key file"):
        copy.copy(identity)


def test_the_folder_made_for_a_key_file_is_private(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "home" / "identity.key")
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
