from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from lattica.errors import Unreachable
from lattica.transport._race import AllFailed, race

if TYPE_CHECKING:
    from trio.testing import MockClock


class Runner:
    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.discarded: list[str] = []

    def attempt(self, name: str, after: float, fails: bool = False):  # type: ignore[no-untyped-def]
        async def run() -> str:
            self.started[name] = trio.current_time() - self.begin
            await trio.sleep(after)
            if fails:
                raise Unreachable(name)
            return name

        self.begin = trio.current_time()
        return run

    async def race(self, *attempts: object) -> str:
        return await race(attempts, 0.1, self.discarded.append)  # type: ignore[arg-type]


async def test_the_first_one_wins_alone_when_it_is_quick(autojump_clock: MockClock) -> None:
    runner = Runner()
    won = await runner.race(runner.attempt("best", 0.05), runner.attempt("next", 0))
    assert won == "best"
    assert runner.started == {"best": 0}


async def test_a_slow_one_is_joined_after_its_head_start(autojump_clock: MockClock) -> None:
    runner = Runner()
    won = await runner.race(
        runner.attempt("slow", 9), runner.attempt("slower", 10), runner.attempt("good", 1)
    )
    assert won == "good"
    assert runner.started == pytest.approx({"slow": 0, "slower": 0.1, "good": 0.2})


async def test_a_failure_starts_the_next_at_once(autojump_clock: MockClock) -> None:
    runner = Runner()
    attempts = [runner.attempt(str(n), 0, fails=True) for n in range(20)]
    assert await runner.race(*attempts, runner.attempt("good", 0)) == "good"
    assert runner.started["good"] == 0


async def test_all_failures_are_reported_in_order(autojump_clock: MockClock) -> None:
    runner = Runner()
    with pytest.raises(AllFailed, match="b; a") as caught:
        await runner.race(runner.attempt("a", 0.5, fails=True), runner.attempt("b", 0, fails=True))
    assert {n: str(error) for n, error in caught.value.failures.items()} == {0: "a", 1: "b"}


async def test_a_second_arrival_is_discarded(autojump_clock: MockClock) -> None:
    runner = Runner()

    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return "late"

    assert await runner.race(runner.attempt("good", 0.5), stubborn) == "good"
    assert runner.discarded == ["late"]


async def test_cancelled_it_returns_or_discards_what_arrives(autojump_clock: MockClock) -> None:
    runner = Runner()

    async def stubborn(name: str) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return name

    won = []
    with trio.move_on_after(0.5):
        won.append(await runner.race(partial(stubborn, "a"), partial(stubborn, "b")))
    assert sorted(won + runner.discarded) == ["a", "b"]
    assert len(won) <= 1


async def test_a_bug_leaves_as_itself(autojump_clock: MockClock) -> None:
    runner = Runner()

    async def buggy() -> str:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await runner.race(runner.attempt("slow", 9), buggy)


async def test_nothing_to_try_is_a_failure(autojump_clock: MockClock) -> None:
    with pytest.raises(AllFailed):
        await Runner().race()
