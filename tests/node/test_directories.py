"""Directories of models: whole and in part, byte for byte, and as other tools read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from lattica.content import NothingSelected, UnreadableSource, UnsafeName
from lattica.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Lab


def make_model(folder: Path) -> dict[str, np.ndarray]:
    """Write what a model's repository on Hugging Face looks like; returns its tensors."""
    rng = np.random.default_rng(7)
    shards = [
        {f"layers.{layer}.weight": rng.standard_normal((300, 400)).astype("<f4")}
        | {f"layers.{layer}.bias": rng.standard_normal(300).astype("<f2"), "empty": np.zeros(0)}
        for layer in range(2)
    ]
    del shards[1]["empty"]
    (folder / "onnx" / "deep").mkdir(parents=True)
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, folder / name, metadata={"format": "pt"})
    weight_map = {key: name for name, part in zip(names, shards, strict=True) for key in part}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"architectures": ["Tiny"]}')
    (folder / "tokenizer.json").write_text("{}" * 1000)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / "README.md").write_text("# Größe\n")
    (folder / "onnx" / "deep" / "model.onnx").write_bytes(bytes(5000))
    return {key: value for part in shards for key, value in part.items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def test_a_model_arrives_as_it_was_and_opens(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "tiny"
    tensors = make_model(source)
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        got = await b.get(shared.ticket, tmp_path / "copy")
        assert (got.cid, got.part_of) == (shared.cid, None)
        assert files_of(got.path) == files_of(source)
        found: dict[str, np.ndarray] = {}
        for path in sorted(got.path.glob("*.safetensors")):
            with safetensors.safe_open(path, "numpy") as opened:
                found |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        assert set(found) == set(tensors)
        assert all(np.array_equal(found[key], tensors[key]) for key in tensors)
        assert (await b.share(got.path)).cid == shared.cid


async def test_a_directory_that_is_got_again_stays_what_it_is(lab: Lab, tmp_path: Path) -> None:
    make_model(tmp_path / "tiny")
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(tmp_path / "tiny")
        await b.get(shared.ticket, tmp_path / "copy")
        again = await b.get(shared.ticket, tmp_path / "copy")
        assert (again.path, again.received_bytes) == (tmp_path / "copy", 0)
    assert files_of(tmp_path / "copy") == files_of(tmp_path / "tiny")


async def test_a_cache_of_hugging_face_arrives_as_plain_files(lab: Lab, tmp_path: Path) -> None:
    make_model(tmp_path / "plain")
    repository = tmp_path / "models--ada--tiny"
    snapshot = repository / "snapshots" / "1234abcd"
    (repository / "blobs").mkdir(parents=True)
    for name, content in files_of(tmp_path / "plain").items():
        blob = repository / "blobs" / f"{abs(hash(content)):x}"
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    async with lab.node("a") as a, lab.node("b") as b:
        with pytest.raises(UnreadableSource):
            await a.share(snapshot)
        with pytest.raises(InvalidInput, match="refuse, follow, skip"):
            await a.share(snapshot, symlinks="maybe")
        shared = await a.share(snapshot, symlinks="follow")
        got = await b.get(shared.ticket, tmp_path / "copy")
        assert files_of(got.path) == files_of(tmp_path / "plain")
        assert not any(path.is_symlink() for path in got.path.rglob("*"))
        assert (await a.share(tmp_path / "plain")).cid == shared.cid


async def test_a_part_of_a_model_is_previewed_and_fetched(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "tiny"
    make_model(source)
    patterns: dict[str, Any] = {"include": ["*.json", "*00001*"], "exclude": ["tokenizer*"]}
    wanted = {
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
    }
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(source)
        whole = await b.preview(shared.ticket)
        assert (whole.cid, whole.size) == (shared.cid, shared.size)
        part = await b.preview(shared.ticket, **patterns)
        assert {file.path for file in part.files} == wanted
        assert b.store.objects() == []
        got = await b.get(shared.ticket, tmp_path / "copy", **patterns)
        assert set(files_of(got.path)) == wanted
        assert (got.cid, got.part_of, got.size) == (part.cid, shared.cid, part.size)
        assert got.received_bytes == part.size
        assert (await a.share(source, **patterns)).cid == got.cid
        with pytest.raises(NothingSelected):
            await a.share(source, include=["*.gguf"])


async def test_a_file_is_previewed_as_itself(lab: Lab) -> None:
    async with lab.node("a") as a, lab.node("b") as b:
        shared = await a.share(lab.file("model.bin", 600_000))
        found = await b.preview(shared.ticket)
        assert [(file.path, file.size) for file in found.files] == [("", 600_000)]
        assert found.cid == shared.cid


async def test_a_name_that_is_misread_elsewhere_is_refused_until_left_out(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "nul.txt").write_text("x")
    (tmp_path / "set" / "fine.txt").write_text("x")
    async with lab.node("a") as a:
        with pytest.raises(UnsafeName, match="device") as caught:
            await a.share(tmp_path / "set")
        assert "--exclude" in caught.value.hint
        assert (await a.share(tmp_path / "set", exclude=["nul*"])).size == 1
