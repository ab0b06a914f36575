"""Sweeps: which settings are tried, which wins, and what ties do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from load_lab import SAMPLES, Lab, subject

from optimizer.errors import OptimizerError
from optimizer.measure import sweep
from optimizer.measure.sweep import Measures, Point, Tried, best, left_out, points
from optimizer.measure.together import Found
from optimizer.specs import SweepSpec
from optimizer.values import Measurement

SPEC = SweepSpec(threads=[1, 2], streams=[1, 2], batch=[1, 8], seconds=3.0, restarts=3)


def number(value: float, half: float, better: Any = "lower", **at: Any) -> Measurement:
    return Measurement("s", "m", "absolute", value, value - half, value + half, 9, "ms", better, at=at)


def test_settings_beyond_the_cores_are_left_out_and_told() -> None:
    fitting, beyond = points(SPEC, cores=2)
    assert {(p.threads, p.streams) for p in fitting} == {(1, 1), (1, 2), (2, 1)}
    assert {(p.threads, p.streams) for p in beyond} == {(2, 2)}
    assert left_out(SPEC, 2) == "sweep: left out because this machine has 2 cores: 2 threads x 2 streams"
    assert left_out(SPEC, 4) is None
    assert points(SweepSpec(threads=[1, 1]), 1)[0] == [Point(1, 1, 1)]


def test_the_best_wins_where_intervals_are_apart() -> None:
    slow, fast = Tried(Point(1, 1, 1), number(2.0, 0.1)), Tried(Point(2, 1, 1), number(1.0, 0.1))
    assert best([slow, fast]) is fast
    up = [dataclasses.replace(t, number=dataclasses.replace(t.number, better="higher")) for t in (slow, fast)]
    assert best(up) is up[0]
    assert best([]) is None


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_ties_go_to_fewer_cores_then_fewer_callers_then_the_smaller_batch(better: str) -> None:
    value = 1.0 if better == "lower" else 3.0
    top = Tried(Point(2, 2, 8), number(value, 1.5, better))
    others = [Tried(Point(*p), number(2.0, 0.5, better)) for p in ((1, 2, 1), (2, 1, 8), (2, 1, 1))]
    chosen = best([top, *others])
    assert chosen is not None
    assert chosen.point == Point(2, 1, 1)
    far = Tried(Point(1, 1, 1), number(9.0 if better == "lower" else 0.1, 0.1, better))
    chosen = best([top, far])
    assert chosen is top


class Rig:
    """Latency that halves with two threads, throughput from a lab with two cores."""

    def __init__(self, latency: dict[int, float], service: dict[str, float] | None = None) -> None:
        self.medians, self.asked = latency, list[Any]()
        self.service = service or {}

    def latency(self, subjects: Any, baseline_of: Any, *more: Any) -> list[Measurement]:
        self.asked += [(s.name, s.options) for s in subjects]
        assert set(baseline_of.values()) == {None}
        return [
            Measurement(s.name, "latency.p50", "absolute", v := self.medians[s.options["threads"]], v * 0.99, v * 1.01,
                        100, "ms", "lower", at={"batch": 1, "threads": s.options["threads"]})
            for s in subjects
        ]  # fmt: skip

    def swept(self, name: str = "int8@onnxruntime", spec: SweepSpec = SPEC, **options: Any) -> sweep.Swept:
        names = {f"{name} threads={t} streams={s}": 4e6 / t for t in (1, 2) for s in (1, 2)} | self.service
        measures = Measures(latency=self.latency, launch=Lab(names).launch)
        return sweep.sweep(subject(name, threads=1, **options), SAMPLES, spec, 2, 0, "here", measures=measures)


def test_each_objective_has_its_own_best() -> None:
    rig = Rig({1: 2.0, 2: 1.2})
    steps: list[tuple[int, int]] = []
    found = rig.swept()
    latency, throughput = found.settings
    assert (latency.objective, latency.options, latency.batch, latency.unit) == ("latency", {"threads": 2}, 1, "ms")
    assert (latency.value, latency.low, latency.high) == pytest.approx((1.2, 1.188, 1.212))
    assert [name for name, _ in rig.asked] == ["int8@onnxruntime threads=1", "int8@onnxruntime threads=2"]
    # One thread with two callers and two threads with one caller are as fast here; both use two cores.
    assert (throughput.objective, throughput.batch) == ("throughput", 8)
    assert throughput.options == {"threads": 2, "streams": 1}
    assert len(throughput.protocol["tried"]) == 6
    assert throughput.protocol["n"] > 0
    assert found.remarks == ()
    assert steps == []


def test_threads_that_bring_nothing_are_not_recommended() -> None:
    (latency, _) = Rig({1: 2.0, 2: 1.99}).swept().settings
    assert latency.options == {"threads": 1}


def test_openvino_is_recommended_with_all_that_it_was_opened_with() -> None:
    service = {f"a@openvino threads={t} streams={s}": 9e6 if (t, s) == (2, 1) else 4e6 for t in (1, 2) for s in (1, 2)}
    found = Rig({1: 1.0, 2: 1.0}, service).swept("a@openvino", performance="latency", streams=None, precision="f32")
    assert found.settings[1].options == {
        "performance": "throughput", "streams": 2, "threads": 1, "static_shapes": 0
    }  # fmt: skip


def test_a_setting_that_dies_is_told_and_the_others_are_measured() -> None:
    name = "int8@onnxruntime threads=1 streams=2"
    lab = Lab({f"int8@onnxruntime threads={t} streams={s}": 4e6 for t in (1, 2) for s in (1, 2)}, fail=(name, 2))

    def refuses(*_: Any) -> list[Measurement]:
        raise OptimizerError("measuring 'int8@onnxruntime threads=1': its process was killed", "less")

    measures = Measures(latency=refuses, launch=lab.launch)
    found = sweep.sweep(subject("int8@onnxruntime", threads=1), SAMPLES, SPEC, 2, 0, "here", measures=measures)
    assert [s.objective for s in found.settings] == ["throughput"]
    assert len(found.remarks) == 2
    assert "no setting for latency" in found.remarks[0]
    assert name in found.remarks[1]
    assert len(found.settings[0].protocol["tried"]) == 4


def test_found_takes_in_another() -> None:
    one, other = Found(), Found([number(1.0, 0.1)], {"a": OptimizerError("x")}, ["r"])
    one.add(other)
    assert (len(one.measurements), list(one.failures), one.remarks) == (1, ["a"], ["r"])
