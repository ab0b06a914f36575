"""The search on a table of numbers: its order, what it spares, that it can be stopped anywhere, and what it chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_lab import Clock, Grid, Table, Truth, engine, point

from optimizer.search.effects import ordered
from optimizer.search.engine import Told
from optimizer.search.points import Point
from optimizer.values import Trial

FAST, GOOD, SLOW, PLAIN = point("fast"), point("good"), point("slow"), Point("a")
TRUTHS = {
    "as-is@a": Truth(1.0, 0.0, 0.0),
    "fast@a": Truth(3.0, 5.0, 0.1),
    "good@a": Truth(2.0, 0.1, 1e-3),
    "slow@a": Truth(1.5, 0.0, 1e-4),
}
GRID = Grid([PLAIN, FAST, GOOD, SLOW])


def table(**more: Truth) -> Table:
    return Table({**TRUTHS, **{f"{name}@a": truth for name, truth in more.items()}}, Clock())


def by_name(trials: list[Trial]) -> dict[str, Trial]:
    return {t.name: t for t in trials}


def test_a_batch_is_built_then_timed_together_then_judged_from_the_fastest_on(tmp_path: Path) -> None:
    runner = table()
    found = by_name(engine(runner, GRID, tmp_path).run())
    assert runner.asked("build") == runner.asked("time") == ["as-is@a", "fast@a", "good@a", "slow@a"]
    assert runner.calls.index("build slow@a") < runner.calls.index("time as-is@a") < runner.calls.index("judge fast@a")
    assert runner.asked("judge") == ["fast@a", "good@a"], (
        "what is surely slower than what meets the gates costs no metric"
    )
    assert found["good@a"].outcome == "chosen"
    assert found["fast@a"].outcome == "rejected"
    assert "top1 drop 5 pp, the gate asks <= 1 pp" in found["fast@a"].reason
    assert "worse by the objective than good@a" in found["slow@a"].reason


def test_what_may_be_as_fast_is_judged_and_measured_again_before_the_choice(tmp_path: Path) -> None:
    runner = table(near=Truth(1.99, 0.0))
    found = by_name(engine(runner, Grid([GOOD, SLOW, point("near")]), tmp_path).run())
    assert runner.asked("judge") == ["good@a", "near@a"]
    assert runner.asked("final") == ["good@a", "near@a"], "the clearly slower one gets no more restarts"
    assert found["good@a"].outcome == "chosen"
    assert found["near@a"].outcome == "kept"


def test_the_last_measurement_decides(tmp_path: Path) -> None:
    class Later(Table):
        def time(self, points, thorough):  # type: ignore[no-untyped-def]  # as above
            if thorough:
                self.truths = {**self.truths, "near@a": Truth(2.5, 0.0)}
            return super().time(points, thorough)

    runner = Later({**TRUTHS, "near@a": Truth(1.99, 0.0)}, Clock())
    found = by_name(engine(runner, Grid([GOOD, point("near")]), tmp_path).run())
    assert found["near@a"].outcome == "chosen"


def test_outputs_alone_reject_what_is_noise_or_worse_than_what_broke_the_gates(tmp_path: Path) -> None:
    runner = table(noise=Truth(9.0, 60.0, 1.5), worse=Truth(4.0, 9.0, 0.3), nan=Truth(4.0, 9.0, float("nan")))
    grid = Grid([PLAIN, FAST, point("noise"), point("nan"), *[GOOD] * 5], {"good@a": [point("worse")]})
    found = by_name(engine(runner, grid, tmp_path).run())
    assert not {"nan@a", "worse@a"} & {*runner.asked("time"), *runner.asked("judge")}
    assert "noise@a" not in runner.asked("judge")
    assert "noise" in found["noise@a"].reason
    assert "no numbers" in found["nan@a"].reason
    assert "those of fast@a are 10.0 dB, and broke: top1 drop" in found["worse@a"].reason


def test_equal_files_are_measured_once(tmp_path: Path) -> None:
    runner = Table({**TRUTHS, "same@a": Truth(2.0, 0.1, digest="d"), "good@a": Truth(2.0, 0.1, digest="d")}, Clock())
    found = by_name(engine(runner, Grid([GOOD, point("same")]), tmp_path).run())
    assert found["same@a"].reason == "the same files as good@a"
    assert runner.asked("time") == ["good@a"]


@pytest.mark.parametrize("at", ["build", "time", "judge"])
def test_a_trial_that_fails_does_not_stop_the_others(at: str, tmp_path: Path) -> None:
    runner = table(bad=Truth(4.0, 0.0, fails=at))
    found = by_name(engine(runner, Grid([point("bad"), GOOD]), tmp_path).run())
    assert found["bad@a"].outcome == "failed"
    assert found["good@a"].outcome == "chosen"


def test_changes_follow_around_the_best_and_around_what_is_faster_but_breaks_a_gate(tmp_path: Path) -> None:
    better, mended, restored = point("good", x=1), point("fast", y=1), point("fast", keep=["l"])
    runner = table(**{
        "good-x_1": Truth(2.2, 0.1), "fast-y_1": Truth(2.9, 2.0), restored.name.removesuffix("@a"): Truth(2.6, 0.2),
    })  # fmt: skip
    runner.restore = {"fast@a": [restored]}
    grid = Grid(GRID.first, {"good@a": [better], "fast@a": [mended]})
    found = by_name(engine(runner, grid, tmp_path).run())
    assert runner.calls.count("restored fast@a") == 1, "its layers are ranked once"
    assert found[restored.name].outcome == "chosen"
    assert found[restored.name].reason == "best of all: mended from fast@a; meets the gates with all of its interval"
    assert found[better.name].outcome in ("kept", "rejected")
    assert found[mended.name].outcome == "rejected"


def test_layers_go_back_also_where_the_evaluation_data_may_not_confirm_the_best(tmp_path: Path) -> None:
    surer = point("risky", keep=["l"])
    runner = table(risky=Truth(2.5, 0.9), **{surer.name.removesuffix("@a"): Truth(2.4, 0.1)})
    runner.restore = {"risky@a": [surer]}
    found = by_name(engine(runner, Grid([point("risky")]), tmp_path).run())
    assert found["risky@a"].standing == "possible"
    assert found[surer.name].outcome == "chosen"
    assert "restored good@a" not in runner.calls


def test_each_target_has_a_best_of_its_own_and_the_best_of_all_comes_first(tmp_path: Path) -> None:
    runner = table()
    runner.truths = {**runner.truths, "good@b": Truth(1.4, 0.0)}
    searched = engine(runner, Grid([GOOD, point("good", "b")]), tmp_path)
    found = by_name(searched.run())
    assert [t.name for t in searched.best()] == ["good@a", "good@b"]
    assert found["good@a"].reason.startswith("best of all")
    assert found["good@b"].reason.startswith("best on b")


def test_what_will_be_confirmed_is_preferred_to_what_merely_may_be(tmp_path: Path) -> None:
    runner = table(risky=Truth(2.5, 0.9))  # 0.9 +- 0.5 pp: the interval reaches beyond the gate
    found = by_name(engine(runner, Grid([GOOD, point("risky")]), tmp_path).run())
    assert (found["risky@a"].standing, found["risky@a"].outcome) == ("possible", "kept")
    assert found["good@a"].outcome == "chosen"
    alone = table(risky=Truth(2.5, 0.9))
    assert by_name(engine(alone, Grid([point("risky")]), tmp_path / "b").run())["risky@a"].outcome == "chosen"


def test_where_nothing_meets_the_gates_the_closest_is_named_and_written_down(tmp_path: Path) -> None:
    written: list[list[str]] = []
    runner = table(closer=Truth(2.5, 1.4, 0.05))
    told = Told(improved=lambda points: written.append([p.name for p in points]))
    searched = engine(runner, Grid([FAST, point("closer")]), tmp_path, told=told)
    found = by_name(searched.run())
    closest = searched.closest()
    assert searched.best() == []
    assert closest is not None
    assert closest.name == "closer@a"
    assert closest.gap == "top1 drop 1.4 pp, the gate asks <= 1 pp"
    assert written == [["fast@a"], ["closer@a"]]
    assert {t.outcome for t in found.values()} == {"rejected"}


def test_the_budget_ends_the_search_and_the_best_so_far_stands(tmp_path: Path) -> None:
    more = [point("good", x=x) for x in range(30)]
    around = dict.fromkeys(("good@a", *(p.name for p in more)), more)
    runner = table(**{f"good-x_{x}": Truth(2.0 + x / 1000, 0.1) for x in range(30)})
    searched = engine(runner, Grid(GRID.first, around), tmp_path, budget=100.0)
    found = searched.run()
    assert searched.ended == "the budget is spent"
    assert searched.spent() <= 130, "no more than the trial in hand goes beyond it"
    assert any(t.outcome == "chosen" for t in found)
    assert "open" not in {t.outcome for t in found}


def test_the_best_is_told_after_every_improvement(tmp_path: Path) -> None:
    written: list[list[str]] = []
    told = Told(improved=lambda points: written.append([p.name for p in points]))
    grid = Grid([SLOW], {"slow@a": [GOOD]})
    engine(table(), grid, tmp_path, told=told).run()
    assert written == [["slow@a"], ["good@a"]]


@pytest.mark.parametrize("kill_at", ["build slow@a", "time good@a", "judge good@a", "final near@a"])
def test_a_search_that_is_killed_anywhere_goes_on_and_ends_alike(kill_at: str, tmp_path: Path) -> None:
    grid = Grid([PLAIN, FAST, GOOD, point("near"), SLOW])
    whole = by_name(engine(table(near=Truth(1.99, 0.0)), grid, tmp_path / "whole").run())
    first = table(near=Truth(1.99, 0.0))
    first.kill_at = kill_at
    with pytest.raises(KeyboardInterrupt):
        engine(first, grid, tmp_path / "cut").run()
    second = table(near=Truth(1.99, 0.0))
    resumed = engine(second, grid, tmp_path / "cut")
    found = by_name(resumed.run())
    assert {n: (t.outcome, t.standing) for n, t in found.items()} == {
        n: (t.outcome, t.standing) for n, t in whole.items()
    }
    done = {*first.asked("judge")}
    assert not done & {*second.asked("judge")}, "no metric is run twice"
    if kill_at.startswith(("judge", "final")):
        assert not {*first.asked("time")} & {*second.asked("time")}, "no trial is timed twice"


def test_a_search_whose_budget_is_spent_is_read_again_with_all_its_trials(tmp_path: Path) -> None:
    more = [point("good", x=x) for x in range(30)]
    around = dict.fromkeys(("good@a", *(p.name for p in more)), more)
    truths = {f"good-x_{x}": Truth(2.0 + x / 1000, 0.1) for x in range(30)}
    first = engine(table(**truths), Grid(GRID.first, around), tmp_path, budget=100.0)
    whole = by_name(first.run())
    again = table(**truths)
    found = by_name(engine(again, Grid(GRID.first, around), tmp_path, budget=100.0).run())
    assert again.calls == []
    assert {n: t.outcome for n, t in found.items()} == {n: t.outcome for n, t in whole.items()}


def test_time_of_earlier_sittings_counts(tmp_path: Path) -> None:
    first = engine(table(), GRID, tmp_path)
    first.run()
    second = table()
    again = engine(second, GRID, tmp_path)
    again.run()
    assert again.spent() == pytest.approx(first.spent(), abs=0.01)
    assert second.calls == [], "a finished search is only read"


def test_a_trial_that_ends_every_sitting_is_left_out_in_the_end(tmp_path: Path) -> None:
    for _ in range(3):
        cut = table(bad=Truth(1.0, 0.0))
        cut.kill_at = "build bad@a"
        with pytest.raises(KeyboardInterrupt):
            engine(cut, Grid([point("bad"), GOOD]), tmp_path).run()
    last = table(bad=Truth(1.0, 0.0))
    found = by_name(engine(last, Grid([point("bad"), GOOD]), tmp_path).run())
    assert found["bad@a"].outcome == "failed"
    assert "ended 3 times while it was built" in found["bad@a"].reason
    assert found["good@a"].outcome == "chosen"


def test_changes_that_helped_elsewhere_come_first_and_those_that_harmed_last(tmp_path: Path) -> None:
    speeds = {"x": 2.5, "y": 1.0, "b": 2.1, "n": 2.0}
    runner = table(**{f"good-{name}_1": Truth(speed, 0.1) for name, speed in speeds.items()})
    parent = point("good", b=1)
    searched = engine(runner, Grid([GOOD, *(point("good", **{name: 1}) for name in "xyn"), parent]), tmp_path)
    searched.run()
    around = [point("good", b=1, **{name: 1}) for name in "ynzx"]
    found = ordered(parent, around, searched.trials, searched.points)
    assert [p.name for p in found] == [f"good-b_1-{name}_1@a" for name in "xzny"], "without effect behind unknown"


def test_what_changed_no_file_elsewhere_comes_last(tmp_path: Path) -> None:
    same = point("good", r=1)
    runner = table(**{"good-x_1": Truth(1.9, 0.1)})
    runner.truths = {**runner.truths, same.name: Truth(2.0, 0.1, digest="d"), "good@a": Truth(2.0, 0.1, digest="d")}
    searched = engine(runner, Grid([GOOD, same, point("good", x=1)]), tmp_path)
    searched.run()
    around = [point("slow", r=1), point("slow", x=1)]
    change = [point("good", x=1, r=1), point("good", x=1, z=1)]
    assert [p.name for p in ordered(point("good", x=1), change, searched.trials, searched.points)] == [
        "good-x_1-z_1@a", "good-x_1-r_1@a",
    ]  # fmt: skip
    assert ordered(SLOW, around, searched.trials, searched.points) == around, "options of another step tell nothing"


def test_after_the_first_batch_half_of_each_is_around_what_stands_out(tmp_path: Path) -> None:
    presets = [point("p", x=x) for x in range(16)]
    around = [point("good", x=x) for x in range(6)]
    truths = {p.name.removesuffix("@a"): Truth(1.0, 0.0) for p in presets}
    truths |= {p.name.removesuffix("@a"): Truth(1.5, 0.0) for p in around}
    runner = table(**truths)
    found = engine(runner, Grid([GOOD, *presets], {"good@a": around}), tmp_path).run()
    built = runner.asked("build")
    assert built[:4] == ["good@a", *(p.name for p in presets[:3])], "the first batch is small"
    assert built[4:12] == [*(p.name for p in around[:4]), *(p.name for p in presets[3:7])]
    assert built[12:20] == [*(p.name for p in around[4:]), *(p.name for p in presets[7:13])], "moves have run out"
    assert len(found) == 23


def test_what_is_noise_may_be_mended_by_leaving_layers_in_float(tmp_path: Path) -> None:
    mended = point("noise", keep=["l"])
    runner = table(noise=Truth(4.0, 60.0, 1.5), **{mended.name.removesuffix("@a"): Truth(3.5, 0.1)})
    runner.restore = {"noise@a": [mended]}
    found = by_name(engine(runner, Grid([GOOD, point("noise")]), tmp_path).run())
    assert found[mended.name].outcome == "chosen"
    assert runner.asked("judge") == ["good@a", mended.name]


def test_a_wide_interval_does_not_take_the_place_of_what_is_known(tmp_path: Path) -> None:
    runner = table(vague=Truth(2.2, 0.1, spread=1.0), bad=Truth(1.0, 0.0))
    searched = engine(runner, Grid([GOOD, point("vague")]), tmp_path, budget=30.0)
    found = by_name(searched.run())
    assert runner.asked("final") == [], "no time is left to measure both again"
    assert found["good@a"].outcome == "chosen"
