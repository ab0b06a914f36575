"""A run as JUnit XML: a suite per candidate, a test case per gate.

A failed gate is a `<failure type="fail">`. An inconclusive one is a `<failure type="inconclusive">`: the schema has
no state for it, and as `<skipped>` it would show green although nothing was proven. A candidate that could not be
built, or that no gate judged, is one skipped test case with the reason. Judging takes no time of its own, so
times are 0. The elements and attributes keep to what both the Ant (Windyroad) and the Jenkins schema allow.
"""

from __future__ import annotations

import datetime
from xml.etree import ElementTree as ET  # writes only

from optimizer.report.diagnosis import noise_line
from optimizer.report.explained import advice
from optimizer.report.index import index
from optimizer.report.text import clean
from optimizer.report.worst import worst_slice
from optimizer.values import Candidate, Run, Verdict

NOT_GATED = "no gate judges this candidate"


def junit(run: Run) -> str:
    """The XML document of a run."""
    root = ET.Element("testsuites")
    known = {c.name: c for c in run.candidates}
    others = dict.fromkeys(v.subject for v in run.verdicts if v.subject not in known)
    candidates = [*known.values(), *(Candidate(*name.partition("@")[::2], (), {}) for name in others)]
    for place, candidate in enumerate(candidates):
        own = [v for v in run.verdicts if v.subject == candidate.name]
        root.append(_suite(run, candidate, own, place))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(run: Run, candidate: Candidate, verdicts: list[Verdict], place: int) -> ET.Element:
    failures = sum(v.outcome != "pass" for v in verdicts)
    suite = ET.Element(
        "testsuite",
        {
            "name": clean(candidate.name),
            "package": clean(run.name),
            "id": str(place),
            "timestamp": _timestamp(run.created),
            "hostname": "localhost",
            "tests": str(len(verdicts) or 1),
            "failures": str(failures),
            "errors": "0",
            "skipped": "0" if verdicts else "1",
            "time": "0",
        },
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"variant": candidate.variant, "target": candidate.target, "precision": candidate.precision}
    facts |= {"artifact": candidate.artifact, "machine": run.machine.cpu}
    facts |= {"noise floor": noise_line(index(run)), "worst slice": worst_slice(run)}
    facts["advice"] = advice(run).get(candidate.name)
    for name, value in facts.items():
        if value:
            ET.SubElement(properties, "property", {"name": name, "value": clean(value)})
    for verdict in verdicts:
        _case(suite, candidate, verdict)
    if not verdicts:
        case = ET.SubElement(suite, "testcase", _named(candidate, "gates"))
        ET.SubElement(case, "skipped", {"message": clean(candidate.skipped or candidate.pending or NOT_GATED)})
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    return suite


def _case(suite: ET.Element, candidate: Candidate, verdict: Verdict) -> None:
    case = ET.SubElement(suite, "testcase", _named(candidate, verdict.gate))
    if verdict.outcome != "pass":
        failure = ET.SubElement(case, "failure", {"type": verdict.outcome, "message": clean(verdict.reason)})
        failure.text = clean(f"{verdict.subject}: {verdict.gate}: {verdict.outcome}: {verdict.reason}")


def _named(candidate: Candidate, name: str) -> dict[str, str]:
    return {"name": clean(name), "classname": clean(candidate.name), "time": "0"}


def _timestamp(created: str) -> str:
    """ISO 8601 without a zone, as the schema wants it; the run's time is UTC."""
    try:
        return datetime.datetime.fromisoformat(created).replace(tzinfo=None).isoformat(timespec="seconds")
    except ValueError:
        return "1970-01-01T00:00:00"
