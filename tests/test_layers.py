"""Imports point downwards only, and nothing in the package can turn bytes into code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lattica

PACKAGE = Path(lattica.__file__).parent
# A part may import itself and the rows below it. Two parts of one row do not know each other.
ROWS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("testing",),
    ("node",),
    ("models", "sealed"),
    ("state",),
    ("content", "rpc"),
    ("dht", "pubsub"),
    ("transport",),
    ("base",),
)
NODE = {
    "conform",
    "filesystem",
    "node",
    "results",
    "sync",
    "ticket",
    "torch",
    "_announce",
    "_catalog",
    "_control",
    "_control_server",
    "_cutting",
    "_deadline",
    "_deltas",
    "_dht_requests",
    "_finding",
    "_following",
    "_get_calls",
    "_home",
    "_listen",
    "_node_thread",
    "_mdns",
    "_model_calls",
    "_model_requests",
    "_opened",
    "_origins",
    "_params",
    "_private",
    "_progress",
    "_providing",
    "_publish",
    "_read_calls",
    "_reads",
    "_reference",
    "_report",
    "_requests",
    "_sealed",
    "_share_calls",
    "_stat",
    "_store_calls",
    "_swarm",
    "_sync_dht",
    "_sync_models",
    "_sync_opened",
    "_sync_reads",
    "_tensor_files",
}
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}
FRONT_DOOR = "__init__"
BANNED_MODULES = {
    "pickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "torch",
}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}


def _modules() -> Iterator[tuple[str, Path]]:
    folders = [PACKAGE]
    while folders:  # not rglob, which does not follow the links to the layers
        for entry in sorted(folders.pop().iterdir()):
            if entry.is_dir():
                folders.append(entry)
            elif entry.suffix == ".py":
                parts = entry.relative_to(PACKAGE.parent).with_suffix("").parts
                yield ".".join(parts), entry


MODULES = dict(_modules())


def _part(module: str) -> str:
    """The row entry that `module` belongs to. `lattica` itself is the front door: it names all."""
    names = module.removesuffix(".__init__").split(".")
    if len(names) == 1:
        return FRONT_DOOR
    if names[1] in RANK:
        return names[1]
    if names[1] == "__main__":
        return "cli"
    return "node" if names[1] in NODE else "base"


def _imports(module: str, path: Path) -> Iterator[str]:
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            # `from lattica import identity` names a module, too.
            yield from (f"{source}.{alias.name}" for alias in node.names if source == "lattica")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    ours = _part(module)
    for imported in _imports(module, MODULES[module]):
        if imported.split(".")[0] != "lattica" or FRONT_DOOR in (ours, _part(imported)):
            continue
        theirs = _part(imported)
        downwards = theirs == ours or RANK[theirs] > RANK[ours]
        assert downwards, f"{module} imports {imported}: that points upwards"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_turns_bytes_into_code(module: str) -> None:
    path = MODULES[module]
    imported = {name.split(".")[0] for name in _imports(module, path)}
    # Who imports `lattica.torch` has torch; nobody else comes by it.
    banned = BANNED_MODULES - {"torch"} if module == "lattica.torch" else BANNED_MODULES
    assert not imported & banned, f"{module} imports {imported & banned}"
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg for keyword in node.keywords}
        assert "allow_pickle" not in keywords, f"{module}:{node.lineno} allow_pickle"
        if isinstance(node.func, ast.Name):
            assert node.func.id not in BANNED_CALLS, f"{module}:{node.lineno} {node.func.id}()"
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            called = f"{node.func.value.id}.{node.func.attr}"
            assert called not in {"torch.load", "numpy.load", "np.load"}, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_leads_to_torch(module: str) -> None:
    assert "lattica.torch" not in _imports(module, MODULES[module])


def test_the_walk_sees_every_layer() -> None:
    seen = {_part(module) for module in MODULES}
    assert {"cli", "node", "models", "content", "dht", "pubsub", "transport", "base"} <= seen
