"""The order of things: fresh processes, interleaved blocks, paired ratios, nothing left behind. No real time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from latency_lab import SAMPLES, SIGNATURE, Lab, subject

from optimizer.errors import OptimizerError
from optimizer.measure.latency import TWIN, measure, shape_feeds
from optimizer.measure.memory import size_measurements
from optimizer.measure.rounds import lay_out
from optimizer.recipe import LatencySpec
from optimizer.values import Measurement, Signature, TensorSpec

PACE = {"fp32@a": 4e6, "int8@a": 2e6, "other@b": 1e6}
SPEC = LatencySpec(batch=[1, 8], seconds=2.0, restarts=4, most_restarts=4)
SUBJECTS = [*PACE, "fp32@a" + TWIN]


def taken(lab: Lab, spec: LatencySpec = SPEC, names: tuple[str, ...] = tuple(PACE), **more: Any) -> list[Measurement]:
    baselines = dict.fromkeys(names, "fp32@a") | {"fp32@a": None, "other@b": None}
    return measure([subject(n) for n in names], baselines, SAMPLES, spec, 7, "here", launch=lab.launch, **more)


def of(found: list[Measurement], name: str, metric: str, relation: str = "absolute", batch: int = 1) -> Measurement:
    (one,) = [m for m in found if (m.subject, m.metric, m.relation, m.at["batch"]) == (name, metric, relation, batch)]
    return one


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(lambda name, restart: PACE[name.removesuffix(TWIN)])


@pytest.fixture(scope="module")
def found(lab: Lab) -> list[Measurement]:
    return taken(lab)


def test_every_subject_gets_a_fresh_process_per_restart_and_batch(lab: Lab, found: list[Measurement]) -> None:
    for name in PACE:
        assert lab.log.count((name, "launch")) == lab.log.count((name, "stop")) == 2 * SPEC.restarts
    assert not lab.alive
    assert set(lab.shapes) == {(1, 4), (8, 4)}


def test_rounds_are_interleaved_and_shuffled(lab: Lab, found: list[Measurement]) -> None:
    start = max(i for i, (_, what) in enumerate(lab.log[: len(lab.log) // 8]) if what == "launch") + 1
    runs = [name for name, what in lab.log[start : len(lab.log) // 8] if what == "run"][2 * len(SUBJECTS) :]
    rounds = [tuple(runs[i : i + 4]) for i in range(0, len(runs), 4)]
    assert len(rounds) == 40
    assert all(sorted(r) == sorted(SUBJECTS) for r in rounds)
    assert len(set(rounds)) > 2


def test_the_order_comes_from_the_seed() -> None:
    labs = [Lab(lambda name, restart: PACE[name.removesuffix(TWIN)]) for _ in range(2)]
    first, second = (taken(x) for x in labs)
    assert labs[0].log == labs[1].log
    assert [(m.value, m.low, m.high) for m in first] == [(m.value, m.low, m.high) for m in second]


def test_speedup_is_baseline_over_subject(found: list[Measurement]) -> None:
    one = of(found, "int8@a", "latency.p50", "speedup")
    assert one.value == pytest.approx(2.0, rel=0.02)
    assert one.low is not None
    assert one.high is not None
    assert 1.9 < one.low < one.value < one.high < 2.1
    assert (one.against, one.unit, one.better) == ("fp32@a", "x", "higher")
    assert of(found, "int8@a", "throughput", "ratio", 8).value == pytest.approx(2.0, rel=0.02)


def test_the_record_says_which_clock_it_was_and_where_a_ratio_compares_two() -> None:
    alone = {"clock": "CUDA events", "boundary": "the engine alone"}
    lab = Lab(lambda name, restart: PACE[name.removesuffix(TWIN)], clocks={"int8@a": alone})
    found = taken(lab, LatencySpec(batch=[1], seconds=1.0, restarts=2, most_restarts=2), ("fp32@a", "int8@a"))
    own, base = (of(found, name, "latency.p50").protocol for name in ("int8@a", "fp32@a"))
    assert (own["clock"], own["boundary"]) == ("CUDA events", "the engine alone")
    assert (base["clock"], base["boundary"]) == ("time.perf_counter_ns", "one call: host arrays in, host arrays out")
    ratio = of(found, "int8@a", "latency.p50", "speedup").protocol["baseline_timed"]
    assert ratio.startswith("by time.perf_counter_ns, one call: host arrays in")
    alike = taken(Lab(lambda name, restart: 1e6), LatencySpec(batch=[1], seconds=1.0, restarts=2, most_restarts=2))
    assert not any("baseline_timed" in m.protocol for m in alike)


def test_subjects_without_a_baseline_get_no_ratio(found: list[Measurement]) -> None:
    own = [m for m in found if m.subject in ("fp32@a", "other@b") and m.metric != "latency.aa"]
    assert {m.relation for m in own} == {"absolute"}


def test_absolute_values_have_units_settings_and_protocol(found: list[Measurement]) -> None:
    p50 = of(found, "int8@a", "latency.p50", batch=8)
    assert p50.value == pytest.approx(2.0, rel=0.02)
    assert (p50.unit, p50.better, p50.machine) == ("ms", "lower", "here")
    assert p50.at == {"batch": 8, "threads": 1}
    assert p50.n == 4 * 40 * p50.protocol["calls_per_block"]
    assert len(p50.protocol["quantiles"]) == 101
    assert p50.protocol["quantiles"] == sorted(p50.protocol["quantiles"])
    assert len(p50.protocol["restart_p50"]) == len(p50.protocol["first_call"]) == 4
    assert 0 < p50.protocol["noise_floor"] < 0.02
    assert p50.protocol["interleaved"] is True
    assert p50.protocol["together_with"] == sorted(SUBJECTS)
    assert p50.protocol["shapes"] == {"x": [8, 4]}
    assert of(found, "int8@a", "throughput", batch=8).value == pytest.approx(8 / 2e-3, rel=0.02)
    json.dumps([m.protocol for m in found], allow_nan=False)


def test_load_time_and_peak_memory_are_over_restarts(found: list[Measurement]) -> None:
    load = of(found, "int8@a", "load.time")
    assert (load.n, load.unit) == (4, "ms")
    assert load.low is not None
    assert 10 < load.value < 13
    assert of(found, "int8@a", "load.time", "ratio").value == pytest.approx(1.0)
    peak = of(found, "int8@a", "memory.peak")
    assert (peak.value, peak.low, peak.high, peak.n, peak.unit) == (5300.0, None, None, 4, "B")
    assert of(found, "int8@a", "memory.peak", "ratio").value == 1.0


def test_a_slow_subject_gets_no_percentile_that_its_calls_cannot_support() -> None:
    spec = LatencySpec(seconds=4.0, restarts=4, most_restarts=4)
    found = taken(Lab(lambda name, restart: 3e8 if "fp32@a" in name else 1e6), spec)
    assert {m.metric for m in found if m.subject == "fp32@a" and "latency.p" in m.metric} == {"latency.p50"}
    fast = {m.metric for m in found if m.subject == "int8@a" and m.relation == "absolute"}
    assert {"latency.p50", "latency.p90", "latency.p95", "latency.p99"} <= fast
    assert {m.metric for m in found if m.relation == "speedup"} == {"latency.p50", "latency.aa"}


def test_one_restart_reports_no_load_time_and_says_what_its_interval_lacks() -> None:
    found = taken(Lab(lambda name, restart: 1e6), LatencySpec(seconds=1.0, restarts=1, most_restarts=1))
    assert "load.time" not in {m.metric for m in found}
    assert "one restart" in of(found, "int8@a", "latency.p50").protocol["interval"]


def test_processes_that_differ_widen_the_interval() -> None:
    steady = taken(Lab(lambda name, restart: 1e6))
    lucky = taken(Lab(lambda name, restart: 2e6 if name == "int8@a" and restart % 2 else 1e6))

    def width(found: list[Measurement]) -> float:
        one = of(found, "int8@a", "latency.p50", "speedup")
        assert one.low is not None
        assert one.high is not None
        return one.high / one.low

    assert width(steady) < 1.1
    assert width(lucky) > 2


def test_the_budget_is_spent_in_equal_blocks() -> None:
    blocks = lay_out({"fast": 1_000_000, "slow": 50_000_000}, 2.0, 4)
    assert blocks.rounds == 40
    assert blocks.calls == {"fast": 50, "slow": 1}
    slow = lay_out({"fast": 1_000_000, "slow": 3_000_000_000}, 2.0, 4)
    assert slow.rounds == 3  # as few as support a median over four restarts
    assert slow.calls["slow"] == 1
    assert lay_out({"quick": 100_000}, 0.1, 4).rounds == 10  # blocks of 10 ms
    assert lay_out({"tiny": 1}, 4.0, 2).calls["tiny"] == 5000
    assert lay_out({"slow": 10**12}, 10.0, 1).rounds == 10


def test_more_restarts_follow_while_a_gate_is_undecided() -> None:
    spec = LatencySpec(seconds=2.0, restarts=4, most_restarts=12, precision=None)
    seen: list[int] = []

    def enough(found: Sequence[Measurement]) -> bool:
        seen.append(of(list(found), "int8@a", "latency.p50").protocol["restarts"])
        return seen[-1] >= 7

    found = taken(Lab(lambda name, restart: 1e6), spec, enough=enough)
    assert seen == [4, 7]
    protocol = of(found, "int8@a", "latency.p50", "speedup").protocol
    assert (protocol["restarts"], protocol["looks"], protocol["stopped"]) == (7, 2, "decided")
    assert "2 looks" in protocol["interval"]


def test_it_ends_undecided_after_the_last_restart_and_says_so() -> None:
    spec = LatencySpec(seconds=2.0, restarts=4, most_restarts=12, precision=None)
    found = taken(Lab(lambda name, restart: 1e6), spec, enough=lambda found: False)
    assert {m.protocol["stopped"] for m in found} == {"restarts"}
    assert of(found, "int8@a", "latency.p50").protocol["restarts"] == 12


def test_a_spent_budget_ends_it_after_two_restarts_at_least() -> None:
    spec = LatencySpec(seconds=2.0, restarts=4, most_restarts=12, budget=1e-6)
    found = taken(Lab(lambda name, restart: 1e6), spec, enough=lambda found: False)
    protocol = of(found, "int8@a", "latency.p50").protocol
    assert (protocol["restarts"], protocol["stopped"]) == (2, "budget")


def test_precision_asks_for_more_restarts() -> None:
    spec = LatencySpec(seconds=2.0, restarts=2, most_restarts=8, precision=0.02)
    unsteady = Lab(lambda name, restart: 1e6 * (1 + 0.05 * (restart % 3) * (name == "int8@a")))
    assert of(taken(unsteady, spec), "int8@a", "latency.p50").protocol["restarts"] == 8
    loose = LatencySpec(seconds=2.0, restarts=2, most_restarts=8, precision=None)
    assert of(taken(Lab(lambda name, restart: 1e6), loose), "int8@a", "latency.p50").protocol["restarts"] == 2


def test_the_baseline_is_compared_with_a_twin_of_itself() -> None:
    same = of(taken(Lab(lambda name, restart: 1e6)), "fp32@a", "latency.aa", "speedup")
    assert same.low is not None
    assert same.high is not None
    assert same.low <= 1 <= same.high
    assert same.against == same.subject == "fp32@a"
    noisy = taken(Lab(lambda name, restart: 1.3e6 if name.endswith(TWIN) else 1e6))
    assert of(noisy, "fp32@a", "latency.aa", "speedup").value == pytest.approx(1.3, rel=0.02)
    assert of(noisy, "fp32@a", "latency.p50").protocol["noise_floor"] > 0.25
    assert not [m for m in noisy if m.subject.endswith(TWIN)]


@pytest.mark.parametrize("event", ["launch", "run", "stop"])
def test_a_subject_that_fails_is_named_and_the_others_go_on(event: str) -> None:
    lab = Lab(lambda name, restart: 1e6, fail_at=("int8@a", event), error=OptimizerError("its process died", "x"))
    told: list[str] = []
    found = taken(lab, failed=lambda name, error: told.append(f"{name}: {error.message}"))
    assert told == ["int8@a: its process died"] * len(SPEC.batch)
    assert {m.subject for m in found} == {"fp32@a", "other@b"}
    assert not lab.alive


def test_without_a_survivor_nothing_is_measured() -> None:
    lab = Lab(lambda name, restart: 1e6, fail_at=("a@b", "launch"), error=OptimizerError("dead", "x"))
    assert measure([subject("a@b")], {}, SAMPLES, SPEC, 0, "", launch=lab.launch, failed=lambda n, e: None) == []


def test_a_dead_baseline_takes_the_ratios_with_it() -> None:
    lab = Lab(lambda name, restart: 1e6, fail_at=("fp32@a", "launch"), error=OptimizerError("dead", "x"))
    found = taken(lab, failed=lambda name, error: None)
    assert {m.relation for m in found} == {"absolute"}


@pytest.mark.parametrize("event", ["launch", "run", "stop"])
def test_whatever_happens_no_process_is_left(event: str) -> None:
    lab = Lab(lambda name, restart: 1e6, fail_at=("int8@a", event))
    with pytest.raises(KeyboardInterrupt):
        taken(lab)
    assert not lab.alive


def test_progress_ends_at_its_total() -> None:
    steps: list[tuple[int, int]] = []
    taken(Lab(lambda name, restart: 1e6), progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_threads_of_a_subject_win_over_the_setting() -> None:
    lab = Lab(lambda name, restart: 1e6)
    (one, *_) = measure([subject("a@b", threads=2)], {}, SAMPLES, LatencySpec(), 0, "", launch=lab.launch)
    assert one.at["threads"] == 2


def test_all_subjects_of_a_restart_share_cores_and_the_next_restart_takes_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {4, 5, 6})
    lab = Lab(lambda name, restart: 1e6)
    taken(lab, LatencySpec(seconds=1.0, restarts=4, most_restarts=4, threads=2))
    assert lab.cores == [c for c in [(4, 5), (6, 4), (5, 6), (4, 5)] for _ in SUBJECTS]
    everything = Lab(lambda name, restart: 1e6)
    taken(everything, LatencySpec(seconds=1.0, restarts=2, most_restarts=2, threads=3))
    free = Lab(lambda name, restart: 1e6)
    taken(free, LatencySpec(seconds=1.0, restarts=2, most_restarts=2, pin=False))
    assert set(everything.cores) == set(free.cores) == {()}


def test_names_must_be_unique_and_baselines_present() -> None:
    with pytest.raises(AssertionError, match="BUG"):
        measure([subject("a@b")], {"a@b": "gone@b"}, SAMPLES, SPEC, 0, "", launch=Lab(lambda n, r: 1e6).launch)


TOKENS = Signature(
    (TensorSpec.parse("ids", "int64[batch,sequence]"), TensorSpec.parse("mask", "int64[batch,sequence]")), ()
)


def test_feeds_are_real_samples_cut_or_repeated() -> None:
    ids = np.arange(6).reshape(2, 3)
    fed = shape_feeds(TOKENS, {"ids": ids, "mask": np.ones_like(ids), "unused": ids}, 3, {"sequence": 5})
    assert fed["ids"].tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [0, 1, 2, 0, 1]]
    assert list(fed) == ["ids", "mask"]
    assert fed["ids"].dtype == np.int64
    assert shape_feeds(TOKENS, {"ids": ids, "mask": ids}, 1, {})["ids"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("batch", "dims", "samples", "message"),
    [
        (1, {"width": 3}, SAMPLES, "no free dimension 'width'"),
        (1, {"batch": 3}, SAMPLES, "no free dimension 'batch'"),
        (1, {}, {"z": SAMPLES["x"]}, "no sample for the input 'x'"),
        (1, {}, {"x": np.zeros((3, 5), np.float32)}, "do not fit"),
        (1, {}, {"x": np.zeros(4, np.float32)}, "do not fit"),
        (1, {}, {"x": np.zeros((0, 4), np.float32)}, "do not fit"),
    ],
)
def test_feeds_that_cannot_be_made_say_why(
    batch: int, dims: dict[str, int], samples: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(OptimizerError, match=message):
        shape_feeds(SIGNATURE, samples, batch, dims)


def test_a_fixed_batch_size_is_kept() -> None:
    fixed = Signature((TensorSpec.parse("x", "float32[2,4]"),), ())
    assert shape_feeds(fixed, SAMPLES, 2, {})["x"].shape == (2, 4)
    assert shape_feeds(fixed, SAMPLES, 1, {})["x"].shape == (2, 4)
    with pytest.raises(OptimizerError, match="cannot run 8 samples"):
        shape_feeds(fixed, SAMPLES, 8, {})


def test_sizes_are_exact() -> None:
    absolute, ratio = size_measurements("int8@a", 300, ("fp32@a", 1000), "here")
    assert (absolute.value, absolute.unit, absolute.low) == (300.0, "B", None)
    assert (ratio.value, ratio.unit, ratio.against) == (0.3, "x", "fp32@a")
    assert len(size_measurements("fp32@a", 1000, None, "here")) == 1
