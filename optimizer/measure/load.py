"""What a worker does when it is asked for a scenario: builds the callers, runs them, answers in plain JSON.

    offline:  callers, calls, warmup                          ->  {"calls", "wall"}
    server:   callers, rate, count, seed, [bound, most_late, patience]
                                                              ->  {"latency", "service", "lag", "span", "stopped"}

Times are nanoseconds; see `optimizer.measure.callers` for what ends a server's run early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optimizer.measure.arrivals import schedule
from optimizer.measure.callers import Run, forks, offline, serve
from optimizer.protocols import Feeds, Session


def answer(session: Session, feeds: Feeds, scenario: str, callers: int, **settings: Any) -> dict[str, Any]:
    """Run one scenario on an opened session."""
    return SCENARIOS[scenario](forks(session, callers), feeds, **settings)


def _offline(sessions: Sequence[Run], feeds: Feeds, calls: int, warmup: int) -> dict[str, Any]:
    found = offline(sessions, feeds, calls, warmup)
    return {"calls": found.calls, "wall": found.wall_ns}


def _server(
    sessions: Sequence[Run],
    feeds: Feeds,
    rate: float,
    count: int,
    seed: str,
    bound: int | None = None,
    most_late: int | None = None,
    patience: int | None = None,
) -> dict[str, Any]:
    due = schedule(rate, count, seed)
    return asdict(serve(sessions, feeds, due, bound, most_late, patience))


SCENARIOS: Mapping[str, Callable[..., dict[str, Any]]] = {"offline": _offline, "server": _server}
