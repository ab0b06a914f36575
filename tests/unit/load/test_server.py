"""Server scenario on a simulated queue: percentiles under a rate, and the search for the highest rate."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from load_lab import SAMPLES, Lab, queue, subject

from optimizer.errors import OptimizerError
from optimizer.measure.arrivals import Answer, schedule
from optimizer.measure.capacity import Bracket, Goal, Probe, _ends, highest_rate, search
from optimizer.measure.server import Plan, generator, requests, under_rate
from optimizer.measure.together import Found
from optimizer.values import Measurement

SERVICE = {"fp32@onnxruntime": 4e6, "int8@onnxruntime": 2e6}  # capacity 250 and 500 per second
BASE = {"int8@onnxruntime": "fp32@onnxruntime"}
PLAN = Plan(callers=1, seconds=6.0, restarts=3, machine="here")


def at_rate(rate: float, lab: Lab | None = None, plan: Plan = PLAN) -> Found:
    made = [subject(name, threads=1) for name in SERVICE]
    return under_rate(made, BASE, SAMPLES, rate, plan, launch=(lab or Lab(SERVICE)).launch)


def one(found: Found, name: str, metric: str, relation: str = "absolute") -> Measurement:
    (m,) = [m for m in found.measurements if (m.subject, m.metric, m.relation) == (name, metric, relation)]
    assert m.low is not None
    assert m.high is not None
    assert m.low <= m.value <= m.high
    return m


def test_percentiles_under_load_hold_the_wait_in_the_queue() -> None:
    lab = Lab(SERVICE)
    found = at_rate(150.0, lab)
    assert lab.alive == 0
    p99 = one(found, "int8@onnxruntime", "server.p99")
    truth = np.concatenate([queue(schedule(150.0, 330, f"0/{r}"), 2e6, 1)[30:] for r in range(3)]) / 1e6
    assert p99.value == pytest.approx(np.quantile(truth, 0.99), rel=1e-6)
    assert p99.value > 2.5 * 2.0  # more than the service time: requests meet
    assert (p99.n, p99.unit, p99.better) == (900, "ms", "lower")
    assert p99.at == {"batch": 1, "streams": 1, "threads": 1, "rate": 150.0}
    assert p99.protocol["utilisation"] == pytest.approx(0.3)
    assert one(found, "int8@onnxruntime", "server.p50", "speedup").value > 1.9
    json.dumps([m.protocol for m in found.measurements], allow_nan=False)
    assert found.remarks == []


def test_all_subjects_get_the_same_arrivals_and_restarts_get_others() -> None:
    lab = Lab(SERVICE)
    at_rate(100.0, lab)
    seeds = {name: [s["seed"] for n, what, s in lab.log if n == name and what == "server"] for name in SERVICE}
    assert all(found == ["0/0", "0/1", "0/2"] for found in seeds.values())


def test_a_percentile_that_the_requests_do_not_support_is_absent() -> None:
    few = at_rate(40.0)  # 240 requests
    assert {m.metric for m in few.measurements} == {"server.p50", "server.p90"}
    assert "server.p99" in {m.metric for m in at_rate(50.0).measurements}  # 300


def test_a_rate_beyond_capacity_is_said_to_grow_the_queue() -> None:
    found = at_rate(400.0)
    (remark,) = found.remarks
    assert remark.startswith("fp32@onnxruntime: 400 requests per second ask for 160 %")
    assert one(found, "fp32@onnxruntime", "server.p99").value > 100
    assert one(found, "int8@onnxruntime", "server.p50").value < 50


def test_a_late_generator_is_recorded_and_told() -> None:
    found = at_rate(100.0, Lab(SERVICE, lag=500_000))
    assert any("begun 0.500 ms late" in r for r in found.remarks)
    assert one(found, "fp32@onnxruntime", "server.p50").protocol["generator"]["late"]
    assert not generator([1e6] * 10, [1e4] * 10)["late"]
    assert generator([1e6] * 100, [0] * 95 + [5e6] * 5)["late"]


def test_whose_process_dies_under_load_is_named_and_the_others_go_on() -> None:
    lab = Lab(SERVICE, fail=("int8@onnxruntime", 2))
    found = at_rate(100.0, lab)
    assert list(found.failures) == ["int8@onnxruntime"]
    assert {m.subject for m in found.measurements} == {"fp32@onnxruntime"}
    assert lab.alive == 0
    lab = Lab(SERVICE, fail=("fp32@onnxruntime", 1))
    searched = highest(lab=lab)
    assert list(searched.failures) == ["fp32@onnxruntime"]
    assert {m.subject for m in searched.measurements} == {"int8@onnxruntime"}
    assert lab.alive == 0


def test_a_run_that_would_never_end_is_refused() -> None:
    with pytest.raises(OptimizerError, match="are 3,000,000 requests"):
        requests(1e6, Plan(1, 3.0, 3))
    assert requests(1e-3, Plan(1, 1.0, 3)) == (10, 1)


def highest(bound: float = 20.0, lab: Lab | None = None, percentile: int = 99, plan: Plan = PLAN) -> Found:
    made = [subject(name, threads=1) for name in SERVICE]
    goal = Goal(percentile, bound, probes=10)
    return highest_rate(made, SAMPLES, goal, plan, launch=(lab or Lab(SERVICE)).launch)


def true_rate(service: float, bound: float) -> float:
    """The rate at which p99 of a long simulated queue crosses the bound."""
    rates = np.linspace(0.3, 0.99, 70) * 1e9 / service
    p99 = [np.quantile(queue(schedule(r, 20_000, "t"), service, 1), 0.99) / 1e6 for r in rates]
    return float(rates[np.searchsorted(p99, bound)])


def test_the_highest_rate_lies_in_its_bracket() -> None:
    found = highest()
    for name, service in SERVICE.items():
        m = one(found, name, "server.rate")
        assert (m.unit, m.better, m.protocol["bound_ms"]) == ("1/s", "higher", 20.0)
        truth = true_rate(service, 20.0)
        assert m.low is not None
        assert m.high is not None
        assert m.low < 1.05 * truth
        assert m.high > 0.95 * truth
        assert m.value == m.low > 0.5 * truth
    assert {m.relation for m in found.measurements} == {"absolute"}


def test_a_bound_that_no_rate_holds_is_told_with_the_latency() -> None:
    lab = Lab({"fp32@onnxruntime": 4e6, "int8@onnxruntime": 1e6})
    found = highest(bound=3.0, lab=lab)
    m = one(found, "fp32@onnxruntime", "server.rate")
    assert (m.value, m.low, m.high) == (0.0, 0.0, 0.0)  # 4 ms of service alone: no rate can
    assert "p99 is" in m.protocol["remark"]
    assert "and the bound 3 ms" in m.protocol["remark"]
    assert found.remarks[0].startswith("fp32@onnxruntime: no rate holds")
    assert one(found, "int8@onnxruntime", "server.rate").value > 0


def test_a_bound_that_only_lower_rates_than_those_tried_could_hold_leaves_the_end_open() -> None:
    lab = Lab({"fp32@onnxruntime": 4e6, "int8@onnxruntime": 2.99e6})  # two that meet are late: one in a hundred
    m = one(highest(bound=3.0, lab=lab), "int8@onnxruntime", "server.rate")
    assert (m.value, m.low) == (0.0, 0.0)
    assert m.high is not None
    assert m.high > 0
    assert "no rate that was tried holds the bound" in m.protocol["remark"]


def test_processes_stay_open_for_the_search_and_share_the_requests() -> None:
    lab = Lab(SERVICE)
    found = highest(lab=lab)
    assert lab.launches == dict.fromkeys(SERVICE, 3)
    assert lab.alive == 0
    held = [p for m in found.measurements for p in m.protocol["probes"] if p["answer"] == "held"]
    assert all(p["requests"] >= 897 for p in held)


def test_a_lower_percentile_allows_a_higher_rate() -> None:
    plan = dataclasses.replace(PLAN, seconds=30.0)
    p90, p99 = (one(highest(percentile=p, plan=plan), "fp32@onnxruntime", "server.rate") for p in (90, 99))
    assert p90.value > 1.1 * p99.value


def prober(limit: float, seen: list[float], unsure: float = 0.0) -> Callable[[float, int], Probe]:
    def probe(rate: float, number: int) -> Probe:
        assert number == len(seen)
        seen.append(rate)
        found: Answer = "held" if rate <= limit else "missed" if rate > limit * (1 + unsure) else "undecided"
        return Probe(rate, found, 1.0, 600, 0, 1.0, rate / 1000, {"late": False})

    return probe


@pytest.mark.parametrize("limit", [31.0, 120.0, 500.0, 777.0, 1200.0, 5000.0, 40_000.0])
def test_the_search_brackets_and_bisects_in_a_bounded_number_of_probes(limit: float) -> None:
    seen: list[float] = []
    found = search(prober(limit, seen), capacity=1000.0, most=10)
    assert found.held is not None
    assert found.missed is not None
    assert found.held.rate <= limit < found.missed.rate
    assert len(seen) <= 24
    assert {r for r in seen if seen.count(r) > 1} == {found.held.rate, found.missed.rate}
    if limit <= 1200:
        assert len(seen) <= 12
        assert found.missed.rate / found.held.rate < 1.1


def test_the_search_ends_where_even_the_slowest_rate_misses() -> None:
    seen: list[float] = []
    found = search(prober(0.0, seen), capacity=1000.0, most=10)
    assert found.held is None
    assert min(seen) >= 20.0
    assert len(seen) < 10


def test_a_lucky_probe_does_not_become_the_answer() -> None:
    seen: list[float] = []

    def lucky(rate: float, number: int) -> Probe:
        seen.append(rate)
        probe = prober(500.0, [])(rate, 0)
        return dataclasses.replace(probe, answer="held") if number == 1 else probe

    found = search(lucky, capacity=1000.0, most=10)
    assert seen[1] == 800.0
    assert found.held is not None
    assert found.held.rate <= 500
    assert len(found.at(800.0)) == 2


def test_misses_that_a_second_look_takes_back_do_not_end_the_bracket() -> None:
    seen: list[float] = []

    def spiky(rate: float, number: int) -> Probe:
        """A busy neighbour spoils the first probe."""
        seen.append(rate)
        probe = prober(900.0, [])(rate, 0)
        return dataclasses.replace(probe, answer="missed") if number == 0 else probe

    found = search(spiky, capacity=1000.0, most=8)
    assert found.held is not None
    assert found.missed is not None
    assert 500 < found.held.rate <= 900 < found.missed.rate
    assert seen[0] == 500.0
    assert len(found.at(500.0)) == 2
    open_end = Bracket((Probe(100.0, "held", 1.0, 9, 0, 1.0, 0.25, {"late": False}),))
    assert _ends(open_end) == (100.0, 100.0, 400.0)  # at four times the rate no time would be left


def test_undecided_rates_widen_the_bracket_and_do_not_count_as_held() -> None:
    found = search(prober(500.0, [], unsure=0.4), capacity=1000.0, most=10)
    assert found.held is not None
    assert found.missed is not None
    assert found.held.rate <= 500
    assert found.missed.rate > 700
    undecided = Probe(5.0, "undecided", 1.0, 1, 0, 1.0, 0.1, {"late": False})
    assert Bracket((undecided,)).held is None
