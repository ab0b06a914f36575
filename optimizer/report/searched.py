"""What a search tried: accuracy against the objective, the best over time, and every trial with its recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optimizer import console, gates
from optimizer.errors import OptimizerError
from optimizer.gates.grammar import KNOWN
from optimizer.report import numerals
from optimizer.report.axes import Scale, Tick, clipped, fitted, labelled, ticks
from optimizer.report.index import Index
from optimizer.report.plots import BOX
from optimizer.values import Measurement, Run, Trial

Key = tuple[str, str]  # metric and relation
WORDS = {
    ("latency.p50", "speedup"): "speed-up of the median",
    ("throughput", "ratio"): "throughput ratio",
    ("size", "ratio"): "size ratio",
    ("memory.peak", "ratio"): "ratio of peak memory",
}


@dataclass(frozen=True)
class Mark:
    """One trial: its place in percent, the ends of its intervals, and its figures in words."""

    x: float
    y: float
    ends: tuple[float, float, float, float]  # left, right, top, bottom
    colour: int
    state: str  # chosen, kept, broken
    text: str


@dataclass(frozen=True)
class Cloud:
    """Accuracy against the objective; up is more accurate."""

    caption: str
    described: str
    marks: tuple[Mark, ...]
    front: str  # path through what nothing beats in both respects
    limit: tuple[float, str] | None  # of the gate, from the top
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    across: str  # what the axes show
    down: str
    targets: tuple[str, ...]  # that marks are coloured by


@dataclass(frozen=True)
class Growth:
    """The best that meets the gates, over the time of the search."""

    described: str
    path: str
    marks: tuple[Mark, ...]  # where it improved
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


@dataclass(frozen=True)
class Row:
    """A trial in words."""

    name: str
    variant: str
    target: str
    outcome: str
    reason: str
    objective: str
    order: float | None
    accuracy: str
    noise: str
    at: str
    recipe: str
    front: bool


@dataclass(frozen=True)
class Searched:
    """Everything that the page shows of a search."""

    sentences: tuple[str, ...]
    accuracy: str
    objective: str
    cloud: Cloud | None
    growth: Growth | None
    rows: tuple[Row, ...]


def searched(found: Index) -> Searched | None:
    """The search of a run; None where it has none."""
    run = found.run
    if not run.trials:
        return None
    key, limit = _accuracy(run)
    measured = next((t.objective for t in run.trials if t.objective), None)
    objective = WORDS.get((measured.metric, measured.relation), measured.metric) if measured else "objective"
    colours = {target: place for place, target in enumerate(found.targets)}
    return Searched(
        tuple(sentences(run)), _words(key), objective,
        _cloud(run, key, limit, colours, objective), _growth(run, colours),
        tuple(_row(t, key) for t in run.trials),
    )  # fmt: skip


def sentences(run: Run) -> list[str]:
    """How much was tried, what was chosen, and why."""
    if not run.trials:
        return []
    counts = {o: sum(t.outcome == o for t in run.trials) for o in ("chosen", "kept", "rejected", "failed")}
    last = max(t.elapsed for t in run.trials)
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    found = [f"{numerals.count(len(run.trials), 'trial')} in {console.duration(last)}: {told}."]
    key, _ = _accuracy(run)
    for trial in run.trials:
        if trial.outcome == "chosen":
            numbers = [told_as(m) for m in (trial.objective, _of(trial, key)) if m]
            found.append(f"Chosen: {trial.name}, {', '.join(numbers)} on the select data; {trial.reason}.")
    if not counts["chosen"]:
        broken = [t for t in run.trials if t.standing == "broken" and t.objective]
        nearest = min(broken, key=lambda t: t.excess, default=None)
        found.append(
            f"Nothing met the gates; closest: {nearest.name}, {nearest.gap}." if nearest else "Nothing was judged."
        )
    return found


def told_as(m: Measurement) -> str:
    """`1.80x [1.7, 1.9] against fp32@onnxruntime`, `spearman drop 0.0012 [...]`."""
    if m.relation in ("speedup", "ratio"):
        what = "" if m.metric == "latency.p50" else f"{m.metric} "
        return f"{what}{numerals.full(m)} against {m.against}"
    return f"{m.metric}{' drop' if m.relation == 'drop' else ''} {numerals.full(m)}"


def _accuracy(run: Run) -> tuple[Key, float | None]:
    """The accuracy that the first gate about one is about, and its limit."""
    measured = {(m.metric, m.relation): m for t in run.trials for m in t.measurements if m.n > 1}
    for text in run.recipe.get("gates", ()):
        try:
            gate = gates.parse(str(text))
        except OptimizerError:  # a run record from elsewhere may say anything
            continue
        if (gate.metric, gate.relation) in measured and gate.metric not in KNOWN:
            return (gate.metric, gate.relation), gate.threshold
    drops = [key for key in measured if key[1] == "drop"]
    return (drops or [("accuracy", "drop")])[0], None


def _words(key: Key) -> str:
    """`top1 drop`; a metric without a relation by its name alone."""
    return key[0] if key[1] == "absolute" else " ".join(key)


def _of(trial: Trial, key: Key) -> Measurement | None:
    return next((m for m in trial.measurements if (m.metric, m.relation) == key), None)


def _ends(m: Measurement) -> tuple[float, float]:
    return (m.value if m.low is None else m.low), (m.value if m.high is None else m.high)


def _cloud(run: Run, key: Key, limit: float | None, colours: dict[str, int], objective: str) -> Cloud | None:
    placed = [(t, t.objective, lost) for t in run.trials if t.objective and (lost := _of(t, key))]
    placed = [row for row in placed if math.isfinite(row[1].value) and math.isfinite(row[2].value)]
    if not placed:
        return None
    anchors = [limit] if limit is not None else []
    x = fitted([v for _, o, _ in placed for v in (o.value, *_ends(o))], [1.0], log=False)
    y = fitted(
        clipped([m.value for *_, m in placed], anchors), [*anchors, 0.0] if key[1] == "drop" else anchors, log=False
    )
    down = placed[0][2].better == "higher"  # up is always more accurate
    marks = tuple(_mark(t, o, m, x, y, down, colours) for t, o, m in placed)
    edge = sorted((mark.x, mark.y) for (t, *_), mark in zip(placed, marks, strict=True) if t.front)
    unit = placed[0][2].unit
    bound = None if limit is None else (_down(y, limit, down), f"gate: {numerals.tick(limit, unit)} {unit}".rstrip())
    best = [t.name for t, *_ in placed if t.outcome == "chosen"]
    levels = tuple(Tick(_down(y, at, down), tick.label) for at, tick in _valued(y, unit))
    better = "right" if placed[0][1].better == "higher" else "left"
    against = f" against {placed[0][1].against}" if placed[0][1].against else ""
    return Cloud(
        f"Every trial that was judged: {objective}{against} (further {better} is better) and {_words(key)} on the "
        "select data (higher up is more accurate), with 95 % intervals. The line joins what nothing beats in both.",
        f"{len(marks)} trials; chosen: {', '.join(best) or 'none'}",
        marks, _path(edge), bound,
        _times(labelled(x, "x")), levels, objective, _words(key),
        tuple(target for target in colours if any(t.target == target for t, *_ in placed)),
    )  # fmt: skip


def _times(given: Iterable[Tick]) -> tuple[Tick, ...]:
    """The ticks of an axis of ratios, as every objective is."""
    return tuple(Tick(tick.x, f"{tick.label}x") for tick in given)


def _valued(scale: Scale, unit: str) -> list[tuple[float, Tick]]:
    return list(zip(ticks(scale), labelled(scale, unit), strict=True))


def _down(scale: Scale, value: float, flipped: bool) -> float:
    at = scale.at(value)
    return round(100 - at, 2) if flipped else at


def _mark(t: Trial, o: Measurement, m: Measurement, x: Scale, y: Scale, flipped: bool, colours: dict[str, int]) -> Mark:
    (left, right), (top, bottom) = _ends(o), _ends(m)
    state = "chosen" if t.outcome == "chosen" else "broken" if t.standing == "broken" else "kept"
    ends = (x.at(left), x.at(right), _down(y, top, flipped), _down(y, bottom, flipped))
    text = f"{t.name}: {told_as(o)}; {told_as(m)}; {t.outcome}: {t.reason}"
    return Mark(x.at(o.value), _down(y, m.value, flipped), ends, colours.get(t.target, 0), state, text)


def _growth(run: Run, colours: dict[str, int]) -> Growth | None:
    """Best so far: of what meets the gates, by the objective, in the order in which trials were finished."""
    able = [(t, t.objective) for t in run.trials if t.objective and t.standing not in (None, "broken")]
    best: list[tuple[Trial, Measurement]] = []
    for trial, own in sorted(able, key=lambda row: row[0].elapsed):
        last = best[-1][1] if best else None
        if last is None or (own.value > last.value if own.better == "higher" else own.value < last.value):
            best.append((trial, own))
    if not best:
        return None
    end = max(t.elapsed for t in run.trials)
    x, y = Scale(0.0, end or 1.0, False, 0.0), fitted([m.value for _, m in best], [1.0], log=False)
    corners: list[tuple[float, float]] = []
    marks = []
    for trial, own in best:
        place = (x.at(trial.elapsed), round(100 - y.at(own.value), 2))
        corners += [(place[0], corners[-1][1])] if corners else []
        corners.append(place)
        text = f"after {console.duration(trial.elapsed)}: {trial.name}, {told_as(own)}"
        marks.append(Mark(*place, (place[0], place[0], place[1], place[1]), colours.get(trial.target, 0), "kept", text))
    corners.append((x.at(end), corners[-1][1]))
    levels = _times(Tick(round(100 - y.at(v), 2), tick.label) for v, tick in _valued(y, "x"))
    described = "; ".join(mark.text for mark in marks)
    times = tuple(Tick(x.at(end * share), console.duration(end * share) if share else "0") for share in (0.0, 0.5, 1.0))
    return Growth(described, _path(corners), tuple(marks), times, levels)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x * BOX:.0f} {y * BOX:.0f}" for x, y in points) if points else ""


def _row(t: Trial, key: Key) -> Row:
    lost, own = _of(t, key), t.objective
    noise = "" if t.error is None else "identical" if t.error <= 0 else f"{-10 * math.log10(t.error):.1f} dB"
    at = console.duration(t.elapsed) if t.elapsed else numerals.ABSENT  # of one that was not finished
    return Row(
        t.name, t.name.rpartition("@")[0], t.target, t.outcome, t.reason,
        numerals.full(own) if own else numerals.ABSENT, own.value if own else None,
        numerals.full(lost) if lost else numerals.ABSENT, noise, at, recipe(t), t.front,
    )  # fmt: skip


def recipe(trial: Trial) -> str:
    """The variant as a recipe writes it."""
    import yaml

    value: Any = {trial.target: trial.variant}
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000).strip()
