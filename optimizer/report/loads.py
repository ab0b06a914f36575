"""Candidates under load in words: a line per scenario and candidate, and the best runtime settings per candidate."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.report import numerals
from optimizer.values import Measurement, Run, Setting


def loads(run: Run) -> list[str]:
    """The lines, none for a run without scenarios and without a sweep."""
    return [*_offline(run), *_server(run), *_rates(run), *_settings(run)]


def _offline(run: Run) -> Iterator[str]:
    for m in _named(run, "offline.throughput"):
        yield f"offline  {m.subject}  batch {m.at['batch']}, {_streams(m)}: {numerals.full(m)}{_against(run, m)}"


def _server(run: Run) -> Iterator[str]:
    for first in _named(run, "server.p50"):
        own = [m for m in run.measurements if m.subject == first.subject and m.relation == "absolute"]
        parts = [f"{m.metric.partition('.')[2]} {numerals.full(m)}" for m in own if m.metric.startswith("server.p")]
        yield f"server   {first.subject}  {first.at['rate']:g}/s, {_streams(first)}: {', '.join(parts)}"


def _rates(run: Run) -> Iterator[str]:
    for m in _named(run, "server.rate"):
        bound = f"p{m.protocol['percentile']} <= {m.protocol['bound_ms']:g} ms"
        said = m.protocol.get("remark")
        what = said if said and m.value == 0 else f"up to {numerals.full(m)}"
        yield f"server   {m.subject}  {bound}, {_streams(m)}: {what}"


def _settings(run: Run) -> Iterator[str]:
    for subject in dict.fromkeys(s.subject for s in run.settings):
        yield f"best     {subject}  " + "; ".join(_best(s) for s in run.settings if s.subject == subject)


def _best(s: Setting) -> str:
    ways = "lowest latency" if s.objective == "latency" else "highest throughput"
    options = ", ".join(f"{name} {value}" for name, value in s.options.items())
    m = Measurement(s.subject, "", "absolute", s.value, s.low, s.high, s.protocol.get("n", 0), s.unit, "higher")
    return f"{ways} with {options}, batch {s.batch}: {numerals.full(m)}"


def _named(run: Run, metric: str) -> list[Measurement]:
    return [m for m in run.measurements if (m.metric, m.relation) == (metric, "absolute")]


def _streams(m: Measurement) -> str:
    return numerals.count(m.at["streams"], "stream")


def _against(run: Run, m: Measurement) -> str:
    ratio = next((r for r in run.measurements if _key(r) == (m.subject, m.metric, "ratio", m.at)), None)
    return f", {numerals.full(ratio)} of {ratio.against}" if ratio else ""


def _key(m: Measurement) -> tuple[str, str, str, object]:
    return m.subject, m.metric, m.relation, m.at
