"""Which leaf is the rarest: a model that counts one by one, and what a bitmap can cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings, strategies as st

from lattica.content._holdings import Holding, Holdings
from lattica.content._leaf_states import LeafStates
from lattica.content._rarity import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

COUNT = 24
leaves = st.integers(0, COUNT - 1)
actions = st.one_of(
    st.tuples(st.just("join"), st.booleans()),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("complete"), st.integers(0, 5)),
    st.tuples(st.just("gain"), st.integers(0, 5), leaves, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("lack"), st.integers(0, 5), leaves, st.integers(1, 5)),
    st.tuples(st.just("take"), leaves),
    st.tuples(st.just("need"), leaves),
    st.tuples(st.just("extend"), st.integers(1, 3)),
    st.tuples(st.just("look"), st.integers(0, 5), leaves),
)


class Model:
    """Who holds what, as sets; the rarest by counting."""

    def __init__(self) -> None:
        self.states = LeafStates(COUNT, lambda _: 1)
        self.holdings = Holdings(self.states)
        self.peers: list[tuple[Holding, set[int] | None]] = []
        self.missing = set(range(COUNT))

    def level(self, leaf: int) -> int:
        return sum(held is not None and leaf in held for _, held in self.peers)

    def act(self, action: tuple[Any, ...]) -> None:
        kind, *rest = action
        getattr(self, f"_{kind}")(*rest)

    def _join(self, complete: bool) -> None:
        if len(self.peers) < 6:
            holding = self.holdings.join(complete=complete)
            self.peers.append((holding, None if complete else set()))

    def _leave(self, number: int) -> None:
        if number < len(self.peers):
            self.holdings.leave(self.peers.pop(number)[0])

    def _complete(self, number: int) -> None:
        if number < len(self.peers):
            self.holdings.complete(self.peers[number][0])
            self.peers[number] = (self.peers[number][0], None)

    def _gain(self, number: int, first: int, data: bytes) -> None:
        if number >= len(self.peers):
            return
        holding, held = self.peers[number]
        flags = bytes(byte & 1 for byte in data)
        new = {
            first + at for at, flag in enumerate(flags) if flag and first + at < len(self.states)
        }
        news = self.holdings.gain(holding, first, flags)
        assert news == (held is not None and bool(new - held))
        if held is not None:
            held |= new

    def _lack(self, number: int, first: int, count: int) -> None:
        if number >= len(self.peers):
            return
        holding, held = self.peers[number]
        end = min(first + count, len(self.states))
        self.holdings.lack(holding, first, end)
        left = set(range(len(self.states))) if held is None else held
        self.peers[number] = (holding, left - set(range(first, end)))

    def _take(self, leaf: int) -> None:
        if leaf in self.missing:
            self.states.ask(leaf)
            self.missing.discard(leaf)

    def _need(self, leaf: int) -> None:
        if leaf not in self.missing:
            self.states.release(leaf)
            self.holdings.need(leaf)
            self.missing.add(leaf)

    def _extend(self, count: int) -> None:
        new = range(len(self.states), len(self.states) + count)
        self.holdings.extend(count)
        self.missing.update(new)
        for _, held in self.peers:
            if held is not None:
                held.update(new)

    def _look(self, number: int, start: int) -> None:
        if number >= len(self.peers):
            return
        holding, held = self.peers[number]
        could = self.missing if held is None else self.missing & held
        found = self.holdings.rarest(holding, start)
        if not could:
            assert found == -1
            return
        assert found in could
        lowest = min(map(self.level, could))
        if self.level(found) == lowest:
            return
        # A view may be late to learn that a leaf has become rarer, never that it is not there.
        assert held is not None


@settings(max_examples=400, deadline=None)
@given(st.lists(actions, max_size=40))
def test_the_rarest_leaf_is_found_whoever_comes_gains_and_leaves(
    steps: list[tuple[Any, ...]],
) -> None:
    model = Model()
    for step in [*steps, *(("look", number, 0) for number in range(6))]:
        model.act(step)
    for leaf in range(len(model.states)):
        level = model.states.rarity.level(leaf)
        assert level == (model.level(leaf) if leaf in model.missing else 255)


def test_equals_are_taken_from_where_the_search_begins_and_round_the_end() -> None:
    wanted = Wanted(bytearray([1, 0, 1, 0, 1]))
    assert wanted.rarest(2, 1) == 3
    assert wanted.rarest(4, 1) == 1
    assert wanted.rarest(0, 1) == 1
    for leaf in (1, 3):
        wanted.put(leaf, 255)
    assert wanted.rarest(3, 1) == 4
    assert wanted.rarest(3, 0) == -1
    wanted.put(2, 0)
    assert wanted.rarest(3, 1) == 2


def test_a_view_is_put_right_at_most_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 10_000
    states = LeafStates(count, lambda _: 1)
    holdings = Holdings(states)
    one, other = holdings.join(complete=False), holdings.join(complete=False)
    holdings.gain(one, 0, b"\1" * count)
    assert holdings.rarest(one, 0) == 0
    for first in range(0, count, 500):  # too few at a time to begin afresh
        holdings.gain(other, first, b"\1\0" * 250)
    put_right = _counting(monkeypatch)
    for _ in range(100):
        assert holdings.rarest(one, 0) == 1
    assert put_right() <= count
    for leaf in range(count):
        states.ask(leaf)
    put_right = _counting(monkeypatch)
    for _ in range(100):
        assert holdings.rarest(one, 0) == -1
    assert put_right() <= 2 * count


def _counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    calls = 0
    put = Wanted.put

    def counted(wanted: Wanted, leaf: int, level: int) -> None:
        nonlocal calls
        calls += 1
        put(wanted, leaf, level)

    monkeypatch.setattr(Wanted, "put", counted)
    return lambda: calls
