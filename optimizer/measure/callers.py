"""Several callers at once on one opened session, inside the measured process: closed loop and open loop.

Each caller is a thread with a fork of the session (`Session.fork`); a session that cannot fork serves one caller at
a time. The runtime computes outside Python's global lock; what the callers themselves do under it (converting inputs
and outputs) is in the numbers, as it would be in any Python server.
"""

from __future__ import annotations

import gc
import itertools
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimizer.protocols import Feeds, Session

Run = Callable[[Feeds], Any]
Clock = Callable[[], int]
LEAD = 5_000_000
"""Nanoseconds between the start of the callers and the moment from which arrivals count."""
EARLY = 150_000
"""A sleeping caller wakes so many nanoseconds before its request is due and looks at the clock until then: a sleep
alone overshoots by 50 to 90 microseconds, half the service time of a small model."""


@dataclass(frozen=True)
class Window:
    """What callers did between two moments."""

    calls: float  # completed; those in flight at either end count by the share that lies inside
    wall_ns: int


@dataclass(frozen=True)
class Served:
    """Requests in the order in which they were due, all in nanoseconds."""

    latency: list[int]  # from due to answered; for a request that was not served any more, until the run was stopped
    service: list[int]  # of those that were served, how long the session took
    lag: list[int]  # of those that were served, how much later than due and free the caller began
    span: int  # from the first due time to the last answer
    stopped: bool  # before all had been served


@dataclass
class _Log:
    """What the callers of one run write down; lists, because appending is atomic."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    served: list[tuple[int, int, int, int]] = field(default_factory=list)  # request, begin, end, lag
    late: list[int] = field(default_factory=list)
    stop: list[bool] = field(default_factory=list)


def forks(session: Session, callers: int) -> list[Run]:
    """One session per caller; where it cannot fork, the same one behind a lock."""
    fork = getattr(session, "fork", None)
    if fork is not None:
        return [session, *(fork() for _ in range(callers - 1))]
    lock = threading.Lock()

    def alone(feeds: Feeds) -> Any:
        with lock:
            return session(feeds)

    return [alone] * callers


def offline(
    sessions: Sequence[Run], feeds: Feeds, calls: int, warmup: int, clock: Clock = time.perf_counter_ns
) -> Window:
    """Every caller sends the next batch at once; the window holds `calls` completions after the first `warmup`.

    Nobody stops before the window is over, so that it is as crowded at its end as in its middle.
    """
    log, total = _Log(), warmup + calls

    def caller(session: Run) -> None:
        while len(log.spans) < total and not log.stop:
            begin = clock()
            session(feeds)
            log.spans.append((begin, clock()))

    _run(sessions, caller, log)
    return window(log.spans, calls, warmup)


def window(spans: Sequence[tuple[int, int]], calls: int, warmup: int) -> Window:
    """The window between the completion number `warmup` (0: the first beginning) and `calls` completions later."""
    ends = sorted(end for _, end in spans)
    first = ends[warmup - 1] if warmup else min(begin for begin, _ in spans)
    last = ends[warmup + calls - 1]
    inside = (max(0, min(e, last) - max(b, first)) / max(e - b, 1) for b, e in spans)
    return Window(float(sum(inside)), last - first)


def serve(
    sessions: Sequence[Run],
    feeds: Feeds,
    due: np.ndarray,
    bound: int | None = None,
    most_late: int | None = None,
    patience: int | None = None,
    clock: Clock = time.perf_counter_ns,
    wait: Callable[[int], None] | None = None,
) -> Served:
    """Serve requests due at these times, first come first served, by as many callers as there are sessions.

    Ends early when `most_late` requests have taken longer than `bound`, or `patience` nanoseconds after the last one
    was due.
    """
    pause = wait or (lambda until: sleep_until(until, clock))
    tickets, log = itertools.count(), _Log()
    start = clock() + LEAD
    close = start + int(due[-1]) + patience if patience is not None else None

    def caller(session: Run) -> None:
        for ticket in tickets:
            free = clock()
            if ticket >= len(due) or log.stop:
                return
            at = start + int(due[ticket])
            pause(at)
            begin = clock()
            if log.stop or (close is not None and begin > close):
                log.stop.append(True)
                return
            session(feeds)
            end = clock()
            log.served.append((ticket, begin, end, max(0, begin - max(at, free))))
            if bound is not None and end - at > bound:
                log.late.append(ticket)
                if most_late is not None and len(log.late) >= most_late:
                    log.stop.append(True)

    _run(sessions, caller, log)
    return _served(log, start, due, clock())


def _served(log: _Log, start: int, due: np.ndarray, now: int) -> Served:
    found = sorted(log.served)
    ends = {ticket: end for ticket, _, end, _ in found}
    arrived = [n for n, at in enumerate(due.tolist()) if n in ends or start + at <= now]
    return Served(
        latency=[ends.get(n, now) - start - int(due[n]) for n in arrived],
        service=[end - begin for _, begin, end, _ in found],
        lag=[lag for *_, lag in found],
        span=max(ends.values(), default=now) - start - int(due[0]),
        stopped=len(found) < len(due),
    )


def sleep_until(moment: int, clock: Clock = time.perf_counter_ns) -> None:
    """Return at `moment`, awake in time: the last stretch is spent asking the clock, with the lock given away."""
    while (left := moment - clock()) > 0:
        if left > EARLY:
            time.sleep((left - EARLY) / 1e9)
        else:
            select.select([], [], [], 0)  # gives Python's lock away and returns at once; a sleep of 0 takes longer


def _run(sessions: Sequence[Run], caller: Callable[[Run], None], log: _Log) -> None:
    """Run one thread per session until all have ended; the first fault stops the others and is raised."""

    def guarded(session: Run) -> None:
        try:
            caller(session)
        except BaseException:
            log.stop.append(True)
            raise

    with no_collector(), ThreadPoolExecutor(len(sessions)) as pool:
        for ended in [pool.submit(guarded, session) for session in sessions]:
            ended.result()


@contextmanager
def no_collector() -> Iterator[None]:
    """The garbage collector's pauses belong to the harness, not to the model (as in timeit)."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
