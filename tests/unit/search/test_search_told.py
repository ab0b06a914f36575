"""What a search says: lines of trials, the table in its place on a terminal, and what a plugin raised."""

from __future__ import annotations

import io

import pytest
from search_lab import GATE, Truth, drop, objective

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.search import board
from optimizer.usercode import attempt
from optimizer.values import Trial


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def trial(name: str, speed: float, lost: float) -> Trial:
    truth = Truth(speed, lost)
    return Trial(
        name, "a", [], "kept", "it is good", 3.0, 9.0, "sure",
        objective=objective(name, truth), measurements=(drop(name, truth),),
    )  # fmt: skip


def test_a_line_holds_numbers_outcome_reason_and_the_time_left() -> None:
    text = board.line(trial("x@a", 2.0, 0.25), 7, GATE, 61.0)
    assert (
        text
        == "trial 7   x@a  2x [1.98, 2.02], top1 drop 0.25 pp [-0.25, 0.75]  kept: it is good  (3.0 s, 61.0 s left)"
    )


def test_the_table_holds_the_front_and_marks_the_best() -> None:
    lines = board.standings([trial("x@a", 2.0, 0.25), trial("y@a", 1.5, 0.5), trial("z@a", 3.0, 9.0)], GATE, ["x@a"])
    assert [line.split()[:2] for line in lines[2:]] == [["z@a", "3x"], ["*", "x@a"]]
    assert board.standings([], GATE, []) == ["the accuracy of no trial is measured yet"]


def test_a_board_is_drawn_over_on_a_terminal_and_is_gone_at_the_end() -> None:
    stream = Terminal()
    with Console(err=stream).board() as draw:
        draw(["one", "two"])
        draw(["three" * 100])
    text = stream.getvalue()
    assert text.startswith("\r\x1b[Jone\ntwo\n")
    assert "\x1b[2A\r\x1b[Jthree" in text
    assert max(map(len, text.splitlines())) < 120, "a line that wraps would be two"
    assert text.endswith("\x1b[1A\r\x1b[J")


def test_where_there_is_no_terminal_nothing_is_drawn() -> None:
    for console in (Console(err=io.StringIO()), Console(level=0, err=Terminal())):
        with console.board() as draw:
            draw(["one"])
        assert console.err is not None
        assert console.err.getvalue() == ""  # type: ignore[attr-defined]  # a StringIO


def test_what_a_plugin_raises_becomes_an_error_of_one_trial() -> None:
    def fails() -> None:
        raise KeyError("scale")

    with pytest.raises(OptimizerError, match="x@a: KeyError: 'scale'") as caught:
        attempt("x@a", fails)
    assert "test_search_told.py" in str(caught.value.hint)
    assert attempt("x@a", lambda: 3) == 3
    with pytest.raises(KeyboardInterrupt):
        attempt("x@a", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
