"""A run as one HTML page that needs nothing else: no network, no font of its own, one script of ours for comfort."""

from __future__ import annotations

import base64
import datetime
import hashlib
from typing import Any

from markupsafe import Markup

from optimizer import console, content
from optimizer.report import figures, headline, pipeline, protocol, templates, timing
from optimizer.report.explained import explained
from optimizer.report.graph import graph
from optimizer.report.index import index
from optimizer.report.results import results
from optimizer.report.searched import searched
from optimizer.report.slices import sliced
from optimizer.report.trained import trained
from optimizer.report.worst import worst_slice
from optimizer.values import Run, Verdict, waiting

ORDER = {"fail": 0, "inconclusive": 1, "pass": 2}
STYLES = ("report.css", "charts.css", "narrow.css")
SCRIPT = "report.js"


def html(run: Run) -> str:
    """The page of a run."""
    style, script = "".join(map(_file, STYLES)), _file(SCRIPT)
    found = index(run)
    views = pipeline.steps(run)
    return (
        templates.html()
        .get_template("report.html.j2")
        .render(
            run=run,
            style=Markup(style),  # noqa: S704  # our own files
            script=Markup(script),  # noqa: S704
            policy=_policy(style, script),
            date=date(run.created),
            word=headline.verdict_word(run),
            detail=headline.verdict_detail(run),
            facts=headline.facts(found),
            colour={target: place for place, target in enumerate(found.targets)},
            verdicts=_judged(run),
            results=results(found),
            skipped=[c for c in run.candidates if c.skipped is not None],
            waiting=waiting(run.candidates),
            accuracy=figures.accuracy(found),
            sliced=sliced(found),
            worst=worst_slice(run),
            searched=searched(found),
            trained=trained(run),
            timings=timing.timings(found),
            advised=timing.advised(found),
            loads=timing.loads(found),
            size=figures.size(found),
            explained=explained(found),
            graph=graph(run, views),
            chains=pipeline.chains(run, views),
            steps=views,
            protocols=protocol.protocols(run),
            facts_of_machine=machine_facts(run),
            elsewhere=len([m for m in run.measurements if m.machine and m.machine != run.machine.digest]),
            recipe=recipe_text(run.recipe),
            seconds=console.duration(run.seconds),
        )
    )


def date(created: str) -> str:
    """`4 March 2026, 05:06 UTC`; text that is no date stays as it is."""
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        return created
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def machine_facts(run: Run) -> list[tuple[str, str]]:
    """The machine in words, unknown parts left out."""
    m = run.machine
    facts = [
        ("CPU", m.cpu),
        ("Cores", f"{m.cores} usable"),
        ("Architecture", m.architecture),
        ("Instruction sets", ", ".join(m.isa)),
        ("Accelerators", ", ".join(m.accelerators)),
        ("Memory", console.size(m.memory) if m.memory else ""),
        ("System", m.os),
        ("Python", m.python),
        ("Machine digest", m.digest),
    ]
    return [(name, value) for name, value in facts if value]


def recipe_text(recipe: dict[str, Any]) -> str:
    """The recipe as YAML."""
    import yaml

    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100) if recipe else ""


def _judged(run: Run) -> list[tuple[Verdict, str, str]]:
    """Verdicts with variant and target of their candidate, what failed first."""
    names = {c.name: (c.variant, c.target) for c in run.candidates}
    ordered = sorted(run.verdicts, key=lambda v: ORDER[v.outcome])
    return [(v, *names.get(v.subject, (v.subject, ""))) for v in ordered]


def _file(name: str) -> str:
    return (content.root("reports") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy that allows this one style sheet, this one script, and nothing else."""
    styles, scripts = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (style, script))
    allowed = f"style-src 'sha256-{styles}'; script-src 'sha256-{scripts}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
