"""What the command line writes, and where."""

from __future__ import annotations

import errno
import io
import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lattica._control import describe
from lattica._progress import Meter, ProgressDisplay, duration, percent, size
from lattica.cid import CID
from lattica.cli import _show
from lattica.cli._output import Face, Output, may_colour
from lattica.cli._session import open_session
from lattica.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def report(
    done: int, total: int | None, phase: str = "fetch", peers: int = 1, news: str = ""
) -> dict[str, object]:
    return {
        "phase": phase,
        "done_bytes": done,
        "total_bytes": total,
        "peers": peers,
        "received_bytes": done,
        "news": news,
    }


def outputs(
    face: Face = Face.TEXT, *, quiet: bool = False
) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(face, quiet=quiet, stdout=out, stderr=err), out, err


@given(st.integers(0, 2**40), st.integers(1, 2**40))
def test_it_never_says_100_before_the_last_byte(done: int, total: int) -> None:
    said = percent(done, total)
    assert said is not None
    assert (said == 100) == (done >= total)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**9)), max_size=20))
def test_any_course_of_progress_makes_a_line(steps: list[tuple[float, int]]) -> None:
    meter, now = Meter("get x"), 0.0
    for elapsed, done in steps:
        now += elapsed
        line = meter.line(report(done, 10**9), now, bar=True)
        assert "verified" in line
        assert ("100 %" in line) == (done == 10**9)


def test_a_line_says_how_much_how_fast_and_how_long() -> None:
    meter = Meter("get m")
    meter.line(report(0, 100_000_000), 0.0, bar=False)
    line = meter.line(report(25_000_000, 100_000_000, peers=2), 1.0, bar=False)
    assert line == "get m  verified 25.0 MB of 100 MB  25 %  25.0 MB/s  ETA 0:03  2 peers"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (120, "get x  ████████████░░░░░░░░░░░░  verified 50.0 MB of 100 MB  50 %  2 peers"),
        (60, "get x  verified 50.0 MB of 100 MB  50 %  2 peers"),
        (44, "verified 50.0 MB of 100 MB  50 %  2 peers"),
        (10, "verified 50.0 MB of 100 MB  50 %  2 peers"),
    ],
)
def test_on_a_narrow_terminal_the_numbers_stay(width: int, shown: str) -> None:
    meter = Meter("get x")
    half = report(50_000_000, 100_000_000, peers=2)
    assert meter.line(half, 0.0, bar=True, width=width) == shown


def test_a_resumed_get_does_not_count_old_bytes_into_its_rate() -> None:
    meter = Meter("get m")
    meter.line(report(0, None, phase="find"), 0.0, bar=False)
    meter.line(report(50_000_000, 100_000_000), 10.0, bar=False)
    assert "10.0 MB/s" in meter.line(report(60_000_000, 100_000_000), 11.0, bar=False)


def test_before_the_size_is_known_it_says_whom_it_looks_for() -> None:
    assert "looking for providers, 0 peers" in Meter("get").line(
        report(0, None, "find", 0), 0.0, bar=True
    )


def test_away_from_a_terminal_progress_is_a_line_every_five_seconds() -> None:
    stream, now = io.StringIO(), [0.0]
    with ProgressDisplay("get m", stream, clock=lambda: now[0]) as display:
        for tenth in range(120):
            now[0] = tenth / 10
            display.update(report(tenth, 120))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "\r" not in stream.getvalue()
    assert "\033" not in stream.getvalue()


def test_on_a_terminal_progress_is_one_line_that_goes_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressDisplay("get m", stream, clock=iter(range(100)).__next__) as display:
        display.update(report(1, 2))
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\r\033[K")


def test_news_are_lines_of_their_own_and_do_not_wait() -> None:
    stream = io.StringIO()
    with ProgressDisplay("get m", stream, clock=lambda: 0.0) as display:
        display.update(report(1, 2))
        display.update(report(1, 2, news="12D3…aa sent a wrong leaf"))
    assert stream.getvalue() == "12D3…aa sent a wrong leaf\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (58_049_000, "58.0 MB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1.00 GB"),
        (1_073_745_152, "1.07 GB"),
        (3.2e15, "3200 TB"),
    ],
)
def test_sizes_are_short(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (725, "12:05"), (10931, "3:02:11")])
def test_durations_are_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_data_and_talk_go_to_different_places() -> None:
    output, out, err = outputs()
    output.data("bafy")
    output.say("hashed in 1 s")
    assert (out.getvalue(), err.getvalue()) == ("bafy\n", "hashed in 1 s\n")


