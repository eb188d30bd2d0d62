"""`lattica.torch`, where torch is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import lattica

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[lattica.Node, lattica.Node]]:
    options: dict[str, Any] = {"listen": LOOPBACK, "bootstrap": [], "mdns": False}
    with (
        lattica.Node(tmp_path / "one", **options) as one,
        lattica.Node(tmp_path / "two", **options) as two,
    ):
        yield one, two


def net() -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 4).to(torch.bfloat16)
    )


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_a_module_is_published_and_read_elsewhere(
    nodes: tuple[lattica.Node, lattica.Node],
) -> None:
    from lattica import torch as ours

    model = net()
    published = ours.publish("team/net", model, node=nodes[0], licence="MIT")
    assert same(ours.load(published.ticket, node=nodes[1]), dict(model.state_dict()))
    part = ours.load(published.ticket, node=nodes[1], include=["2.*"])
    assert set(part) == {"2.weight", "2.bias"}
    assert part["2.weight"].dtype is torch.bfloat16


def test_a_module_is_filled_in_place(nodes: tuple[lattica.Node, lattica.Node]) -> None:
    from lattica import torch as ours

    model, other = net(), net()
    published = ours.publish("team/net", model, node=nodes[0])
    where = other[0].weight.data_ptr()
    assert len(ours.load_into(other, published.ticket, node=nodes[1])) == len(model.state_dict())
    assert other[0].weight.data_ptr() == where
    assert same(dict(model.state_dict()), dict(other.state_dict()))


def test_strided_tensors_are_filled_as_well(nodes: tuple[lattica.Node, lattica.Node]) -> None:
    from lattica import torch as ours

    value = torch.arange(12.0).reshape(3, 4)
    published = ours.publish("team/one", {"w": value}, node=nodes[0])
    target = torch.zeros(4, 3).t()
    ours.load_into({"w": target}, published.ticket, node=nodes[1])
    assert torch.equal(target, value)


def test_what_does_not_fit_is_refused_before_anything_is_read(
    nodes: tuple[lattica.Node, lattica.Node],
) -> None:
    from lattica import torch as ours

    published = ours.publish("team/one", {"w": torch.ones(3)}, node=nodes[0])
    with pytest.raises(lattica.InvalidInput, match="does not fit"):
        ours.load_into({"w": torch.zeros(4)}, published.ticket, node=nodes[1])
    with pytest.raises(lattica.InvalidInput, match="no tensor"):
        ours.load_into({"w": torch.zeros(3), "v": torch.zeros(1)}, published.ticket, node=nodes[1])
    kept = torch.zeros(1)
    state = {"w": torch.zeros(3), "v": kept}
    assert ours.load_into(state, published.ticket, node=nodes[1], strict=False) == ["w"]


def test_a_node_is_started_where_none_is_given(
    nodes: tuple[lattica.Node, lattica.Node], tmp_path: Path
) -> None:
    from lattica import torch as ours

    published = ours.publish("team/one", {"w": torch.ones(3)}, node=nodes[0])
    state = ours.load(
        published.ticket, home=tmp_path / "visitor", listen=LOOPBACK, bootstrap=[], mdns=False
    )
    assert torch.equal(state["w"], torch.ones(3))
