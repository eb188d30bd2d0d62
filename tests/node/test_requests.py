"""What commands may ask of a node: each parameter is checked before anything is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lattica._control import Request, UnknownMethod
from lattica._requests import METHODS, handle
from lattica.errors import DeadlineExceeded, InvalidInput, NotFound

if TYPE_CHECKING:
    from .conftest import Lab

ABSENT = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4"


async def ask(lab: Lab, method: str, **params: Any) -> Any:
    async with lab.node("a") as node:
        return await handle(node, Request(method, params), lambda _progress: None)


async def test_an_unknown_method_is_refused(lab: Lab) -> None:
    with pytest.raises(UnknownMethod, match="'explode'"):
        await ask(lab, "explode")


@pytest.mark.parametrize(
    ("method", "params", "complaint"),
    [
        ("share", {}, "'path' is missing"),
        ("share", {"path": 3}, "expected str"),
        ("share", {"path": "relative"}, "expected an absolute path"),
        ("share", {"path": "/x", "hash": "md5"}, "expected one of blake3, sha2-256"),
        ("share", {"path": "/x", "name": ["n"]}, "expected str"),
        ("get", {"destination": "/x"}, "'ref' is missing"),
        ("get", {"ref": ABSENT, "destination": "x"}, "absolute path"),
        ("get", {"ref": ABSENT, "destination": "/x", "peers": [1]}, "a list of strings"),
        ("get", {"ref": ABSENT, "destination": "/x", "overwrite": 1}, "expected bool"),
        ("get", {"ref": ABSENT, "destination": "/x", "timeout": True}, "expected float"),
        ("get", {"ref": "x", "destination": "/x"}, "neither a ticket nor a CID"),
        ("read", {"ref": ABSENT, "destination": "/x"}, "'offset' is missing"),
        ("read", {"ref": ABSENT, "offset": 0, "destination": "x"}, "absolute path"),
        ("ping", {"peer": "x", "count": 0}, "expected 1 to 1000"),
        ("ping", {"peer": "x", "count": 1001}, "expected 1 to 1000"),
        ("ping", {"peer": "x", "count": True}, "expected int"),
        ("ping", {"peer": "nobody"}, "not a peer ID"),
        ("verify", {"ref": None}, "'ref' is missing"),
        ("verify", {"ref": ABSENT, "repair": 1}, "expected bool"),
        ("cache", {"pin": True}, "'ref' is missing"),
        ("pin", {"ref": 1}, "expected str"),
        ("unpin", {}, "'ref' is missing"),
    ],
)
async def test_wrong_parameters_are_wrong_input(
    lab: Lab, method: str, params: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        await ask(lab, method, **params)


async def test_tensors_are_listed_in_the_time_that_is_given(lab: Lab) -> None:
    with pytest.raises(DeadlineExceeded, match="the tensors of"):
        await ask(lab, "tensors", ref=ABSENT, timeout=0)


async def test_every_method_that_needs_nothing_answers(lab: Lab) -> None:
    for method in ("status", "peers", "ls", "swarm", "usage", "collect"):
        assert method in METHODS
        assert isinstance(await ask(lab, method), (dict, list))


async def test_an_object_that_is_not_here_is_not_found(lab: Lab) -> None:
    with pytest.raises(NotFound, match=ABSENT):
        await ask(lab, "verify", ref=ABSENT)
