"""Scenarios of a recipe: what is measured with what, who failed, what is told, and how it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from load_lab import SAMPLES, subject

from optimizer import report, scenarios
from optimizer.errors import OptimizerError
from optimizer.measure import capacity, offline, server, sweep
from optimizer.measure.sweep import Swept
from optimizer.measure.together import Found
from optimizer.recipe import LatencySpec, MeasureSpec
from optimizer.specs import OfflineSpec, ServerSpec, SweepSpec
from optimizer.values import Candidate, Machine, Measurement, Run, Setting

MACHINE = Machine("c", "a", 2, (), 1, "o", "p", digest="here")
NAMES = ("fp32@onnxruntime", "int8@onnxruntime")
CANDIDATES = [Candidate(n.partition("@")[0], "onnxruntime", (), {"threads": 1}, n) for n in NAMES]
SPEC = MeasureSpec(
    latency=LatencySpec(dims={"width": 7}),
    offline=OfflineSpec(batch=[4], streams=3),
    server=ServerSpec(rate=50, bound="20ms", dims={"width": 5}),
)


class Console:
    @contextlib.contextmanager
    def task(self, label: str, counted: str | None = None) -> Iterator[Any]:
        yield lambda done, total: None


def producer(measure: MeasureSpec = SPEC) -> Any:
    plan = SimpleNamespace(
        recipe=SimpleNamespace(measure=measure, seed=3), machine=MACHINE, baselines={NAMES[1]: NAMES[0]}
    )
    done = {name: SimpleNamespace(artifact=subject(name).artifact) for name in NAMES}
    return SimpleNamespace(
        plan=plan, console=Console(), done=done, samples=lambda signature: SimpleNamespace(feeds=[SAMPLES])
    )


def number(name: str, metric: str, relation: Any = "absolute", **more: Any) -> Measurement:
    at = {"batch": 4, "streams": 3, "threads": 1} | ({"rate": 50.0} if "server.p" in metric else {})
    unit = {"offline.throughput": "1/s", "server.rate": "1/s"}.get(metric, "ms") if relation == "absolute" else "x"
    return Measurement(name, metric, relation, 2.0, 1.0, 3.0, 9, unit, "higher", at=at, **more)


class Rig:
    """Stands in for the three measurements; `dead` names fail in offline."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *dead: str) -> None:
        self.asked: dict[str, Any] = {}
        self.dead = dead
        monkeypatch.setattr(offline, "measure", self.offline)
        monkeypatch.setattr(server, "under_rate", self.under_rate)
        monkeypatch.setattr(capacity, "highest_rate", self.highest_rate)

    def offline(self, subjects: Any, callers: Any, baselines: Any, samples: Any, plan: Any, progress: Any) -> Found:
        self.asked["offline"] = (callers, plan)
        alive = [number(s.name, "offline.throughput") for s in subjects if s.name not in self.dead]
        return Found(alive, {n: OptimizerError(f"measuring '{n}': killed", "hint") for n in self.dead})

    def under_rate(self, subjects: Any, baselines: Any, samples: Any, rate: float, plan: Any, progress: Any) -> Found:
        self.asked["server"] = (rate, plan)
        return Found([number(s.name, "server.p99") for s in subjects], {}, ["a remark"])

    def highest_rate(self, subjects: Any, samples: Any, goal: Any, plan: Any, progress: Any) -> Found:
        self.asked["rate"] = (goal, plan)
        return Found([number(s.name, "server.rate") for s in subjects])


def test_each_scenario_gets_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    found = scenarios.measure(producer(), CANDIDATES)
    assert {(m.subject, m.metric) for m in found.measurements} == {
        (n, m) for n in NAMES for m in ("offline.throughput", "server.p99", "server.rate")
    }
    callers, plan = rig.asked["offline"]
    assert callers == dict.fromkeys(NAMES, 3)
    assert (plan.batch, plan.seed, plan.machine, plan.dims) == ([4], 3, "here", {"width": 7})  # dims as for latency
    assert rig.asked["server"][0] == 50
    assert rig.asked["server"][1].dims == {"width": 5}  # its own
    assert (rig.asked["rate"][0].bound_ms, rig.asked["rate"][0].percentile) == (20.0, 99)
    assert "a remark" in found.remarks
    assert any("3 callers with 1 thread(s) each on 2 cores" in r for r in found.remarks)


def test_one_candidate_that_fails_is_told_and_only_all_of_them_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Rig(monkeypatch, NAMES[0])
    found = scenarios.measure(producer(), CANDIDATES)
    assert f"measuring '{NAMES[0]}': killed; the other candidates were measured" in found.remarks
    assert NAMES[1] in {m.subject for m in found.measurements}
    Rig(monkeypatch, *NAMES)
    with pytest.raises(OptimizerError, match="killed"):
        scenarios.measure(producer(), CANDIDATES)


def test_nothing_is_measured_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    assert scenarios.measure(producer(MeasureSpec()), CANDIDATES).measurements == []
    assert scenarios.measure(producer(MeasureSpec(server=ServerSpec(bound="1ms"))), CANDIDATES).measurements
    assert list(rig.asked) == ["rate"]
    assert scenarios.settings(producer(), CANDIDATES) == ((), ())


def test_a_sweep_is_made_of_each_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    def swept(subject: Any, samples: Any, spec: Any, cores: int, *more: Any) -> Swept:
        assert (cores, spec.dims) == (2, {"width": 7})
        return Swept((setting(subject.name),), ("a remark",))

    monkeypatch.setattr(sweep, "sweep", swept)
    spec = MeasureSpec(latency=LatencySpec(dims={"width": 7}), sweep=SweepSpec(threads=[1, 4]))
    found, remarks = scenarios.settings(producer(spec), CANDIDATES)
    assert [s.subject for s in found] == list(NAMES)
    assert remarks == (
        "sweep: left out because this machine has 2 cores: 4 threads x 1 streams", "a remark", "a remark",
    )  # fmt: skip


def setting(name: str) -> Setting:
    options = {"threads": 1, "streams": 2}
    return Setting(name, "throughput", options, 8, 2.0, 1.0, 3.0, "1/s", {"n": 9})


def test_load_reads_as_one_line_per_scenario_and_candidate() -> None:
    name, said = NAMES[1], {"percentile": 99, "bound_ms": 20.0}
    measured = (
        number(name, "offline.throughput"),
        number(name, "offline.throughput", "ratio", against=NAMES[0]),
        number(name, "server.p50"),
        number(name, "server.p99"),
        number(name, "server.rate", protocol=said),
    )
    run = Run(
        1, "0", "n", "t", {}, "fp32", MACHINE, {}, (), (), tuple(CANDIDATES), measured, (), (), 1.0, "pass",
        settings=(setting(name),),
    )  # fmt: skip
    assert report.loads(run) == [
        f"offline  {name}  batch 4, 3 streams: 2.00/s [1.00, 3.00], 2.00x [1.00, 3.00] of {NAMES[0]}",
        f"server   {name}  50/s, 3 streams: p50 2.00 ms [1.00, 3.00], p99 2.00 ms [1.00, 3.00]",
        f"server   {name}  p99 <= 20 ms, 3 streams: up to 2.00/s [1.00, 3.00]",
        f"best     {name}  highest throughput with threads 1, streams 2, batch 8: 2.00/s [1.00, 3.00]",
    ]
