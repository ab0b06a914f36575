"""Writes the views of a comparison: Markdown for a pull request, JUnit, JSON; each complete or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET  # writes only

from optimizer.comparison import views
from optimizer.comparison.changes import place
from optimizer.comparison.values import Change, Comparison
from optimizer.disk import disk_errors, write_atomically
from optimizer.report import templates
from optimizer.report.text import clean

ICONS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "reported": "➖"}


def write(found: Comparison, out: Path) -> dict[str, Path]:
    """Write compare.md, compare.xml and compare.json into `out`; returns them by kind."""
    made = {
        "markdown": ("compare.md", markdown(found)),
        "junit": ("compare.xml", junit(found)),
        "json": ("compare.json", json.dumps(views.document(found), indent=1) + "\n"),
    }
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in made.values():
            write_atomically(out / name, text.encode())
    return {kind: out / name for kind, (name, _) in made.items()}


def markdown(found: Comparison) -> str:
    """The verdict first, then a table of what changed, the rest folded away."""
    moved = [c for c in found.changes if views.moved(c)]
    order = {"fail": 0, "inconclusive": 1, "pass": 2, "reported": 3}
    return (
        templates.markdown()
        .get_template("compare.md.j2")
        .render(
            found=found,
            icons=ICONS,
            moved=[(c, views.row(c)) for c in sorted(moved, key=lambda c: order[c.outcome])],
            rest=[(c, views.row(c)) for c in found.changes if not views.moved(c)],
            explained=views.explained(found),
            methods=list(dict.fromkeys(c.method for c in found.changes if c.method)),
        )
    )


def junit(found: Comparison) -> str:
    """A suite per candidate, a case per metric; what cannot be decided is a failure, as in report/junit.py."""
    root = ET.Element("testsuites")
    for number, pair in enumerate(found.pairing.pairs):
        root.append(_suite(found, pair.name, [c for c in found.changes if c.subject == pair.name], number))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(found: Comparison, name: str, own: list[Change], number: int) -> ET.Element:
    count = {outcome: sum(c.outcome == outcome for c in own) for outcome in ICONS}
    suite = ET.Element(
        "testsuite",
        {
            "name": clean(name),
            "package": clean(f"{found.before.name} -> {found.after.name}"),
            "id": str(number),
            "hostname": "localhost",
            "timestamp": clean(found.after.created)[:19],
            "tests": str(len(own)),
            "failures": str(count["fail"] + count["inconclusive"]),
            "errors": "0",
            "skipped": str(count["reported"]),
            "time": "0",
        },
    )
    properties = ET.SubElement(suite, "properties")
    for side, value in (("before", found.before), ("after", found.after)):
        text = f"{value.label}, {value.created}, optc {value.version}"
        ET.SubElement(properties, "property", {"name": side, "value": clean(text)})
    for change in own:
        _case(suite, change)
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    return suite


def _case(suite: ET.Element, change: Change) -> None:
    named = {"name": clean(f"{change.metric}{place(change)}"), "classname": clean(change.subject), "time": "0"}
    case = ET.SubElement(suite, "testcase", named)
    if change.outcome in ("fail", "inconclusive"):
        failure = ET.SubElement(case, "failure", {"type": change.outcome, "message": clean(change.reason)})
        failure.text = clean(f"{change.subject}: {change.reason} {change.method}")
    elif change.outcome == "reported":
        ET.SubElement(case, "skipped", {"message": clean(change.reason)})
