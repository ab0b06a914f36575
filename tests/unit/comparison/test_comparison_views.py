"""The views of a comparison: terminal, Markdown, JUnit, JSON, the step summary."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from comparison_lab import compared, published, slower

from optimizer import report
from optimizer.comparison import views, write
from optimizer.comparison.values import Comparison


@pytest.fixture(scope="module")
def failed() -> Comparison:
    run = published()
    return compared(run, slower(run, 1.10, "int8@onnxruntime"))


def test_rows_hide_what_is_only_reported_and_did_not_move(failed: Comparison) -> None:
    shown = views.rows(failed)
    assert len(shown) + views.hidden(failed) == len(views.rows(failed, everything=True)) == len(failed.changes)
    (slowed,) = [row for row in shown if row[:2] == ["int8@onnxruntime", "latency.p50 at batch 1"]]
    before, after = (float(text.removesuffix(" ms")) for text in slowed[2:4])
    assert after / before == pytest.approx(1.10, abs=0.005)
    assert all(len(row) == len(views.HEADER) for row in shown)


def test_the_markdown_begins_with_the_verdict(failed: Comparison) -> None:
    text = write.markdown(failed)
    lines = [line for line in text.splitlines() if line]
    assert lines[0].startswith("### ❌ digits-int8")
    assert lines[1].startswith("**Failed: 1 of 27 ")
    assert text.index("| ❌ fail |") < text.index("<details>") < text.index("</details>")
    rows = [line for line in lines if line.startswith("| ")]
    assert {line.count(" |") for line in rows} == {7}
    assert len(rows) == 2 + len(failed.changes), "every change is somewhere, under one of two headers"


def test_markdown_from_outside_stays_text(failed: Comparison) -> None:
    evil = dataclasses.replace(failed.changes[0], subject="a|b`c`<img src=x>\n**x**", outcome="fail")
    text = write.markdown(dataclasses.replace(failed, changes=(evil,)))
    assert "<img" not in text
    row = next(line for line in text.splitlines() if "a\\|b" in line)
    assert row.startswith("| ❌ fail | a\\|b\\`c\\`&lt;img src=x> \\*\\*x\\*\\* |")


def test_junit_has_a_case_per_candidate_and_metric(failed: Comparison) -> None:
    root = ET.fromstring(write.junit(failed))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {pair.name for pair in failed.pairing.pairs}
    for name, suite in suites.items():
        own = [c for c in failed.changes if c.subject == name]
        cases = suite.findall("testcase")
        assert len(cases) == len(own) == int(suite.get("tests", ""))
        assert (
            len(suite.findall("testcase/failure"))
            == int(suite.get("failures", ""))
            == sum(c.outcome in ("fail", "inconclusive") for c in own)
        )
        assert len(suite.findall("testcase/skipped")) == int(suite.get("skipped", ""))
    failure = suites["int8@onnxruntime"].find("testcase/failure")
    assert failure is not None
    assert failure.get("type") == "fail"
    assert "1.100x of before" in str(failure.get("message"))


def test_json_holds_every_number(failed: Comparison) -> None:
    document = json.loads(json.dumps(views.document(failed)))
    assert document["outcome"] == "fail"
    assert document["pairs"][0] == {"before": "fp32@pytorch", "after": "fp32@pytorch"}
    change = next(c for c in document["changes"] if (c["subject"], c["metric"]) == ("int8@onnxruntime", "latency.p50"))
    assert change["value"] == pytest.approx(1.10)
    assert 1.05 < change["low"] < 1.10 < change["high"]
    assert change["tolerance"] == 0.05
    assert document["before"]["machine"] == published().machine.digest


def test_files_are_written_and_the_summary_appended(
    failed: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("what others wrote\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    paths = write.write(failed, tmp_path / "out")
    report.append_summary(write.markdown(failed))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"compare.md", "compare.xml", "compare.json"}
    assert summary.read_text() == "what others wrote\n" + paths["markdown"].read_text() + "\n"
