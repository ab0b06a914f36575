"""Two runs compared: themselves, another day, a known regression, unlike things."""

from __future__ import annotations

import dataclasses

import pytest
from comparison_lab import PUBLISHED, another_day, compared, measured, published, slower

from optimizer.comparison.changes import SAME
from optimizer.comparison.pairing import pair
from optimizer.comparison.rules import rules
from optimizer.errors import OptimizerError
from optimizer.values import DataRecord, Run, Verdict

RUNS = sorted(p.stem for p in PUBLISHED.glob("*.json") if p.stem not in ("headline", "calibration"))


@pytest.mark.parametrize("name", RUNS)
def test_a_published_record_equals_itself_twenty_times(name: str) -> None:
    run = published(name)
    for _ in range(20):
        found = compared(run, published(name))
        assert found.outcome == "pass", found.sentence
    assert {c.method for c in found.changes if c.low is not None} <= {SAME}
    assert found.differences == ()


def test_another_day_without_a_change_is_no_regression() -> None:
    run = published()
    found = compared(run, another_day(run))
    assert not [c for c in found.changes if c.outcome == "fail"]
    welch = [c for c in found.changes if "Welch" in c.method]
    assert welch
    assert all(c.low is not None and c.high is not None and c.low <= 1 <= c.high for c in welch)


def test_a_ten_percent_regression_fails_where_the_noise_lets_it_be_seen() -> None:
    run = published()
    found = compared(run, slower(run, 1.10, "int8@onnxruntime"))
    assert found.outcome == "fail"
    failed = {(c.subject, c.metric) for c in found.changes if c.outcome == "fail"}
    assert ("int8@onnxruntime", "latency.p50") in failed
    assert {subject for subject, _ in failed} == {"int8@onnxruntime"}
    assert "int8@onnxruntime: latency.p50" in found.sentence
    assert "1.100x" in found.sentence


def test_the_other_way_round_it_is_a_speed_up() -> None:
    run = published()
    assert compared(slower(run, 1.10, "int8@onnxruntime"), run).outcome != "fail"


def test_within_a_wider_tolerance_it_passes() -> None:
    run = published()
    worse = slower(run, 1.10, "int8@onnxruntime")
    assert compared(run, worse, rules=rules("20%")).outcome == "pass"


def test_noise_floors_keep_two_days_from_crying_wolf() -> None:
    run = published()
    noisy = measured(run, lambda m: dataclasses.replace(m, protocol={**m.protocol, "noise_floor": 0.2}))
    found = compared(noisy, slower(noisy, 1.10, "int8@onnxruntime"))
    assert found.outcome == "inconclusive"


def test_growth_beyond_one_percent_is_exact_and_fails() -> None:
    run = published()

    def bigger(factor: float) -> Run:
        return measured(
            run,
            lambda m: (
                dataclasses.replace(m, value=m.value * factor) if (m.metric, m.relation) == ("size", "absolute") else m
            ),
        )

    assert compared(run, bigger(1.02)).outcome == "fail"
    assert compared(run, bigger(1.009)).outcome == "pass"
    assert compared(run, bigger(1.02), rules=rules(growth="5%")).outcome == "pass"


def test_accuracy_without_pairs_says_so() -> None:
    run = published()
    worse = measured(
        run,
        lambda m: (
            dataclasses.replace(m, value=m.value - 3, low=m.low - 3, high=m.high - 3)
            if (m.metric, m.relation) == ("top1", "absolute") and m.low is not None and m.high is not None
            else m
        ),
    )
    found = compared(run, worse)
    top1 = [c for c in found.changes if c.metric == "top1"]
    assert {c.outcome for c in top1} == {"fail"}
    assert all("not paired" in c.method for c in top1)


def test_a_candidate_that_is_skipped_now_fails() -> None:
    run = published()
    gone = tuple(
        dataclasses.replace(c, skipped="no such kernel") if c.name == "int8@openvino" else c for c in run.candidates
    )
    found = compared(run, dataclasses.replace(run, candidates=gone))
    assert found.outcome == "fail"
    assert "no such kernel" in found.sentence


def test_what_was_measured_before_and_not_after_is_inconclusive() -> None:
    run = published()
    fewer = dataclasses.replace(run, measurements=tuple(m for m in run.measurements if m.metric != "memory.peak"))
    found = compared(run, fewer)
    assert found.outcome == "inconclusive"
    assert "was measured before and not after" in found.sentence
    assert compared(fewer, run).outcome == "pass", "more than before is no loss"


def test_one_process_decides_nothing() -> None:
    run = measured(published(), lambda m: dataclasses.replace(m, protocol={**m.protocol, "restarts": 1}))
    found = compared(run, slower(run, 3.0))
    timed = [c for c in found.changes if c.metric in ("latency.p50", "throughput")]
    assert {c.outcome for c in timed} == {"inconclusive"}
    assert "2 restarts" in found.sentence


