"""Markdown, JUnit, the table and the files. UPDATE_GOLDEN=1 rewrites what tests/golden/report holds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import evidence
import pytest
import sample

from optimizer import console, report, schema
from optimizer.report.headline import facts
from optimizer.report.index import index
from optimizer.report.junit import junit
from optimizer.report.markdown import markdown
from optimizer.values import Verdict

RUNS = (sample.rich, sample.all_pass, sample.not_gated, sample.no_latency, sample.bare)
GOLDEN = Path(__file__).parents[2] / "golden" / "report"
ATTRIBUTES = {
    "testsuite": {
        "name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time",
    },
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "skipped": {"message"},
    "property": {"name", "value"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_step_summary(monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.mark.parametrize("make", [*RUNS, evidence.everything])
@pytest.mark.parametrize(("view", "ending"), [(markdown, "md"), (junit, "xml")])
def test_golden(make, view, ending):
    path = GOLDEN / f"{make.__name__}.{ending}"
    made = view(make())
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


def test_views_of_a_run_that_went_through_its_file_are_the_same():
    run = sample.rich()
    again = schema.load_run(schema.dump_run(run), "run.json")
    assert markdown(again) == markdown(run) and junit(again) == junit(run)


def test_markdown_tables_are_whole_whatever_names_say():
    for make in (sample.rich, sample.hostile, evidence.hostile):
        tables: list[list[str]] = [[]]
        for line in markdown(make()).splitlines():
            if line.startswith("|"):
                tables[-1].append(line)
            elif tables[-1]:
                tables.append([])
        assert len([t for t in tables if t]) == 3
        for rows in tables:
            assert len({row.replace("\\|", "").count("|") for row in rows}) <= 1
        text = markdown(make())
        assert "<script" not in text and "](javascript" not in text and "\x00" not in text


@pytest.mark.parametrize("make", [sample.rich, sample.not_gated, sample.bare, sample.hostile, evidence.hostile])
def test_junit_counts_and_keeps_to_the_schema(make):
    root = ET.fromstring(junit(make()))
    assert root.tag == "testsuites" and not root.attrib
    assert len(root) == len(make().candidates)
    for suite in root:
        assert set(suite.attrib) == ATTRIBUTES["testsuite"]
        assert [e.tag for e in suite][:1] == ["properties"]
        assert [e.tag for e in suite][-2:] == ["system-out", "system-err"]
        cases = suite.findall("testcase")
        assert int(suite.get("tests", "")) == len(cases) > 0
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))
        for element in suite.iter():
            if element is not suite and element.tag in ATTRIBUTES:
                assert set(element.attrib) == ATTRIBUTES[element.tag]


def test_junit_a_gate_is_a_case_and_inconclusive_is_not_green():
    root = ET.fromstring(junit(sample.rich()))
    by = {(c.get("classname"), c.get("name")): c for c in root.iter("testcase")}
    assert len([key for key in by if key[1] != "gates"]) == len(sample.VERDICTS)
    for verdict in sample.VERDICTS:
        failure = by[verdict.subject, verdict.gate].find("failure")
        assert (failure is None) == (verdict.outcome == "pass")
        if failure is not None:
            assert failure.get("type") == verdict.outcome and failure.get("message") == verdict.reason
    skipped = by["int8@pytorch", "gates"].find("skipped")
    assert skipped is not None and skipped.get("message") == sample.REASON


def test_junit_keeps_a_verdict_about_something_else():
    run = dataclasses.replace(sample.rich(), verdicts=(Verdict("size <= 1", "gone@x", "fail", "no such candidate"),))
    assert ET.fromstring(junit(run))[-1].get("name") == "gone@x"


def test_table_fits_the_console_and_names_reasons():
    rows, header, right = report.table(sample.rich())
    assert header[:3] == ["variant", "target", "top1"] and header[-2:] == ["precision", "verdict"]
    assert all(len(row) == len(header) for row in rows) and len(rows) == 9
    by = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}
    int8 = by["int8", "onnxruntime"]
    assert int8["top1"] == "88.28 % [87.6, 88.9]"
    assert int8["top1 drop"] == "0.04 pp [-0.21, 0.29]"
    assert int8["p50 / p95 ms, batch 1"] == "0.498 / 0.603"
    assert int8["speed-up, batch 1"] == "1.79x [1.70, 1.90]"
    assert int8["size"] == "312 kB (0.29x)"
    assert int8["precision"] == "int8 Q/DQ" and int8["verdict"] == "pass"
    assert by["fp32", "openvino"]["top1 drop"] == by["fp32", "openvino"]["verdict"] == "baseline"
    assert by["int8", "pytorch"]["verdict"] == "skipped"
    assert header[2] in console.table(rows, header, right) and 2 in right


def test_table_says_not_measured():
    for run in (sample.no_latency(), sample.bare()):
        rows, header, _ = report.table(run)
        assert dict(zip(header, rows[0], strict=True))["p50 / p95 ms"] == "not measured"


def test_table_cannot_steer_a_terminal():
    run = sample.hostile()
    evil = dataclasses.replace(run.candidates[0], variant="\x1b[2J\nfp32")
    rows, _, _ = report.table(dataclasses.replace(run, candidates=(evil,)))
    assert rows[0][0] == "\ufffd[2J fp32"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (sample.all_pass, "Passed: all 3 gate checks hold for 1 candidate."),
        (
            sample.no_latency,
            "Failed: 1 of 8 gate checks failed (small-distilled-int8@onnxruntime: top1 drop <= 0.5pp), "
            "1 cannot be decided (small-distilled-int8@openvino: top1 drop <= 0.5pp). 2 candidates were skipped.",
        ),
        (sample.not_gated, "Not gated: 7 candidates were measured, no gate was judged. 2 candidates were skipped."),
        (sample.bare, "Not gated: 1 candidate was built, nothing was timed or evaluated, no gate was judged."),
        (
            sample.inconclusive,
            "Inconclusive: 1 of 10 gate checks cannot be decided (small-distilled-int8@openvino: top1 drop <= 0.5pp). "
            "2 candidates were skipped.",
        ),
    ],
)
def test_verdict_sentence(make, sentence):
    assert report.verdict_sentence(make()) == sentence


def test_what_waits_is_not_counted_as_measured():
    run = sample.not_gated()
    first, *others = (c for c in run.candidates if c.skipped is None)
    skipped = tuple(c for c in run.candidates if c.skipped is not None)
    waiting = dataclasses.replace(run, candidates=(dataclasses.replace(first, pending="no GPU"), *others, *skipped))
    said = report.verdict_sentence(waiting)
    assert said.startswith("Not gated: 6 candidates were measured, no gate was judged.")
    assert said.endswith("1 candidate waits to be measured elsewhere.")


def test_render_writes_whole_files_and_appends_to_the_step_summary(tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    out = tmp_path / "deep" / "report"
    made = report.render(sample.rich(), out)
    assert {kind: path.name for kind, path in made.items()} == {
        "html": "report.html", "markdown": "report.md", "junit": "junit.xml",
    }  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == ["junit.xml", "report.html", "report.md"]
    assert made["markdown"].read_text() == markdown(sample.rich())
    assert summary.read_text() == "before\n" + markdown(sample.rich()) + "\n"
    report.render(sample.rich(), out)
    assert len(list(out.iterdir())) == 3


def test_a_step_summary_that_cannot_be_written_costs_a_warning_not_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "gone" / "summary.md"))
    report.render(sample.rich(), tmp_path)
    assert "warning: no summary in" in capsys.readouterr().err
    assert (tmp_path / "report.md").is_file()


def test_render_is_a_pure_function(tmp_path):
    first, second = (report.render(sample.rich(), tmp_path / name) for name in ("a", "b"))
    assert all(first[kind].read_bytes() == second[kind].read_bytes() for kind in first)


def test_what_passes_is_what_was_judged_and_is_faster_only_above_one() -> None:
    run = sample.rich()
    best = {fact.label: fact.candidate.name for fact in facts(index(run))}
    assert best == {"Largest speed-up that passes": "int8@onnxruntime", "Smallest that passes": "int8@onnxruntime"}
    unjudged = dataclasses.replace(run, verdicts=tuple(v for v in run.verdicts if v.subject != "int8@onnxruntime"))
    assert "int8@onnxruntime" not in {fact.candidate.name for fact in facts(index(unjudged))}
    waiting = dataclasses.replace(
        run, candidates=tuple(dataclasses.replace(c, pending="no GPU") for c in run.candidates)
    )
    assert facts(index(waiting)) == []
    slower = tuple(dataclasses.replace(m, value=0.9) if m.relation == "speedup" else m for m in run.measurements)
    assert [f.label for f in facts(index(dataclasses.replace(run, measurements=slower)))] == ["Smallest that passes"]


def test_where_all_waits_the_columns_are_those_that_the_recipe_asks_for() -> None:
    run = sample.rich()
    waiting = dataclasses.replace(
        run,
        candidates=tuple(c if c.skipped else dataclasses.replace(c, pending="no GPU") for c in run.candidates),
        measurements=tuple(m for m in run.measurements if m.metric == "size"),
        recipe={
            "measure": {"metrics": ["top1", {"map": {"iou": 0.5}}, "own.py:closeness", {"name": "f1", "options": {}}]}
        },
        verdicts=(Verdict("top1 drop <= 1pp", "int8@openvino", "inconclusive", "Pending"),),
    )
    rows, header, _ = report.table(waiting)
    assert header[2:8] == ["top1", "map", "closeness", "f1", "top1 drop", "p50 / p95 ms"]
    built, skipped = ([r for r in rows if (r[-1] == "skipped") is how] for how in (False, True))
    assert built and {cell for row in built for cell in row[2:8]} == {"pending"}
    assert skipped and {cell for row in skipped for cell in row[2:10]} == {"-"}
    assert {len(row) for row in rows} == {len(header)}
    for recipe in ({}, {"measure": None}, {"measure": {"metrics": None}}):
        assert report.table(dataclasses.replace(waiting, recipe=recipe))[1][2] == "p50 / p95 ms"
    ready = dataclasses.replace(waiting, candidates=run.candidates)
    assert report.table(ready)[1][2] == "p50 / p95 ms", "what was not asked to be measured is no column"
