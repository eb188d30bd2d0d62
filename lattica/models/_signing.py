"""Signatures over canonical values, and what people say of a manifest with them. Pure.

A signed thing is a canonical msgpack array `[version, …, signer, signature]`. The signature covers
a domain, so that what is signed here is signed nowhere else, and the array before it, signer
included.
Format: spec/manifest.md.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica import codec
from lattica.cid import CID
from lattica.errors import CodecError, IntegrityError, InvalidInput
from lattica.identity import KeyType, PeerId, PublicKey

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lattica.codec import Value
    from lattica.identity import Identity

VERSION = 1
MAX_STATEMENT = 1024  # bytes
MAX_TIME = 1 << 40  # seconds since 1970: further than any clock, and no overflow anywhere
_SIGNATURE_BYTES = 64
_IDENTITY_MULTIHASH = 0x00
_STATEMENT_DOMAIN = b"lattica/statement/1\0"
_RULE = re.compile(r"(\d{1,3})of(\d{1,3})")


class BadSignature(IntegrityError):
    """A signature does not belong to what it is on."""

    code = "signature"
    retryable = False
    hint = "it was changed, or signed by another key: get it again from whoever published it"


class StatementError(CodecError):
    """The bytes are not a statement about a manifest."""

    code = "statement"


def sign(identity: Identity, domain: bytes, fields: list[Value]) -> bytes:
    """Return `fields` as a signed array, encoded."""
    signed = [VERSION, *fields, identity.peer_id.raw]
    return codec.pack([*signed, identity.sign(domain + codec.pack(signed))])


def read_signed(
    data: bytes | bytearray, domain: bytes, count: int, *, max_size: int
) -> tuple[list[Value], PeerId]:
    """Return the fields of a signed array of `count` fields, and who signed them.

    Raises:
        CodecError: not such an array.
        BadSignature: the signature is not the signer's.
    """
    value = codec.unpack(data, max_size=max_size, max_values=max_size // 4)
    if not isinstance(value, list) or len(value) != count + 3:
        raise CodecError(f"expected an array of {count + 3}")
    version, signer, signature = value[0], value[-2], value[-1]
    if type(version) is not int or version != VERSION:
        raise CodecError(f"version {version!r}, expected {VERSION}")
    if not isinstance(signer, bytes) or not isinstance(signature, bytes):
        raise CodecError("signer and signature are bytes")
    peer = PeerId.from_bytes(signer)
    if len(signature) != _SIGNATURE_BYTES:
        raise BadSignature(f"a signature of {len(signature)} bytes", peer=peer)
    if not _key_of(peer).verify(domain + codec.pack(value[:-1]), signature):
        raise BadSignature(f"the signature is not {peer}'s", peer=peer)
    return value[1:-2], peer


class Verdict(enum.Enum):
    """What a statement says of a manifest."""

    SIGN = "sign"  # I vouch that it is what it says
    APPROVE = "approve"  # it may be used
    REVOKE = "revoke"  # it must not, whatever I said before


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody says of a manifest, signed.

    Attributes:
        manifest: of which.
        verdict: what is said.
        created: when, in seconds since 1970, as the signer's clock has it.
        signer: by whom.
        encoded: the statement as it travels.
    """

    manifest: CID
    verdict: Verdict
    created: int
    signer: PeerId
    encoded: bytes

    @classmethod
    def make(cls, identity: Identity, manifest: CID, verdict: Verdict, created: int) -> Statement:
        """Return a statement signed by `identity`."""
        fields: list[Value] = [bytes(manifest), verdict.value, created]
        encoded = sign(identity, _STATEMENT_DOMAIN, fields)
        return cls(manifest, verdict, created, identity.peer_id, encoded)

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """Read a statement and check its signature. Raises StatementError, BadSignature."""
        try:
            fields, signer = read_signed(data, _STATEMENT_DOMAIN, 3, max_size=MAX_STATEMENT)
            manifest, verdict, created = _statement_fields(fields)
            return cls(CID.from_bytes(manifest), Verdict(verdict), created, signer, bytes(data))
        except (CodecError, ValueError) as error:
            raise StatementError(f"not a statement: {error}") from None


@dataclass(frozen=True, slots=True)
class Rule:
    """How many of which people must approve of a version before it is used.

    Attributes:
        needed: how many.
        approvers: of whom.
    """

    needed: int
    approvers: frozenset[PeerId]

    def __post_init__(self) -> None:
        if not 0 < self.needed <= len(self.approvers):
            raise InvalidInput(
                f"{self.needed} of {len(self.approvers)} approvers",
                hint="name at least as many keys as must approve",
            )

    @classmethod
    def parse(cls, text: str, approvers: Collection[PeerId]) -> Rule:
        """Read `2of3`; `approvers` are the three. Raises InvalidInput."""
        found = _RULE.fullmatch(text.replace(" ", ""))
        if found is None:
            raise InvalidInput(f"the rule {text!r}", hint="2of3: two of three must approve")
        if int(found[2]) != len(set(approvers)):
            raise InvalidInput(
                f"the rule {text!r} for {len(set(approvers))} keys",
                hint="the second number is how many keys are named",
            )
        return cls(int(found[1]), frozenset(approvers))

    def approving(
        self, manifest: CID, publisher: PeerId | None, statements: Iterable[Statement]
    ) -> frozenset[PeerId]:
        """Return which of the approvers approve of a manifest.

        The publisher does by having signed it. Of several statements of one approver the latest
        counts, and of two at the same second the one that revokes.
        """
        said: dict[PeerId, tuple[int, bool]] = {}
        for one in statements:
            if one.manifest == manifest and one.verdict is not Verdict.SIGN:
                news = (one.created, one.verdict is Verdict.REVOKE)
                said[one.signer] = max(said.get(one.signer, news), news)
        found = {signer for signer, (_, revoked) in said.items() if not revoked}
        if publisher is not None and publisher not in said:
            found.add(publisher)
        return self.approvers & found

    def approved(
        self, manifest: CID, publisher: PeerId | None, statements: Iterable[Statement]
    ) -> bool:
        """Say whether enough of the approvers approve of a manifest."""
        return len(self.approving(manifest, publisher, statements)) >= self.needed

    def __str__(self) -> str:
        return f"{self.needed}of{len(self.approvers)}"


def _statement_fields(fields: list[Value]) -> tuple[bytes, str, int]:
    match fields:
        case [bytes(manifest), str(verdict), created] if type(created) is int:
            if 0 <= created <= MAX_TIME:
                return manifest, verdict, created
    raise CodecError("its fields are CID, verdict and time")


def _key_of(peer: PeerId) -> PublicKey:
    """Return the Ed25519 key that a peer ID has inside. Raises CodecError for another kind."""
    if peer.raw[0] != _IDENTITY_MULTIHASH:
        raise CodecError(f"{peer} has no key inside")
    key = PublicKey.from_protobuf(peer.raw[2:])
    if key.type is not KeyType.ED25519 or key.peer_id != peer:
        raise CodecError(f"{peer} is not an Ed25519 key")
    return key
