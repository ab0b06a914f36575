"""The result table: one row per candidate, the same for the terminal, Markdown and the page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optimizer.report import numerals
from optimizer.report.headline import outcome_of
from optimizer.report.index import Index, Setting, index
from optimizer.report.limits import judged
from optimizer.report.text import flat
from optimizer.values import Candidate, Measurement, Run


@dataclass(frozen=True)
class Cell:
    """A number and, apart from it, its interval or what else belongs to it."""

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.note}".rstrip()


@dataclass(frozen=True)
class Column:
    """A column header; `right` for numbers."""

    title: str
    right: bool = True


@dataclass(frozen=True)
class ResultRow:
    """One candidate: a cell per column, and how its gates ended."""

    candidate: Candidate
    colour: int
    cells: tuple[Cell, ...]
    precision: str
    outcome: str  # pass, fail, inconclusive, baseline, not gated, skipped, pending


@dataclass(frozen=True)
class Results:
    """The table of a run."""

    columns: tuple[Column, ...]
    rows: tuple[ResultRow, ...]
    setting: Setting | None  # the one whose latency is in the table

    def by_variant(self) -> list[list[ResultRow]]:
        """The rows in order, those of one variant together."""
        return [list(rows) for _, rows in itertools.groupby(self.rows, key=lambda row: row.candidate.variant)]


def results(found: Index) -> Results:
    """The result table: accuracy, drop, latency at the first setting, speed-up, size."""
    setting = found.settings[0] if found.settings else None
    at = f", {setting.label}" if setting and setting.label else ""
    metrics = _metrics(found)
    dropped = _dropped(found, metrics)
    columns = [Column(name) for name in metrics]
    columns += [Column(f"{name} drop") for name in dropped]
    columns += [Column(f"p50 / p95 ms{at}"), Column(f"speed-up{at}"), Column("size")]
    rows = tuple(_row(found, c, setting, metrics, dropped) for c in found.run.candidates)
    return Results(tuple(columns), rows, setting)


def table(run: Run) -> tuple[list[list[str]], list[str], list[int]]:
    """Rows, header and right-aligned columns for `console.table`."""
    found = results(index(run))
    header = ["variant", "target", *(c.title for c in found.columns), "precision", "verdict"]
    rows = [
        [flat(t) for t in (r.candidate.variant, r.candidate.target, *map(str, r.cells), r.precision, verdict(r))]
        for r in found.rows
    ]
    right = [i + 2 for i, column in enumerate(found.columns) if column.right]
    return rows, header, right


def verdict(row: ResultRow) -> str:
    """The last cell of a row."""
    return row.outcome if row.candidate.skipped is None else "skipped"


def short_precision(text: str | None) -> str:
    """What ran, without the details in brackets and after commas, and on which of a machine's devices."""
    if not text:
        return numerals.ABSENT
    found = re.split(r"\s*[,;(]| on ", text, maxsplit=1)[0][:28]
    devices = re.findall(r" on (?:the )?(CUDA|TensorRT-RTX|TensorRT|CPU)", text)
    return f"{found}, {' + '.join(devices)}" if devices else found


def _metrics(found: Index) -> list[str]:
    """The accuracy metrics; where nothing is measured yet, those that the recipe asks for."""
    if found.metrics or not _waits(found):
        return list(found.metrics)
    measure = found.run.recipe.get("measure")
    asked = measure.get("metrics") if isinstance(measure, dict) else None
    return [_named(use).rpartition(":")[2] for use in asked or ()]  # file.py:function is called by its function


def _named(use: Any) -> str:
    """The name of a use: written alone, as the key of its options, or beside them."""
    if not isinstance(use, dict):
        return str(use)
    return str(use["name"] if set(use) == {"name", "options"} else next(iter(use), ""))


def _dropped(found: Index, metrics: Sequence[str]) -> list[str]:
    """Of these, the ones with a drop; where nothing is measured yet, the ones whose drop a gate asks about."""
    if found.metrics or not _waits(found):
        return [name for name in metrics if found.anyone(name, "drop")]
    gated = {gate.metric for gate in judged(found.run) if gate.relation == "drop"}
    return [name for name in metrics if name in gated]


def _waits(found: Index) -> bool:
    return any(c.pending is not None for c in found.run.candidates)


def _row(
    found: Index, c: Candidate, setting: Setting | None, metrics: Sequence[str], dropped: Sequence[str]
) -> ResultRow:
    colour = found.targets.index(c.target)
    if c.skipped is not None:
        blank = len(metrics) + len(dropped) + 3
        return ResultRow(c, colour, (Cell("-"),) * blank, "-", "skipped")
    baseline = found.is_baseline(c)
    relative = {m.metric for m in found.run.measurements if m.relation == "absolute" and m.against}
    if c.pending is not None:
        waiting = (Cell("pending"),) * (len(metrics) + len(dropped) + 2)
        judged = "fail" if outcome_of(found.run, c) == "fail" else "pending"
        return ResultRow(c, colour, (*waiting, _size(found, c)), short_precision(c.precision), judged)
    cells = [_compared(found.get(c.name, name), baseline and name in relative) for name in metrics]
    cells += [_compared(found.get(c.name, name, "drop"), baseline) for name in dropped]
    cells.append(_latency(found, c, setting))
    cells.append(_compared(found.get(c.name, "latency.p50", "speedup", setting), baseline))
    cells.append(_size(found, c))
    outcome = outcome_of(found.run, c) or ("baseline" if baseline else "not gated")
    return ResultRow(c, colour, tuple(cells), short_precision(c.precision), outcome)


def _measured(m: Measurement | None) -> Cell:
    return Cell(numerals.quantity(m), numerals.interval(m)) if m else Cell(numerals.ABSENT)


def _compared(m: Measurement | None, baseline: bool) -> Cell:
    return Cell("baseline") if m is None and baseline else _measured(m)


def _latency(found: Index, c: Candidate, setting: Setting | None) -> Cell:
    p50, p95 = (found.get(c.name, f"latency.{p}", "absolute", setting) for p in ("p50", "p95"))
    if p50 is None:
        return Cell(numerals.ABSENT)
    return Cell(f"{numerals.bare(p50)} / {numerals.bare(p95)}")


def _size(found: Index, c: Candidate) -> Cell:
    size, ratio = found.get(c.name, "size"), found.get(c.name, "size", "ratio")
    if size is None:
        return Cell(numerals.ABSENT)
    return Cell(numerals.quantity(size), f"({numerals.quantity(ratio)})" if ratio else "")