def test_quiet_keeps_the_talk_back_and_not_the_errors() -> None:
    output, out, err = outputs(quiet=True)
    output.data("bafy")
    output.say("hashed in 1 s")
    output.error(describe(NotFound("nobody has it")))
    assert out.getvalue() == "bafy\n"
    assert err.getvalue().startswith("error[3 not-found]: nobody has it\n  hint: ")


def test_json_is_one_object_and_nothing_else_on_stdout() -> None:
    output, out, _ = outputs(Face.JSON)
    output.data("bafy")
    output.event("progress", {"done_bytes": 1})
    output.result({"cid": "bafy"})
    assert json.loads(out.getvalue()) == {"cid": "bafy"}


def test_json_lines_are_events() -> None:
    output, out, _ = outputs(Face.JSON_LINES)
    output.event("progress", {"done_bytes": 1})
    output.result({"cid": "bafy"}, "done")
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "progress", "done_bytes": 1},
        {"event": "done", "cid": "bafy"},
    ]


def test_an_error_is_json_too_where_json_was_asked_for() -> None:
    cid = CID.of(b"x")
    output, out, err = outputs(Face.JSON)
    output.error(describe(NotFound("nobody has it", cid=cid)))
    found = json.loads(out.getvalue())["error"]
    assert (found["code"], found["exit_code"], found["cid"]) == ("not-found", 3, str(cid))
    assert found["retryable"] is True
    assert "nobody has it" in err.getvalue()


def test_tables_are_aligned_for_people_and_tabbed_for_programs() -> None:
    rows = [("a", "1"), ("bbb", "2")]
    plain, out, _ = outputs()
    plain.table(("NAME", "N"), rows)
    assert out.getvalue() == "a\t1\nbbb\t2\n"
    terminal = Terminal()
    Output(stdout=terminal, stderr=io.StringIO()).table(("NAME", "N"), rows)
    assert terminal.getvalue() == "NAME  N\na     1\nbbb   2\n"


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert may_colour(Terminal())
    assert not may_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not may_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not may_colour(Terminal())


def test_a_full_disk_is_not_called_a_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lattica.cli._session._set_up_log", lambda _levels: None)  # of the process
    session = open_session(home=tmp_path, verbose=0, face=Face.TEXT, quiet=False, flags={})
    with pytest.raises(SystemExit) as caught, session:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/home/ada/.lattica/lock")
    assert caught.value.code == 1
    told = capsys.readouterr().err
    assert "the system refuses: No space left on device: /home/ada/.lattica/lock" in told
    assert "hint: free some space" in told
    assert "bug" not in told


def test_names_that_others_give_cannot_steer_a_terminal_or_forge_a_row() -> None:
    for stream in (io.StringIO(), Terminal()):
        talk = io.StringIO()
        output = Output(stdout=stream, stderr=talk)
        output.table(("NAME", "DTYPE"), [("a\x1b[2J\u202e\nforged\tF32", "F32")])
        output.data("b\x9b31m")
        output.say("c\x07")
        output.error({"exit_code": 2, "code": "x", "message": "d\x1b]0;e\x07", "hint": "f\r"})
        rows = stream.getvalue().splitlines()
        assert rows[-2].split() == [r"a\x1b[2J\u202e\nforged\tF32", "F32"]
        assert rows[-1] == r"b\x9b31m"
        assert talk.getvalue().splitlines() == [
            r"c\x07",
            r"error[2 x]: d\x1b]0;e\x07",
            r"  hint: f\r",
        ]


def test_a_listing_says_what_is_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"cid": "bafk1", "size": 10, "state": "complete", "added": 0.0, "path": "/x"}
    _show.objects(Output(), [row | {"pinned": True}, row | {"pinned": False}])
    states = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert states == ["complete, pinned", "complete"]
