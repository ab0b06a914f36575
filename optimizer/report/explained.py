"""Why a candidate is slow and why it is wrong: an Explanation as what the page draws and says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from optimizer import console
from optimizer.report import charts, numerals, plots
from optimizer.report.charts import Datum
from optimizer.report.figures import Pair
from optimizer.report.index import Index
from optimizer.report.kernels import Kernels, kernels
from optimizer.report.snippet import snippet
from optimizer.values import Candidate, Explanation, Measurement, Run, Sensitivity, TensorError

LAYERS = 12  # in a chart; the table holds all
ADVICE = 3  # sentences, where there is little room
TENSORS = 30  # in the table, the worst


@dataclass(frozen=True)
class Layer:
    """One layer in words."""

    layer: str
    op: str
    alone: str
    alone_order: float | None  # what the column is sorted by
    without: str
    without_order: float | None


@dataclass(frozen=True)
class TensorRow:
    """One tensor in words."""

    place: int
    name: str
    op: str
    sqnr: str
    order: float  # identical tensors last
    cosine: str
    saturated: str
    saturated_order: float
    span: str
    jump: bool
    matched: str


@dataclass(frozen=True)
class Explained:
    """All that a run says about why one candidate is as it is."""

    anchor: str
    candidate: Candidate
    colour: int
    caption: str
    advice: tuple[str, ...]
    snippet: str
    kernels: Kernels | None
    layers: tuple[Layer, ...]
    charts: Pair | None
    depth: plots.Depth | None
    tensors: tuple[TensorRow, ...]
    tensors_left_out: int


def explained(found: Index) -> list[Explained]:
    """The explanations of a run, in its order."""
    known = {c.name: c for c in found.run.candidates}
    own = [e for e in found.run.explanations if e.subject in known]
    return [_explained(found, known[e.subject], e, place, len(own)) for place, e in enumerate(own)]


def advice(run: Run) -> dict[str, str]:
    """Candidate -> what its explanation advises, in a few sentences and without the recipe's step."""
    found = {}
    for e in run.explanations:
        told = [_sentence(a) for a in e.advice if not _is_snippet(a)]
        kept = [f"Next: keep {', '.join(e.keep)} in float."] if e.keep else []
        if told or kept:
            found[e.subject] = " ".join([*told[:ADVICE], *kept])
    return found


def _explained(found: Index, c: Candidate, e: Explanation, place: int, of: int) -> Explained:
    against = f" against {e.against}" if e.against else ""
    took = f", found in {console.duration(e.seconds)}" if e.seconds else ""
    text = snippet(found.run, c, e.keep)
    tensors = _worst(e.tensors)
    return Explained(
        anchor=f"explained-{place}",
        candidate=c,
        colour=found.targets.index(c.target),
        caption=f"{c.name}{against}; data: {e.data}{took}.",
        advice=tuple(_sentence(a) for a in e.advice if not (text and _is_snippet(a))),
        snippet=text,
        kernels=kernels(e.profile, of) if e.profile else None,
        layers=tuple(_layer(s) for s in e.sensitivities),
        charts=_charts(found, c, e),
        depth=plots.depth(e.tensors, plots.POINTS // of),
        tensors=tuple(_tensor(t) for t in tensors[:TENSORS]),
        tensors_left_out=max(0, len(tensors) - TENSORS),
    )


def _is_snippet(advice: str) -> bool:
    """Whether an advice only repeats the recipe's step, which has a box of its own."""
    return advice.lower().startswith("next, in the recipe:")


def _sentence(text: str) -> str:
    """A sentence with its capital letter and full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _charts(found: Index, c: Candidate, e: Explanation) -> Pair | None:
    """What quantizing a layer alone costs, and what is lost when it alone is spared: the same rows side by side."""
    shown = e.sensitivities[:LAYERS]
    first = next((m for s in shown for m in (s.alone, s.without) if m), None)
    if first is None:
        return None
    alone = charts.intervals(
        f"{first.metric} drop with only this layer quantized",
        f"On {_counts(s.alone for s in shown)} examples. Long: the layer does not bear quantization.",
        first.unit,
        [_bar(found, c, s, s.alone) for s in shown],
        reference=(0.0, "no drop"),
        solid=True,
    )
    whole = found.get(c.name, first.metric, "drop")
    without = charts.intervals(
        f"{first.metric} drop with all but this layer quantized",
        f"On {_counts(s.without for s in shown)} examples. Short: sparing the layer cures the model.",
        first.unit,
        [_bar(found, c, s, s.without) for s in shown],
        reference=(0.0, "no drop"),
        extra=(whole.value, "everything quantized") if whole else None,
        solid=True,
    )
    if alone is None:
        return Pair("", without, None) if without else None
    return Pair("", alone, without)


def brief(selector: str) -> str:
    """A selector as a row's label: of an alternation of names the first and how many follow, else at most 48 signs."""
    found = re.fullmatch(r"/\^\(([^|()]+)((?:\|[^|()]+)+)\)\$/", selector)
    if found:
        return f"{found[1]} and {found[2].count('|')} more"
    return selector if len(selector) <= 48 else f"{selector[:30]}…{selector[-17:]}"


def _bar(found: Index, c: Candidate, s: Sensitivity, m: Measurement | None) -> Datum:
    colour = found.targets.index(c.target)
    if m is None:
        return Datum(brief(s.layer), c.target, colour, None, None, None, numerals.ABSENT)
    return Datum(brief(s.layer), c.target, colour, m.value, m.low, m.high, numerals.quantity(m), numerals.interval(m))


def _counts(own: Iterable[Measurement | None]) -> str:
    counts = sorted({m.n for m in own if m})
    if not counts:
        return "no"
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _layer(s: Sensitivity) -> Layer:
    return Layer(
        s.layer, s.op,
        numerals.full(s.alone), s.alone.value if s.alone else None,
        numerals.full(s.without), s.without.value if s.without else None,
    )  # fmt: skip


def _worst(tensors: Iterable[TensorError]) -> list[TensorError]:
    """Jumps first, then by noise."""
    return sorted(tensors, key=lambda t: (not t.jump, _order(t), t.place))


def _order(t: TensorError) -> float:
    return 1e9 if t.sqnr_db is None else t.sqnr_db


def _tensor(t: TensorError) -> TensorRow:
    return TensorRow(
        place=t.place, name=t.name, op=t.op, sqnr=plots.decibels(t.sqnr_db), order=_order(t), cosine=f"{t.cosine:.4f}",
        saturated="" if t.saturated is None else f"{100 * t.saturated:.2g} %",
        saturated_order=-1.0 if t.saturated is None else t.saturated,
        span=f"{t.low:.4g} to {t.high:.4g}", jump=t.jump,
        matched=t.against if t.matched == "name" else f"{t.against} (by position)",
    )  # fmt: skip
