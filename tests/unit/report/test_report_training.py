"""The section of training: curves of every step that trained, the state that was kept, and no section without one."""

from __future__ import annotations

from dataclasses import replace

import evidence
import pytest
import sample
from test_report_page import Page

from optimizer.report.page import html
from optimizer.report.trained import history_of, trained
from optimizer.values import Run


def run(**changes: object) -> Run:
    found = evidence.everything()
    steps = tuple(
        replace(s, notes={**s.notes, "training": {**s.notes["training"], **changes}}) if s.use == "distill" else s
        for s in found.steps
    )
    return replace(found, steps=steps)


def test_the_page_shows_curves_and_the_kept_state() -> None:
    page = Page(html(run()))
    for text in (
        "400 steps (4 epochs) on cpu; 6,400 examples, 700 held back",
        "Kept: after step 300, top1 88.1; before training 11",
        "What was learnt: 'scores' by kl.",
        "loss, training",
        "top1, validation",
    ):
        assert text in page.text
    assert ("section", "id", "training") in page.attributes
    assert "per_epoch" not in page.text, "the curves are drawn, not told as a note"


def test_positions_follow_the_numbers() -> None:
    loss, top1 = trained(run())[0].plots
    assert [line.name for line in loss.lines] == ["loss, training", "loss, validation"]
    marks = top1.lines[0].marks
    assert [m.kept for m in marks] == [False, False, False, True, False]
    assert [m.x for m in marks] == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert marks[0].y > marks[1].y > marks[2].y > marks[3].y < marks[4].y, "up is more"
    assert loss.lines[0].path.count("L") == 39
    assert (top1.lines[0].first, top1.lines[0].last, top1.lines[0].best) == ("11", "87.9", "88.1")


def test_a_loss_over_many_orders_is_logarithmic_and_nan_is_left_out() -> None:
    falling = [10.0 ** (-i / 10) for i in range(40)]
    plot = trained(run(loss=falling, scores={"top1": [float("nan"), 1.0, 2.0, 3.0, 4.0]}, judged_by="top1"))[0].plots
    assert "Logarithmic" in plot[0].caption
    assert len(plot[1].lines[0].marks) == 4


def test_early_stopping_and_no_improvement_are_told() -> None:
    stopped = trained(run(stopped=200, best=0))[0].sentence
    assert "200 steps (2 epochs)" in stopped and "Stopped early, of 400 steps" in stopped
    assert "Kept: the one before training, top1 11." in stopped


@pytest.mark.parametrize(
    "note", [None, "much", {}, {"total": "x"}, {"total": 3, "per_epoch": 1, "steps": [1], "loss": []}, [1, 2]]
)
def test_a_note_that_holds_no_curves_is_no_training(note: object) -> None:
    step = replace(sample.rich().steps[0], notes={"training": note})
    assert history_of(step) is None


def test_a_run_without_training_has_no_such_section() -> None:
    page = Page(html(sample.all_pass()))
    assert ("section", "id", "training") not in page.attributes


def test_trainings_of_one_variant_are_told_apart() -> None:
    found = run()
    record = next(s for s in found.steps if s.use == "distill")
    first, second = (replace(c, variant="v") for c in found.candidates[:2])

    def titles(*keys: tuple[str, ...]) -> list[str]:
        steps = tuple(replace(record, key=key) for key in sorted({key for own in keys for key in own}))
        candidates = tuple(replace(c, steps=own) for c, own in zip((first, second), keys, strict=True))
        return [t.title for t in trained(replace(found, steps=steps, candidates=candidates))]

    assert titles(("a",), ("a",)) == ["distill for v"]
    assert titles(("a",), ("b",)) == [f"distill for {first.name}", f"distill for {second.name}"]
    assert titles(("a", "b"), ("a", "b")) == ["distill for v, 1 of 2", "distill for v, 2 of 2"]
    assert trained(replace(found, steps=(record,), candidates=()))[0].title == "distill"