def test_reported_metrics_never_decide_unless_asked() -> None:
    run = published()
    slow_load = measured(
        run,
        lambda m: (
            dataclasses.replace(m, value=m.value * 9, low=m.low * 9, high=m.high * 9)
            if (m.metric, m.relation) == ("load.time", "absolute") and m.low and m.high
            else m
        ),
    )
    assert compared(run, slow_load).outcome == "pass"
    assert compared(run, slow_load, rules=rules(tolerances=["load.time=25%"])).outcome == "fail"


def test_unmatched_candidates_are_listed() -> None:
    run = published()
    fewer = dataclasses.replace(run, candidates=tuple(c for c in run.candidates if c.target != "openvino"))
    found = compared(run, fewer)
    assert found.notes == ("only before: fp32@openvino, int8@openvino",)
    assert found.outcome == "pass"


def test_renamed_variants_are_matched_when_told() -> None:
    run = published()

    def name(text: str | None) -> str | None:
        return text and text.replace("int8", "small")

    renamed = dataclasses.replace(
        run,
        candidates=tuple(dataclasses.replace(c, variant=c.variant.replace("int8", "small")) for c in run.candidates),
        measurements=tuple(
            dataclasses.replace(m, subject=str(name(m.subject)), against=name(m.against)) for m in run.measurements
        ),
    )
    assert compared(run, renamed).pairing.only_before == ("int8@onnxruntime", "int8@openvino")
    found = compared(run, renamed, renamed={"int8": "small"})
    assert found.pairing.only_before == ()
    assert found.outcome == "pass"
    with pytest.raises(OptimizerError, match="unknown candidate 'tiny'"):
        pair(run, renamed, {"int8": "tiny"})


def test_nothing_in_common_is_refused() -> None:
    run = published()
    other = dataclasses.replace(
        run, candidates=tuple(dataclasses.replace(c, variant=f"{c.variant}x") for c in run.candidates)
    )
    with pytest.raises(OptimizerError) as caught:
        pair(run, other, {})
    assert "--map old=new" in str(caught.value.hint)


OTHER_DATA = DataRecord("evaluate", "digits/other", "e" * 64, 5)
UNLIKE = {
    "machine": lambda run: dataclasses.replace(
        run, machine=dataclasses.replace(run.machine, cores=64, digest="0123456789abcdef")
    ),
    "data": lambda run: dataclasses.replace(
        run, data=tuple(OTHER_DATA if d.role == "evaluate" else d for d in run.data)
    ),
    "threads": lambda run: at(run, "threads", 2),
    "batch": lambda run: at(run, "batch", 3),
    "boundary": lambda run: measured(
        run, lambda m: dataclasses.replace(m, protocol={**m.protocol, "boundary": "device time only"})
    ),
}


def at(run: Run, name: str, value: int) -> Run:
    return measured(run, lambda m: dataclasses.replace(m, at={**m.at, name: value}) if name in m.at else m)


BOTH = {
    "machine": (published().machine.digest, "0123456789abcdef"),
    "data": ("digits/test", "digits/other"),
    "threads": ("1 before", "2 after"),
    "batch": ("batch 1 before", "batch 3 after"),
    "boundary": ("host arrays out before", "device time only after"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_unlike_things_are_refused_unless_told(kind: str) -> None:
    run = published()
    other = UNLIKE[kind](run)
    with pytest.raises(OptimizerError) as caught:
        compared(run, other)
    for value in BOTH[kind]:
        assert value in caught.value.message
    assert f"--across {kind}" in str(caught.value.hint)
    for told in (kind, "all"):
        found = compared(run, other, across=[told])
        assert [d.kind for d in found.differences if d.kind == "across"]


def test_an_unknown_allowance_is_refused() -> None:
    run = published()
    with pytest.raises(OptimizerError, match="--across weather"):
        compared(run, run, across=["weather"])


def test_what_explains_a_change_is_told() -> None:
    run = published()
    step = run.steps[2]
    newer = dataclasses.replace(step, key="f" * 64, ingredients={**step.ingredients, "tools": {"onnxslim": "9.9"}})
    chained = tuple(
        dataclasses.replace(c, steps=tuple("f" * 64 if k == step.key else k for k in c.steps)) for c in run.candidates
    )
    other = dataclasses.replace(
        run,
        version="0.2.0",
        tools={**run.tools, "onnxruntime": "1.33.0"},
        recipe={**run.recipe, "seed": 7},
        steps=tuple(newer if s is step else s for s in run.steps),
        candidates=chained,
        verdicts=tuple(Verdict(v.gate, v.subject, "fail", "It broke.") for v in run.verdicts[:1]),
    )
    told = {(d.kind, d.what) for d in compared(run, other).differences}
    assert ("tool", "onnxruntime: 1.32.0 -> 1.33.0") in told
    assert ("optc", "optc 0.1.0 -> 0.2.0") in told
    assert ("recipe", "seed: absent -> 7") in told
    assert any(kind == "verdict" and "pass -> fail: It broke." in what for kind, what in told)
    assert any(kind == "step" and "onnxslim" in what for kind, what in told)
