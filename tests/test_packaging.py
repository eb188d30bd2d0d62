"""The layers' folders, their links in `lattica/` and the package table say the same thing."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("dht", "pubsub", "transport")

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
    assert _setuptools_table()["packages"] == _packages_on_disk()


def test_the_table_maps_each_layer_to_its_folder() -> None:
    mapping = {f"lattica.{layer}": layer for layer in LAYERS}
    assert _setuptools_table()["package-dir"] == {"lattica": "lattica", **mapping}


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_is_linked_where_tools_look_for_it(layer: str) -> None:
    link = ROOT / "lattica" / layer
    assert link.is_symlink(), f"lattica/{layer} must be a link: git config core.symlinks true"
    assert link.readlink() == Path("..", layer)


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
