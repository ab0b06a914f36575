"""Callers of one session: what counts in a window, and a queue on a clock of its own."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from load_lab import queue

from optimizer.errors import OptimizerError
from optimizer.measure.arrivals import schedule
from optimizer.measure.callers import LEAD, forks, offline, serve, sleep_until, window


class Clock:
    """Time that passes only when a call or a wait lets it."""

    def __init__(self, overshoot: int = 0) -> None:
        self.now, self.overshoot = 0, overshoot

    def __call__(self) -> int:
        return self.now

    def wait(self, until: int) -> None:
        if until > self.now:
            self.now = until + self.overshoot


class Model:
    def __init__(self, clock: Clock, takes: int) -> None:
        self.clock, self.takes, self.calls = clock, takes, 0

    def __call__(self, feeds: Any) -> dict[str, np.ndarray]:
        self.calls += 1
        self.clock.now += self.takes
        return {}


def test_a_window_counts_calls_in_flight_by_their_share() -> None:
    # Two callers, calls of 10, the second caller half a call behind.
    spans = [(0, 10), (10, 20), (20, 30), (30, 40), (5, 15), (15, 25), (25, 35), (35, 45)]
    found = window(spans, calls=4, warmup=2)
    assert found.wall_ns == 20
    assert found.calls == pytest.approx(4.0)
    assert window(spans, calls=3, warmup=0).wall_ns == 20
    assert window(spans, calls=3, warmup=0).calls == pytest.approx(2 + 1.5)


def test_one_caller_offline_is_calls_over_time() -> None:
    clock = Clock()
    model = Model(clock, 1_000)
    found = offline([model], {}, calls=20, warmup=5, clock=clock)
    assert (found.calls, found.wall_ns, model.calls) == (20.0, 20_000, 25)


@pytest.mark.parametrize("rate", [100.0, 900.0, 1500.0])
def test_an_open_loop_counts_waiting_in_the_queue(rate: float) -> None:
    clock, service = Clock(), 1_000_000  # 1 ms: 1000 per second is all it can do
    due = schedule(rate, 400, "q")
    found = serve([Model(clock, service)], {}, due, clock=clock, wait=clock.wait)
    assert found.latency == queue(due, service, 1).astype(int).tolist()  # Lindley's recursion
    assert set(found.service) == {service}
    assert set(found.lag) == {0}
    assert not found.stopped
    # The closed loop's answer would be the service time alone, whatever the rate: coordinated omission.
    assert np.quantile(found.latency, 0.99) > (1.0 if rate < 200 else 3.0) * service


def test_what_a_generator_oversleeps_is_lag_and_counts_as_latency() -> None:
    clock = Clock(overshoot=50_000)
    found = serve([Model(clock, 1_000)], {}, schedule(10.0, 50, "l"), clock=clock, wait=clock.wait)
    assert set(found.lag) == {50_000}
    assert set(found.latency) == {51_000}


def test_a_run_ends_when_enough_requests_are_late() -> None:
    clock = Clock()
    model = Model(clock, 2_000_000)
    found = serve([model], {}, schedule(10.0, 500, "s"), 1_000_000, 7, clock=clock, wait=clock.wait)
    assert found.stopped
    assert len(found.service) == model.calls == 7


def test_a_run_that_cannot_keep_up_ends_and_the_unserved_have_waited_until_then() -> None:
    clock = Clock()
    due = schedule(1000.0, 100, "p")  # 0.1 s of arrivals, 1 s of work
    found = serve([Model(clock, 10_000_000)], {}, due, patience=200_000_000, clock=clock, wait=clock.wait)
    assert found.stopped
    assert len(found.service) < 40
    assert len(found.latency) == 100
    end = clock.now - LEAD
    assert found.latency[-1] == end - due[-1]
    assert min(found.latency) >= 10_000_000


def test_callers_run_at_once_where_the_session_forks_and_one_at_a_time_where_not() -> None:
    class Forking:
        def __init__(self, most: list[int], inside: list[int]) -> None:
            self.most, self.inside = most, inside

        def __call__(self, feeds: Any) -> dict[str, np.ndarray]:
            self.inside.append(1)
            self.most.append(len(self.inside))
            time.sleep(0.002)
            self.inside.pop()
            return {}

        def fork(self) -> Forking:
            return Forking(self.most, self.inside)

    class Plain(Forking):
        fork = None  # type: ignore[assignment]

    crowded: list[int] = []
    found = offline(forks(Forking(crowded, []), 3), {}, calls=12, warmup=3)  # type: ignore[arg-type]
    assert max(crowded) == 3
    assert found.calls == pytest.approx(12, abs=4)
    alone: list[int] = []
    offline(forks(Plain(alone, []), 3), {}, calls=12, warmup=0)  # type: ignore[arg-type]
    assert max(alone) == 1


def test_every_request_is_served_once_by_several_callers() -> None:
    lock, seen = threading.Lock(), []

    def session(feeds: Any) -> dict[str, np.ndarray]:
        with lock:
            seen.append(threading.get_ident())
        return {}

    found = serve([session] * 3, {}, schedule(5000.0, 200, "m"))
    assert len(seen) == len(found.latency) == len(found.service) == 200
    assert min(found.latency) > 0


def test_a_fault_in_one_caller_ends_all_and_is_told() -> None:
    calls: list[int] = []

    def session(feeds: Any) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > 5:
            raise OptimizerError("the runtime refuses", "another input")
        return {}

    with pytest.raises(OptimizerError, match="refuses"):
        offline([session] * 2, {}, calls=10_000, warmup=0)
    calls.clear()
    with pytest.raises(OptimizerError, match="refuses"):
        serve([session] * 2, {}, schedule(1e6, 10_000, "f"))


def test_sleeping_wakes_early_and_never_before_its_time() -> None:
    start = time.perf_counter_ns()
    sleep_until(start + 1_000_000)
    assert time.perf_counter_ns() >= start + 1_000_000
    sleep_until(start)  # in the past: returns
