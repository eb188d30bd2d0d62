"""Every error of the package tells a program what it is and a person what to do."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import lattica
from lattica.errors import LatticaError

EXTRA = {"libp2p", "multiaddr", "fsspec", "torch"}  # what extras bring: need not be installed
EXIT_CODES = {1, 2, 3, 4, 5, 6, 7}  # as the README lists them


def _load_everything() -> None:
    for module in pkgutil.walk_packages(lattica.__path__, "lattica."):
        if module.name.endswith("__main__"):
            continue  # it would run
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in EXTRA:
                raise


def _subclasses(of: type[LatticaError]) -> Iterator[type[LatticaError]]:
    yield of
    for child in of.__subclasses__():
        yield from _subclasses(child)


_load_everything()
# Errors that tests define are not the package's.
CLASSES = sorted(
    {error for error in _subclasses(LatticaError) if error.__module__.startswith("lattica")},
    key=lambda error: (error.__module__, error.__name__),
)


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_each_error_has_a_code_a_hint_and_an_exit_code(error: type[LatticaError]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", error.code)
    assert error.hint.strip() == error.hint != ""
    assert not error.hint.endswith("."), "a hint follows 'hint: ' on its line"
    assert error.exit_code in EXIT_CODES
    assert isinstance(error.retryable, bool)
    assert error.__doc__, "say what happened"


def test_the_walk_finds_errors_of_every_layer() -> None:
    modules = {error.__module__ for error in CLASSES}
    assert any(module.startswith("lattica.transport") for module in modules)
    assert len(CLASSES) > 12
