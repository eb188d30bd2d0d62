"""The layers' folders, their links in `lattica/` and the package table say the same thing."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("dht", "pubsub", "transport")
VECTORS = "lattica.conform.vectors"  # data: a folder of JSON files, without an __init__.py

pytestmark = pytest.mark.skipif(
    not (ROOT / "lattica" / "__init__.py").exists(), reason="the tests run without the checkout"
)


def _setuptools_table() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "setuptools"
    ]
    return table


def _packages_on_disk() -> list[str]:
    own = [path.parent for path in ROOT.glob("lattica/**/__init__.py")]
    own = [folder for folder in own if not _behind_link(folder)]
    layers = [path.parent for layer in LAYERS for path in (ROOT / layer).glob("**/__init__.py")]
    names = [folder.relative_to(ROOT).parts for folder in own]
    names += [("lattica", *folder.relative_to(ROOT).parts) for folder in layers]
    return sorted(".".join(name) for name in names)


def _behind_link(folder: Path) -> bool:
    return any(path.is_symlink() for path in (folder, *folder.parents))


def test_the_table_lists_every_package() -> None:
    assert _setuptools_table()["packages"] == sorted([*_packages_on_disk(), VECTORS])


def test_the_table_maps_each_layer_to_its_folder() -> None:
    mapping = {f"lattica.{layer}": layer for layer in LAYERS} | {VECTORS: "spec/vectors"}
    assert _setuptools_table()["package-dir"] == {"lattica": "lattica", **mapping}


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_is_linked_where_tools_look_for_it(layer: str) -> None:
    link = ROOT / "lattica" / layer
    assert link.is_symlink(), f"lattica/{layer} must be a link: git config core.symlinks true"
    assert link.readlink() == Path("..", layer)


def test_the_vectors_ship_with_what_runs_them() -> None:
    link = ROOT / "lattica" / "conform" / "vectors"
    assert link.readlink() == Path("..", "..", "spec", "vectors")
    assert _setuptools_table()["package-data"] == {"lattica": ["py.typed"], VECTORS: ["*.json"]}


def test_each_dependency_says_why_it_is_there() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [") + 1
    for line in lines[start : lines.index("]", start)]:
        assert "#" in line, f"no reason given: {line.strip()}"


def test_each_pinned_dependency_has_a_hash() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        pins = lock.read_text().replace("\\\n", " ").splitlines()
        loose = [pin for pin in pins if "==" in pin and "--hash=sha256:" not in pin]
        assert not loose, f"{lock.name}: {loose}"


def _third_party_imports() -> set[str]:
    found = set()
    for package in ("lattica", *LAYERS):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"lattica"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [item for extra in project["optional-dependencies"].values() for item in extra]
    names = {re.split(r"[^\w-]", item)[0] for item in [*project["dependencies"], *optional]}
    modules = {"pynacl": "nacl", "pyopenssl": "OpenSSL"}
    declared = {modules.get(name, name) for name in names}
    by_name = {"libp2p", "pyfastcdc"}  # imported by `importlib`, where they are installed
    assert _third_party_imports() | by_name == declared
