"""How training went: loss and scores over the steps, of every step of the run that trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optimizer import schema
from optimizer.report import numerals
from optimizer.report.axes import CROWDED, Scale, Tick, fitted, labelled, ticks
from optimizer.report.plots import BOX
from optimizer.training.values import History
from optimizer.values import Run, StepRecord

NOTE = "training"
"""The note of a step's record that holds its curves."""
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Mark:
    """A validated state: its place in percent, whether it is the one that was kept, and its figures in words."""

    x: float
    y: float
    kept: bool
    text: str


@dataclass(frozen=True)
class Line:
    """One curve, and where it began and ended."""

    name: str
    colour: int
    path: str
    marks: tuple[Mark, ...]
    first: str
    last: str
    best: str  # of the kept state; "" where states are not chosen by it


@dataclass(frozen=True)
class Plot:
    """Curves over the same steps, on one axis."""

    title: str
    caption: str
    described: str
    lines: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


@dataclass(frozen=True)
class Trained:
    """One step that trained."""

    anchor: str
    title: str  # the step and whose it is
    sentence: str
    learns: tuple[str, ...]  # what a distilled model learns from its teacher
    plots: tuple[Plot, ...]


def trained(run: Run) -> list[Trained]:
    """Every step whose record holds curves; a record from elsewhere may hold anything."""
    found = [(record, history) for record in run.steps if (history := history_of(record))]
    titles = _titles(run, [record for record, _ in found])
    return [_trained(record, history, title) for (record, history), title in zip(found, titles, strict=True)]


def _titles(run: Run, records: Sequence[StepRecord]) -> list[str]:
    """A title for each step: its variants; candidates where targets have steps of their own; numbers for repeats."""

    def title(record: StepRecord, users: Iterable[str]) -> str:
        return f"{record.use} for {', '.join(dict.fromkeys(users))}" if users else record.use

    short = [title(r, [c.variant for c in run.candidates if r.key in c.steps]) for r in records]
    long = [title(r, [c.name for c in run.candidates if r.key in c.steps]) for r in records]
    found = [s if short.count(s) == 1 or long.count(n) > 1 else n for s, n in zip(short, long, strict=True)]
    return [
        f"{text}, {found[:place].count(text) + 1} of {found.count(text)}" if found.count(text) > 1 else text
        for place, text in enumerate(found)
    ]


def history_of(record: StepRecord) -> History | None:
    """The curves in a step's record, where there are any that can be drawn."""
    try:
        found = schema.decode(History, record.notes.get(NOTE))
    except ValueError:
        return None
    even = len(found.steps) == len(found.loss) > 0 and all(
        len(v) == len(found.validated) for v in found.scores.values()
    )
    return found if even and found.total > 0 else None


def _trained(record: StepRecord, history: History, title: str) -> Trained:
    learns = record.notes.get("learns")
    told = learns if isinstance(learns, list) else [record.notes["loss"]] if "loss" in record.notes else []
    scores = [name for name in history.scores if name != "loss" and name not in history.parts]
    plots = [_plot(history, "Loss", ["loss"])] + [_plot(history, name, [name]) for name in scores]
    return Trained(
        f"step-{record.key[:16]}", title, sentence(history), tuple(map(str, told)), tuple(p for p in plots if p)
    )


def sentence(h: History) -> str:
    """What was done and which state was kept."""
    done = h.stopped or h.total
    epochs = done / max(1, h.per_epoch)
    found = f"{numerals.count(done, 'step')} ({epochs:.3g} epochs) on {h.device}; {h.examples:,} examples"
    found += f", {h.held_back:,} held back to choose the best state." if h.held_back else "."
    if h.stopped and h.stopped < h.total:
        found += f" Stopped early, of {h.total:,} steps that were planned."
    scores = h.scores.get(h.judged_by or "", [])
    if h.best is not None and h.best in h.validated and scores:
        best = scores[h.validated.index(h.best)]
        before = f"; before training {scores[0]:.4g}" if h.validated[0] == 0 and h.best else ""
        where = f"after step {h.best:,}" if h.best else "the one before training"
        found += f" Kept: {where}, {h.judged_by} {best:.4g}{before}."
    return found


def _plot(h: History, title: str, names: Sequence[str]) -> Plot | None:
    """Training and validation of the named quantities; None where none was recorded."""
    curves: list[tuple[str, Points, bool]] = []
    for name in names:
        own = h.loss if name == "loss" else h.parts.get(name, [])
        if len(own) == len(h.steps):
            curves.append((f"{name}, training", list(zip(h.steps, own, strict=True)), False))
        if name in h.scores:
            curves.append((f"{name}, validation", list(zip(h.validated, h.scores[name], strict=True)), True))
    curves = [(name, [(s, v) for s, v in points if math.isfinite(v)], marked) for name, points, marked in curves]
    curves = [curve for curve in curves if curve[1]]
    if not curves:
        return None
    x, y = Scale(0.0, float(h.total), False, 0.0), _scale([v for _, points, _ in curves for _, v in points])
    lines = tuple(_line(h, *curve, place, x, y) for place, curve in enumerate(curves))
    words = "; ".join(f"{line.name} from {line.first} to {line.last}" for line in lines)
    caption = "Over the steps. Points: validated states; the large one was kept."
    levels = tuple(Tick(round(100 - y.at(v), 2), t.label) for v, t in zip(ticks(y), labelled(y, ""), strict=True))
    steps = tuple(Tick(x.at(h.total * share), f"{round(h.total * share):,}") for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    caption += " Logarithmic scale." if y.log else ""
    return Plot(title[:1].upper() + title[1:], caption, f"{title}: {words}", lines, steps, levels)


def _scale(values: Sequence[float]) -> Scale:
    low = min(values)
    return fitted(values, [], log=low > 0 and max(values) / low > CROWDED)


def _line(h: History, name: str, points: Points, marked: bool, colour: int, x: Scale, y: Scale) -> Line:
    placed = [(x.at(step), round(100 - y.at(value), 2)) for step, value in points]
    marks = tuple(
        Mark(left, top, step == h.best, f"{name} after step {step:,}: {value:.4g}")
        for (left, top), (step, value) in zip(placed, points, strict=True)
        if marked
    )
    path = "M" + "L".join(f"{left * BOX:.0f} {top * BOX:.0f}" for left, top in placed)
    kept = next((f"{value:.4g}" for step, value in points if marked and step == h.best), "")
    return Line(name, colour, path, marks, f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}", kept)
