"""The HTML page: complete, self-contained, and safe whatever a name says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser

import evidence
import pytest
import sample

from optimizer import content, schema
from optimizer.report.page import date, html

VOID = {"meta", "link", "br", "hr", "img", "input"}
CORNERS = (
    sample.rich,
    sample.not_gated,
    sample.all_pass,
    sample.no_latency,
    sample.bare,
    sample.ruined,
    sample.hostile,
    evidence.everything,
    evidence.hostile,
)


class Page(HTMLParser):
    """Collects tags, text and attributes, and fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.mark.parametrize("make", CORNERS)
def test_page_is_well_formed_small_and_reaches_for_nothing(make):
    text = html(make())
    page = Page(text)
    assert len(text.encode()) < 400_000
    assert page.tags["script"] == 1
    assert page.tags["img"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.tags["h1"] == 1
    for _, name, value in page.attributes:
        assert name not in ("src", "style") and not name.startswith("on")
        if name == "href":
            assert value and value.startswith("#")
    assert "url(" not in text and "@import" not in text


@pytest.mark.parametrize("make", CORNERS)
def test_links_and_ids_match(make):
    page = Page(html(make()))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in page.attributes if name == "href" and value} <= set(ids)


def sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_exactly_the_style_sheet_and_the_script():
    text = html(sample.rich())
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    policy = next(v for t, n, v in Page(text).attributes if t == "meta" and n == "content" and v and "default-src" in v)
    assert style is not None and script is not None
    allowed = f"style-src 'sha256-{sha256(style[1])}'; script-src 'sha256-{sha256(script[1])}'"
    assert policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def test_verdict_comes_first_then_gates_results_and_the_rest():
    text = html(sample.rich())
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == [
        "gates", "results", "accuracy", "latency", "size", "pipeline", "data", "environment", "recipe", "method",
    ]  # fmt: skip
    assert text.index("<h1>") < text.index('id="gates"')
    page = Page(text)
    assert "2 of 12 gate checks failed, 2 cannot be decided. 2 candidates were skipped." in page.text


def test_page_tells_numbers_reasons_chains_and_checks():
    text = Page(html(sample.rich())).text
    assert "88.28 %" in text and "[87.6, 88.9]" in text
    assert "[−0.21, 0.29]" in text and "1.79×" in text and "[1.70, 1.90]" in text
    assert sample.REASON in text
    assert "largest error 8.90e-07 (limit 1.0e-04); SQNR 124.6 dB" in text
    assert "layer2.0.shortcut was rolled back" in text
    assert "gate: top1 drop <= 0.5pp" in text
    assert "reused" in text and "7.7 s" in text
    assert "2 of 512 examples are duplicates" in text
    assert "Logarithmic scale" in text
    assert "boundarysession call, host arrays in and out" in text


def test_absent_measurements_are_named_not_invented():
    text = Page(html(sample.no_latency())).text
    assert "Latency was not measured." in text and "not measured" in text
    assert " ms" not in text.partition("How it was measured")[0].partition("Results")[2].replace("p50 / p95 ms", "")
    empty = Page(html(sample.bare())).text
    for what in ("Accuracy", "Latency", "Size"):
        assert f"{what} was not measured." in empty
    assert "No gate was set" in empty and "The run records no recipe." in empty


def test_names_from_outside_stay_text():
    for make in (sample.hostile, evidence.hostile):
        text = html(make())
        assert text.count("<script") == 1 and "\x00" not in text and "<img" not in text
        assert "&lt;script&gt;" in text


def test_every_chart_is_a_table_with_its_numbers_in_words():
    text = html(sample.rich())
    for figure in re.findall(r'<figure class="chart">.*?</figure>', text, re.DOTALL):
        assert "<caption>" in figure
        rows = re.findall(r'<th scope="row".*?</tr>', figure, re.DOTALL)
        assert rows and all(re.search(r'<td class="value[^>]*>\s*[−\w]', row) for row in rows)
        assert all('aria-hidden="true"' in row for row in rows)


def test_a_page_of_two_thousand_kernels_stays_below_two_megabytes():
    assert len(html(evidence.everything(ops=2000)).encode()) < 2_000_000


def test_published_records_stay_below_two_megabytes():
    folder = content.root("reports") / "published"
    records = [p for p in folder.glob("*.json") if p.stem not in ("headline", "calibration")]
    assert records
    for path in records:
        assert len(html(schema.load_run(path.read_bytes(), path.name)).encode()) < 2_000_000


def test_evidence_is_told_in_words():
    text = Page(html(evidence.everything())).text
    assert "A/A" in text
    assert "op:Add" in text and "gives back 92 %" in text
    assert "tensor_12" in text and "3 QuantizeLinear were not fused" in text
    assert "threads = 2" in text and "streams = 2" in text
    for word in ("drift", "mode", "throttl", "other processes"):
        assert word in text.lower(), word
    assert "truck" in text


def test_measurements_of_another_machine_are_pointed_out():
    assert "taken on another machine" not in html(sample.rich())
    assert "taken on another machine" in html(sample.elsewhere())


def test_date():
    assert date("2026-03-04T05:06:07Z") == "4 March 2026, 05:06 UTC"
    assert date("2026-03-04T05:06:07+02:00") == "4 March 2026, 03:06 UTC"
    assert date("yesterday") == "yesterday"
