"""Manifests: what is signed cannot be changed; who approves, who is trusted, where it came from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lattica.cid import CID
from lattica.errors import InvalidInput, LatticaError
from lattica.identity import Identity
from lattica.models import (
    BadSignature,
    Lineage,
    Manifest,
    ManifestError,
    ManifestFile,
    Rule,
    SignedManifest,
    Statement,
    TrustedKey,
    Verdict,
    _lineage,
    _trust,
    add_key,
    read_keys,
    remove_key,
)

if TYPE_CHECKING:
    from pathlib import Path

ADA, BOB, EVE, DAN = (Identity(bytes([n]) * 32) for n in range(4))
ROOT = CID.of(b"weights")
PLAIN = Manifest("team/model", 1, 1_800_000_000, ROOT, 7, licence="MIT")


def test_a_manifest_comes_back_as_it_was_signed() -> None:
    full = replace(
        PLAIN,
        files=(ManifestFile("a/b.safetensors", 7, ROOT),),
        message="two\nlines",
        parent=PLAIN.sign(ADA).cid,
        data=(CID.of(b"data"),),
        meta={"loss": 0.5, "deep": [{"a": None}]},
    )
    signed = full.sign(BOB)
    read = SignedManifest.decode(signed.encoded)
    assert (read.manifest, read.signer, read.cid) == (full, BOB.peer_id, signed.cid)


@given(st.data())
@settings(max_examples=300)
def test_no_changed_bit_goes_unnoticed(data: st.DataObject) -> None:
    encoded = bytearray(PLAIN.sign(ADA).encoded)
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises((ManifestError, BadSignature)):
        SignedManifest.decode(encoded)


def test_a_changed_letter_of_the_licence_is_noticed() -> None:
    encoded = PLAIN.sign(ADA).encoded
    with pytest.raises(BadSignature) as caught:
        SignedManifest.decode(encoded.replace(b"MIT", b"BSD"))
    assert caught.value.exit_code == 5
    assert replace(PLAIN, licence="BSD").sign(ADA).cid != PLAIN.sign(ADA).cid


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no spaces"}, {"version": 0}, {"licence": "\x1b[2J"}, {"message": "x" * 4097},
        {"root": CID(0x0201, ROOT.multihash)}, {"files": (ManifestFile("../x", 1, ROOT),)},
        {"meta": {"x": b"y" * 200_000}}, {"created": -1}, {"data": (ROOT,) * 257},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_readers_would_refuse_is_not_signed(change: dict[str, object]) -> None:
    with pytest.raises(LatticaError):
        replace(PLAIN, **change).sign(ADA)  # type: ignore[arg-type]  # wrong values are the point


def test_what_a_later_version_adds_is_kept() -> None:
    later = replace(PLAIN, extra={"zzz": [1, 2]})
    read = SignedManifest.decode(later.sign(ADA).encoded)
    assert read.manifest.extra == {"zzz": [1, 2]}
    assert read.manifest.encode() == later.encode()


class TestRules:
    CID = PLAIN.sign(ADA).cid
    THREE = frozenset(one.peer_id for one in (ADA, BOB, EVE))

    def say(self, who: Identity, verdict: Verdict, when: int = 5) -> Statement:
        return Statement.make(who, self.CID, verdict, when)

    def test_two_of_three_must_approve(self) -> None:
        rule = Rule.parse("2of3", self.THREE)
        said = [self.say(BOB, Verdict.APPROVE)]
        assert not rule.approved(self.CID, None, said)
        assert not rule.approved(self.CID, None, [*said, *said, self.say(DAN, Verdict.APPROVE)])
        assert not rule.approved(self.CID, None, [*said, self.say(EVE, Verdict.SIGN)])
        other = Statement.make(EVE, PLAIN.sign(BOB).cid, Verdict.APPROVE, 5)
        assert not rule.approved(self.CID, None, [*said, other])
        assert rule.approved(self.CID, None, [*said, self.say(EVE, Verdict.APPROVE)])

    def test_a_named_publisher_has_approved_by_publishing(self) -> None:
        rule = Rule(2, self.THREE)
        assert rule.approved(self.CID, ADA.peer_id, [self.say(BOB, Verdict.APPROVE)])
        assert not rule.approved(self.CID, DAN.peer_id, [self.say(BOB, Verdict.APPROVE)])
        said = [self.say(BOB, Verdict.APPROVE), self.say(ADA, Verdict.REVOKE)]
        assert not rule.approved(self.CID, ADA.peer_id, said)

    def test_the_latest_word_counts_and_in_doubt_the_one_that_revokes(self) -> None:
        rule = Rule(1, frozenset([BOB.peer_id]))
        yes, no = self.say(BOB, Verdict.APPROVE, 5), self.say(BOB, Verdict.REVOKE, 6)
        for said in ([yes, no], [no, yes]):
            assert not rule.approved(self.CID, None, said)
        assert rule.approved(self.CID, None, [no, self.say(BOB, Verdict.APPROVE, 7)])
        assert not rule.approved(self.CID, None, [no, self.say(BOB, Verdict.APPROVE, 6)])

    @pytest.mark.parametrize("text", ["2", "0of3", "4of3", "2of2", "2of4", "twoof3", ""])
    def test_rules_that_nobody_could_satisfy_are_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            Rule.parse(text, self.THREE)


class TestLineage:
    @staticmethod
    def walk(lineage: Lineage, known: dict[CID, SignedManifest]) -> Lineage:
        for _ in range(3000):
            wanted = lineage.wanted()
            if not wanted:
                return lineage
            for cid in wanted:
                lineage.receive(cid, known.get(cid))
        raise AssertionError("the walk does not end")

    def test_it_walks_to_the_roots(self) -> None:
        base = PLAIN.sign(BOB)
        data = CID.of(b"data")
        second = replace(PLAIN, version=2, base=(base.cid,), data=(data,)).sign(ADA)
        third = replace(PLAIN, version=3, parent=second.cid, data=(data,)).sign(ADA)
        found = self.walk(Lineage(third.cid), {one.cid: one for one in (base, second, third)})
        assert found.complete
        assert [(depth, how, one.cid, again) for depth, how, one, again in found.lines()] == [
            (0, "", third.cid, False),
            (1, "parent", second.cid, False),
            (2, "base", base.cid, False),
            (2, "data", data, False),
            (1, "data", data, True),
        ]
        assert f'"{third.cid}" -> "{second.cid}" [label="parent"];' in found.dot()

    def test_what_is_not_found_is_said(self) -> None:
        lost = PLAIN.sign(BOB).cid
        first = replace(PLAIN, version=2, parent=lost).sign(ADA)
        found = self.walk(Lineage(first.cid), {first.cid: first})
        assert not found.complete
        assert found.ancestors[lost].state == "missing"

    def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chain = [PLAIN.sign(ADA)]
        for version in range(2, 30):
            chain.append(replace(PLAIN, version=version, parent=chain[-1].cid).sign(ADA))
        known = {one.cid: one for one in chain}
        monkeypatch.setattr(_lineage, "MAX_MANIFESTS", 10)
        found = self.walk(Lineage(chain[-1].cid), known)
        assert sum(one.state == "found" for one in found.ancestors.values()) == 10
        assert not found.complete
        monkeypatch.setattr(_lineage, "MAX_LINKS", 3)
        wide = replace(PLAIN, data=tuple(CID.of(bytes([n])) for n in range(9))).sign(ADA)
        assert len(self.walk(Lineage(wide.cid), {wide.cid: wide}).ancestors) == 4


class TestTrust:
    def test_keys_are_added_and_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "trust"
        assert read_keys(path) == []
        assert add_key(path, ADA.peer_id, "ada, at home")
        assert not add_key(path, ADA.peer_id, "ada, at home")
        assert add_key(path, BOB.peer_id)
        assert add_key(path, ADA.peer_id, "ada")
        assert read_keys(path) == [TrustedKey(BOB.peer_id, ""), TrustedKey(ADA.peer_id, "ada")]
        assert remove_key(path, BOB.peer_id)
        assert not remove_key(path, BOB.peer_id)
        assert [one.peer for one in read_keys(path)] == [ADA.peer_id]

    def test_a_line_that_is_no_key_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "trust"
        path.write_text(f"# mine\n\n{ADA.peer_id} # ada\nnobody\n")
        with pytest.raises(InvalidInput, match="line 4"):
            read_keys(path)
        with pytest.raises(InvalidInput, match="print"):
            add_key(tmp_path / "other", ADA.peer_id, "two\nlines")

    def test_a_key_file_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "trust"
        path.write_text(f"{ADA.peer_id}\n{BOB.peer_id}\n")
        monkeypatch.setattr(_trust, "MAX_KEYS", 1)
        with pytest.raises(InvalidInput, match="limit 1"):
            read_keys(path)
        monkeypatch.setattr(_trust, "_MAX_BYTES", 10)
        with pytest.raises(InvalidInput, match="more than 10"):
            read_keys(path)
