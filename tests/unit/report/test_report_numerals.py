"""How numbers are written."""

from __future__ import annotations

import pytest

from optimizer.report import numerals
from optimizer.report.templates import escape_markdown
from optimizer.report.text import clean
from optimizer.values import Measurement


def number(value: float, unit: str, low: float | None = None, high: float | None = None) -> Measurement:
    return Measurement("a@b", "m", "absolute", value, low, high, 10, unit, "higher")


@pytest.mark.parametrize(
    ("m", "text"),
    [
        (number(88.3214, "%", 87.68, 88.94), "88.32 % [87.7, 88.9]"),
        (number(98.66, "%", 98.36, 98.86), "98.66 % [98.36, 98.86]"),
        (number(-0.0849, "pp", -0.27, 0.11), "-0.08 pp [-0.27, 0.11]"),
        (number(-0.001, "pp", -0.2, 0.2), "0.00 pp [-0.20, 0.20]"),
        (number(0.8912, "ms", 0.88, 0.9), "0.891 ms [0.880, 0.900]"),
        (number(157.4, "ms"), "157 ms"),
        (number(0.00012, "ms"), "0.0001 ms"),
        (number(0.0, "ms"), "0 ms"),
        (number(12345.6, "1/s", 12000.0, 12600.0), "12,346/s [12,000, 12,600]"),
        (number(1.789, "x", 1.7, 1.9), "1.79x [1.70, 1.90]"),
        (number(312_400, "B"), "312 kB"),
        (number(0.73214, "", 0.7, 0.75), "0.7321 [0.7000, 0.7500]"),
    ],
)
def test_full(m, text):
    assert numerals.full(m) == text


def test_absent():
    assert numerals.full(None) == numerals.bare(None) == "not measured"


@pytest.mark.parametrize(
    ("text", "set_"),
    [
        ("-0.08 pp [-0.27, 0.11]", "−0.08 pp [−0.27, 0.11]"),
        ("1.79x", "1.79×"),
        ("small-distilled-int8", "small-distilled-int8"),
        ("resnet-20", "resnet-20"),
        ("0x1F", "0x1F"),
    ],
)
def test_typeset(text, set_):
    assert numerals.typeset(text) == set_


@pytest.mark.parametrize(
    ("value", "unit", "label"),
    [
        (0.5, "pp", "0.5"),
        (-0.0, "", "0"),
        (1500.0, "ms", "1,500"),
        (500_000, "B", "500 kB"),
        (88.0, "%", "88"),
        (0.0005, "", "0.0005"),
        (5e-06, "", "5e-06"),
        (-0.00025, "", "-0.00025"),
    ],
)
def test_tick(value, unit, label):
    assert numerals.tick(value, unit) == label


def test_count():
    assert numerals.count(1, "gate") == "1 gate"
    assert numerals.count(1024, "gate") == "1,024 gates"
    assert numerals.count(2, "candidate was", "candidates were") == "2 candidates were"


def test_clean_replaces_what_documents_and_terminals_cannot_take():
    assert clean("a\x00b\x1b[31mc\td\né😀") == "a\ufffdb\ufffd[31mc\td\né😀"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b\nc", "a\\|b c"),
        ("<script>", "&lt;script>"),
        ("a &lt; b", "a &amp;lt; b"),
        ("*x* `y` ~z~", "\\*x\\* \\`y\\` \\~z\\~"),
        ("avx512_vnni _x_", "avx512_vnni \\_x\\_"),
        ("[x](y)", "[x]\\(y)"),
        ("back\\slash", "back\\\\slash"),
        (" (kept)", " (kept)"),
    ],
)
def test_markdown_escapes(text, escaped):
    assert escape_markdown(text) == escaped
