"""Readers of the vectors of manifests, statements and names (manifest.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lattica.models import (
    NameRecord,
    SignedManifest,
    Statement,
    decode_table,
    encode_table,
)

from ._readers import expect, wire_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Case = Mapping[str, Any]


def read_manifest(case: Case) -> object:
    """Manifests, statements, names and tables of tensors."""
    return _KINDS[case["kind"]](wire_of(case))


def _manifest(wire: bytes) -> object:
    signed = SignedManifest.decode(wire)
    expect("the body, written again, is in the manifest", signed.manifest.encode() in wire, True)
    found = signed.manifest
    return {
        "cid": str(signed.cid),
        "signer": str(signed.signer),
        "name": found.name,
        "version": found.version,
        "root": str(found.root),
        "licence": found.licence,
        "files": [[one.path, one.size, str(one.root)] for one in found.files],
        "links": [[how, str(cid)] for how, cid in found.links()],
        "extra": sorted(found.extra),
    }


def _statement(wire: bytes) -> object:
    found = Statement.decode(wire)
    return {
        "manifest": str(found.manifest),
        "verdict": found.verdict.value,
        "created": found.created,
        "signer": str(found.signer),
    }


def _name(wire: bytes) -> object:
    found = NameRecord.decode(wire)
    return {"name": str(found.name), "sequence": found.sequence, "manifest": str(found.manifest)}


def _table(wire: bytes) -> object:
    entries = decode_table(wire)
    expect("the table, written again,", encode_table(entries), wire)
    return [[one.name, one.dtype, list(one.shape), one.file, str(one.cid)] for one in entries]


_KINDS: dict[str, Callable[[bytes], object]] = {
    "manifest": _manifest,
    "statement": _statement,
    "name": _name,
    "table": _table,
}
READERS: dict[str, Callable[[Case], object]] = {"manifest": read_manifest}
