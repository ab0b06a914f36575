"""How a number of a run is written: one spelling per unit, never more digits than the interval supports."""

from __future__ import annotations

import math
import re

from optimizer import console
from optimizer.values import Measurement

ABSENT = "not measured"
_SIGNED = re.compile(r"(?<![\w.-])-(?=\d)")
_TIMES = re.compile(r"(?<=\d)x\b")


def quantity(m: Measurement) -> str:
    """The value with its unit: `88.32 %`, `0.891 ms`, `1.79x`, `289 kB`."""
    return _unit(_digits(m.value, m), m.unit)


def interval(m: Measurement) -> str:
    """The 95 % interval as `[87.7, 88.9]`; empty for an exact value."""
    if m.low is None or m.high is None:
        return ""
    return f"[{_end(m.low, m)}, {_end(m.high, m)}]"


def full(m: Measurement | None) -> str:
    """The value with unit and interval, or `not measured`."""
    return ABSENT if m is None else f"{quantity(m)} {interval(m)}".rstrip()


def number(value: float, low: float | None, high: float | None, unit: str) -> Measurement:
    """A value that is no measurement of a run, as one, so that it is written like one."""
    return Measurement("", "", "absolute", value, low, high, 1, unit, "lower")


def bare(m: Measurement | None) -> str:
    """The value without its unit, for a column whose header names the unit."""
    return ABSENT if m is None else _digits(m.value, m)


def tick(value: float, unit: str) -> str:
    """A label on an axis: as short as the value allows."""
    if unit == "B":
        return console.size(round(value))
    if abs(round(value, 4) - value) > 1e-3 * abs(value):
        return f"{value:.3g}"  # four decimals would give several ticks the same label
    text = f"{value:,.4f}".rstrip("0").rstrip(".") or "0"
    return "0" if text == "-0" else text


def typeset(text: str) -> str:
    """`text` with a real minus and a real multiplication sign, for pages that surely have the glyphs."""
    return _TIMES.sub("×", _SIGNED.sub("−", text))


def _digits(value: float, m: Measurement) -> str:
    match m.unit:
        case "%" | "pp" | "x":
            return _fixed(value, 2)
        case "B":
            return console.size(round(value))
        case "":
            return _fixed(value, 4)
        case _:
            return _fixed(value, _decimals(m.value))


def _end(value: float, m: Measurement) -> str:
    wide = m.unit == "%" and m.high is not None and m.low is not None and m.high - m.low >= 1
    return _fixed(value, 1) if wide else _digits(value, m)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def _decimals(value: float) -> int:
    """Decimals that leave three significant digits, at most four."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(0, min(4, 2 - math.floor(math.log10(abs(value)))))


def _unit(digits: str, unit: str) -> str:
    if unit in ("", "B"):
        return digits
    tight = {"x": "x", "1/s": "/s"}
    return digits + tight.get(unit, f" {unit}")


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 gate`, `1,024 gates`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
