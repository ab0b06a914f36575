"""The section of a search: chosen points, every trial, both plots, and nothing of it in a run without one."""

from __future__ import annotations

from dataclasses import replace

import sample
from test_report_page import Page

from optimizer import schema
from optimizer.report.index import index
from optimizer.report.markdown import markdown
from optimizer.report.page import html
from optimizer.report.searched import searched
from optimizer.values import Measurement, Run, Trial


def trial(name: str, outcome: str, speed: float, drop: float, at: float, **more: object) -> Trial:
    objective = Measurement(
        name, "latency.p50", "speedup", speed, speed - 0.1, speed + 0.1, 99, "x", "higher", against="fp32@onnxruntime"
    )
    lost = Measurement(
        name, "top1", "drop", drop, drop - 0.3, drop + 0.3, 500, "pp", "lower", against="fp32@onnxruntime"
    )
    fields = {"standing": "broken" if drop > 1 else "sure", "error": 1e-3, **more}
    return Trial(
        name, name.rpartition("@")[2], [{"quantize.static": {"method": "entropy"}}], outcome, "why <b>", 3.0, at,  # type: ignore[arg-type]  # a Literal
        objective=objective, measurements=(lost,), **fields,  # type: ignore[arg-type]  # as given
    )  # fmt: skip


TRIALS = (
    trial("as-is@onnxruntime", "kept", 1.0, 0.0, 10.0),
    trial("fast@onnxruntime", "rejected", 3.1, 7.0, 20.0, front=True, gap="top1 drop 7 pp", excess=6.0),
    trial("good@openvino", "chosen", 2.0, 0.1, 40.0, front=True),
    Trial("broken@openvino", "openvino", [], "failed", "it cannot be built", 1.0, 50.0),
)


def run(*trials: Trial) -> Run:
    return replace(sample.all_pass(), trials=trials, recipe={"gates": ["size ratio <= 1", "top1 drop <= 1pp"]})


def test_the_page_shows_the_choice_every_trial_and_both_plots() -> None:
    page = Page(html(run(*TRIALS)))
    for text in ("4 trials in 50.0 s: 1 chosen, 1 kept, 1 rejected, 1 failed", "Chosen: good@openvino", "Best so far"):
        assert text in page.text
    for name in ("as-is", "fast", "broken", "it cannot be built", "gate: 1 pp", "why <b>"):
        assert name in page.text
    assert "{quantize.static: {method: entropy}}" in page.text.replace("'", "")
    assert ("section", "id", "search") in page.attributes


def test_positions_follow_the_numbers() -> None:
    found = searched(index(run(*TRIALS)))
    assert found is not None
    assert found.cloud is not None
    assert found.growth is not None
    slow, fast, good = found.cloud.marks
    assert slow.x < good.x < fast.x
    assert slow.y < good.y < fast.y, "up is more accurate"
    assert [m.state for m in found.cloud.marks] == ["kept", "broken", "chosen"]
    assert found.cloud.limit is not None
    assert good.y < found.cloud.limit[0] < fast.y
    assert len(found.growth.marks) == 2, "what breaks a gate is never the best so far"
    assert found.growth.marks[0].y > found.growth.marks[1].y


def test_where_nothing_met_the_gates_the_closest_is_named() -> None:
    text = html(run(TRIALS[1]))
    assert "Nothing met the gates; closest: fast@onnxruntime, top1 drop 7 pp" in text


def test_failed_trials_alone_have_no_plot() -> None:
    found = searched(index(run(TRIALS[3])))
    assert found is not None
    assert (found.cloud, found.growth) == (None, None)
    html(run(TRIALS[3]))


def test_an_objective_of_which_less_is_better_grows_downward() -> None:
    def smaller(name: str, ratio: float, at: float) -> Trial:
        size = Measurement(name, "size", "ratio", ratio, None, None, 1, "x", "lower", against="fp32@onnxruntime")
        return replace(trial(name, "kept", 1.0, 0.1, at), objective=size)

    found = searched(index(run(smaller("a@x", 0.5, 1.0), smaller("b@x", 0.7, 2.0), smaller("c@x", 0.3, 3.0))))
    assert found is not None
    assert found.growth is not None
    assert len(found.growth.marks) == 2
    assert found.objective == "size ratio"


def test_markdown_names_choice_and_trials() -> None:
    text = markdown(run(*TRIALS))
    assert "Chosen: good@openvino" in text
    assert "| fast@onnxruntime (front) | rejected |" in text


def test_a_run_without_a_search_says_nothing_of_one() -> None:
    plain = sample.all_pass()
    assert 'id="search"' not in html(plain)
    assert "trials" not in markdown(plain)


def test_an_old_record_without_trials_still_loads_and_a_new_one_comes_back_as_it_was() -> None:
    import json

    new = run(*TRIALS)
    assert schema.load_run(schema.dump_run(new), "run.json").trials == TRIALS
    old = json.loads(schema.dump_run(new))
    del old["trials"]
    assert schema.load_run(json.dumps(old).encode(), "run.json").trials == ()
