"""Manifests: what a version of a model is, what it was made from, and who says so. Pure.

A manifest names the content by its root, so whoever has a manifest that they believe needs to
believe nobody else. It is signed by its publisher, and named by the CID of its signed bytes: a
changed letter of its licence is another manifest, and one that nobody signed. Who else vouches for
it says so in statements of their own (`_signing`). Format: spec/manifest.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lattica import codec
from lattica.cid import CID, Codec
from lattica.errors import CodecError, InvalidInput

from ._delta_plan import DeltaLink
from ._signing import MAX_TIME, read_signed, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lattica.codec import Value
    from lattica.identity import Identity, PeerId

MAX_BODY = 192 << 10  # bytes; the signed manifest is one leaf of 256 KiB at most
MAX_MANIFEST = 256 << 10
MAX_FILES = 512  # listed in a manifest; an object of more is named by its root alone
MAX_LINKS = 256  # of each kind: bases, data sets, …
MAX_TEXT = 4096  # characters of the licence and of the message
MAX_TENSORS = 1 << 20  # in a table
MAX_TABLE = 32 << 20  # bytes of the table of tensors
_MAX_SIZE = (1 << 63) - 1
_MAX_VERSION = (1 << 53) - 1
_DOMAIN = b"lattica/manifest/1\0"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,3}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class ManifestError(CodecError):
    """The bytes are not a manifest."""

    code = "manifest"
    exit_code = 5
    hint = "its publisher must publish it again"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of the object: its path ("" when it is the object), bytes, and root."""

    path: str
    size: int
    root: CID


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a publisher says of one version.

    Attributes:
        name: what the publisher calls the model: `team/model`.
        version: counts up under that name, from 1.
        created: when it was published, in seconds since 1970, as the publisher's clock has it.
        root: the content, a file or a directory.
        size: its content bytes.
        files: its files, where they are not too many to list.
        tensors: CID of the table of its tensors; None where it has none.
        licence: an SPDX expression, or text.
        message: what changed, for people.
        parent: the manifest of the version before.
        base: manifests, or content, of models that this one was made from.
        data: manifests, or content, of data sets that it was trained on.
        recipe: how it was made: code, configuration, logs.
        deltas: ways to it that cost less than all of it.
        meta: whatever else, as canonical values.
        extra: fields of a later version of this format; kept, and signed.
    """

    name: str
    version: int
    created: int
    root: CID
    size: int
    files: tuple[ManifestFile, ...] = ()
    tensors: CID | None = None
    licence: str = ""
    message: str = ""
    parent: CID | None = None
    base: tuple[CID, ...] = ()
    data: tuple[CID, ...] = ()
    recipe: tuple[CID, ...] = ()
    deltas: tuple[DeltaLink, ...] = ()
    meta: Mapping[str, Value] = field(default_factory=dict)
    extra: Mapping[str, Value] = field(default_factory=dict)

    def sign(self, identity: Identity) -> SignedManifest:
        """Return the manifest signed by `identity`. Raises InvalidInput: a field is not valid."""
        body = self.encode()
        try:
            _read_body(codec.unpack(body, max_size=MAX_BODY))
        except CodecError as error:
            raise InvalidInput(f"the manifest would be refused: {error}") from None
        encoded = sign(identity, _DOMAIN, [body])
        return SignedManifest(self, identity.peer_id, encoded)

    def encode(self) -> bytes:
        """Return the body: a canonical map without what is empty. Raises CodecError."""
        body: dict[str, Value] = dict(self.extra)
        for name in _READERS:
            value = _plain(getattr(self, name))
            if value not in (None, "", [], {}):
                body[name] = value
        return codec.pack(body)

    def links(self) -> list[tuple[str, CID]]:
        """Return what it was made from, and how: `parent`, `base`, `data`, `recipe`."""
        parent = [("parent", self.parent)] if self.parent is not None else []
        return [
            *parent,
            *(("base", cid) for cid in self.base),
            *(("data", cid) for cid in self.data),
            *(("recipe", cid) for cid in self.recipe),
        ]


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest whose signature was checked.

    Attributes:
        manifest: what it says.
        signer: who published it. Whether to trust them is for whoever reads it to say.
        encoded: the manifest as it travels, at most 256 KiB.
    """

    manifest: Manifest
    signer: PeerId
    encoded: bytes

    @property
    def cid(self) -> CID:
        """Its name."""
        return CID.of(self.encoded, Codec.MESSAGEPACK)

    @classmethod
    def decode(cls, data: bytes | bytearray) -> SignedManifest:
        """Read a signed manifest and check its signature.

        Raises:
            ManifestError: not a manifest.
            BadSignature: one that its signer did not sign.
        """
        try:
            (body,), signer = read_signed(data, _DOMAIN, 1, max_size=MAX_MANIFEST)
            read = codec.unpack(_bytes(body), max_size=MAX_BODY, max_values=MAX_BODY // 4)
            return cls(_read_body(read), signer, bytes(data))
        except CodecError as error:
            raise ManifestError(f"not a manifest: {error}") from None


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One tensor in the table of a manifest."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    cid: CID


def encode_table(entries: list[TableEntry]) -> bytes:
    """Return a table of tensors. Raises CodecError: it would be larger than is read."""
    rows: list[Value] = [
        [one.name, one.dtype, list(one.shape), one.file, bytes(one.cid)] for one in entries
    ]
    data = codec.pack(rows)
    if len(data) > MAX_TABLE:
        raise CodecError(f"a table of tensors of {len(data)} bytes, limit {MAX_TABLE}")
    return data


def decode_table(data: bytes) -> list[TableEntry]:
    """Read a table of tensors. Raises ManifestError."""
    try:
        rows = codec.unpack(data, max_size=MAX_TABLE, max_values=MAX_TABLE // 4)
        return [_read_row(row) for row in _list(rows, MAX_TENSORS)]
    except CodecError as error:
        raise ManifestError(f"not a table of tensors: {error}") from None


def check_name(name: str) -> str:
    """Return `name` if a model may be called so. Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not the name of a model",
            hint="letters, digits, `.`, `_` and `-`, in up to four parts: team/model",
        )
    return name


def _plain(value: Any) -> Value:
    match value:
        case CID():
            return bytes(value)
        case ManifestFile() | DeltaLink():
            return [_plain(getattr(value, one.name)) for one in fields(value)]
        case tuple():
            return [_plain(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


# --- reading: each field by itself; what is missing is its default


def _read_body(body: Value) -> Manifest:
    if not isinstance(body, dict):
        raise CodecError("its body is not a map")
    found: dict[str, Any] = {
        name: read(body[name]) for name, read in _READERS.items() if name in body
    }
    for name, value in found.items():
        if name not in _NEEDED and value in (None, "", (), {}):
            raise CodecError(f"the field {name!r} is empty, and should be left out")
    if missing := [name for name in _NEEDED if name not in found]:
        raise CodecError(f"the field {missing[0]!r} is missing")
    extra = {name: value for name, value in body.items() if name not in _READERS}
    return Manifest(**found, extra=extra)


def _name(value: Value) -> str:
    try:
        return check_name(_string(value, MAX_TEXT))
    except InvalidInput as error:
        raise CodecError(str(error)) from None


def _text(value: Value) -> str:
    text = _string(value, MAX_TEXT)
    if _CONTROL.search(text):
        raise CodecError("a text has control characters")
    return text


def _string(value: Value, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise CodecError(f"not a text of at most {limit} characters")
    return value


def _integer(value: Value, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise CodecError(f"not an integer from {low} to {high}")
    return value


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise CodecError(f"{type(value).__name__} where bytes are expected")
    return value


def _cid(value: Value) -> CID:
    return CID.from_bytes(_bytes(value))


def _content(value: Value) -> CID:
    cid = _cid(value)
    if cid.codec not in (Codec.RAW, Codec.DAG_PB):
        raise CodecError(f"{cid} is no file or directory")
    return cid


def _manifest_cid(value: Value) -> CID:
    cid = _cid(value)
    if cid.codec != Codec.MESSAGEPACK:
        raise CodecError(f"{cid} is no manifest")
    return cid


def _list(value: Value, limit: int) -> list[Value]:
    if not isinstance(value, list) or len(value) > limit:
        raise CodecError(f"not an array of at most {limit}")
    return value


def _links(value: Value) -> tuple[CID, ...]:
    return tuple(_cid(one) for one in _list(value, MAX_LINKS))


def _files(value: Value) -> tuple[ManifestFile, ...]:
    found = []
    for one in _list(value, MAX_FILES):
        match one:
            case [str(path), size, root]:
                size = _integer(size, 0, _MAX_SIZE)
                found.append(ManifestFile(_path(path), size, _content(root)))
            case _:
                raise CodecError("a file is an array of path, size and root")
    if len({one.path for one in found}) != len(found):
        raise CodecError("a file is listed twice")
    return tuple(found)


def _path(path: str) -> str:
    parts = path.split("/")
    if path and (len(path) > 1024 or any(part in ("", ".", "..") for part in parts)):
        raise CodecError(f"the path {path[:80]!r}")
    if _CONTROL.search(path):
        raise CodecError("a path has control characters")
    return path


def _deltas(value: Value) -> tuple[DeltaLink, ...]:
    found = []
    for one in _list(value, MAX_LINKS):
        match one:
            case [base, result, delta, size]:
                size = _integer(size, 0, _MAX_SIZE)
                found.append(DeltaLink(_content(base), _content(result), _content(delta), size))
            case _:
                raise CodecError("a delta is an array of base, result, delta and size")
    return tuple(found)


def _meta(value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise CodecError("the field 'meta' is not a map")
    return value


def _read_row(row: Value) -> TableEntry:
    match row:
        case [str(name), str(dtype), list(shape), str(file), bytes(cid)]:
            axes = tuple(_integer(axis, 0, _MAX_SIZE) for axis in shape)
            return TableEntry(name, dtype, axes, _path(file), CID.from_bytes(cid))
    raise CodecError("a tensor is an array of name, dtype, shape, file and CID")


_READERS: dict[str, Callable[[Value], object]] = {
    "name": _name,
    "version": lambda value: _integer(value, 1, _MAX_VERSION),
    "created": lambda value: _integer(value, 0, MAX_TIME),
    "root": _content,
    "size": lambda value: _integer(value, 0, _MAX_SIZE),
    "files": _files,
    "tensors": _content,
    "licence": _text,
    "message": _text,
    "parent": _manifest_cid,
    "base": _links,
    "data": _links,
    "recipe": _links,
    "deltas": _deltas,
    "meta": _meta,
}
_NEEDED = ("name", "version", "created", "root", "size")
