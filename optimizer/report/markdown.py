"""A run as Markdown for a pull request comment or a step summary."""

from __future__ import annotations

from optimizer import console
from optimizer.report import headline, numerals, templates
from optimizer.report.diagnosis import noise_line
from optimizer.report.explained import advice
from optimizer.report.index import Index, Setting, index
from optimizer.report.page import ORDER, date, machine_facts
from optimizer.report.results import results
from optimizer.report.searched import searched
from optimizer.report.worst import worst_slice
from optimizer.values import Candidate, Run

ICONS = {
    "pass": "✅", "fail": "❌", "inconclusive": "⚠️", "not gated": "➖", "baseline": "➖", "skipped": "➖",
    "pending": "⏳",
}  # fmt: skip
COLUMNS = (
    ("latency.p50", "absolute"),
    ("latency.p95", "absolute"),
    ("latency.p50", "speedup"),
    ("throughput", "absolute"),
)


def markdown(run: Run) -> str:
    """The Markdown of a run: verdict, gates, results, latency at every setting, environment."""
    found = index(run)
    timed = [
        (setting, c, [_cell(found, c, metric, relation, setting) for metric, relation in COLUMNS])
        for setting in found.settings[1:]
        for c in found.built()
    ]
    return (
        templates.markdown()
        .get_template("report.md.j2")
        .render(
            run=run,
            sentence=f"{headline.verdict_word(run)}: {headline.verdict_detail(run)}",
            icons=ICONS,
            date=date(run.created),
            facts=headline.facts(found),
            verdicts=sorted(run.verdicts, key=lambda v: ORDER[v.outcome]),
            results=results(found),
            timed=timed,
            worst=worst_slice(run),
            searched=searched(found),
            noise=noise_line(found),
            advice=advice(run),
            machine=machine_facts(run),
            seconds=console.duration(run.seconds),
        )
    )


def _cell(found: Index, c: Candidate, metric: str, relation: str, setting: Setting) -> str:
    m = found.get(c.name, metric, relation, setting)
    return "baseline" if m is None and relation != "absolute" and found.is_baseline(c) else numerals.full(m)
