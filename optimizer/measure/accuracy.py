"""Task accuracy: one pass over the evaluation data, rows per example kept, so that drops can be paired."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.measure import shares, slices, statistics
from optimizer.protocols import Batch, Dataset, Feeds, Session
from optimizer.values import Better, Measurement, Relation

Metrics: TypeAlias = Mapping[str, tuple[Any, Any]]
"""Name -> (metric plugin, its options)."""
Baseline: TypeAlias = tuple[str, Mapping[str, np.ndarray]]
"""Name of the baseline, and its rows by metric."""
Limits: TypeAlias = Mapping[tuple[str, Relation], Sequence[float]]
"""(Metric, relation) -> the limits that gates put on it, in its own unit."""
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Collected:
    """What one pass keeps of each example: per metric its rows, and what the examples can be sliced by."""

    rows: dict[str, np.ndarray]  # metric -> (examples, k), in data order
    columns: dict[str, np.ndarray]  # column -> number, text or class per example


def evaluate(
    session: Session, dataset: Dataset, metrics: Metrics, batch: int, progress: Progress
) -> dict[str, np.ndarray]:
    """The rows of `collect` alone: per metric (examples, k), in data order."""
    return collect(session, dataset, metrics, batch, progress).rows


def collect(session: Session, dataset: Dataset, metrics: Metrics, batch: int, progress: Progress) -> Collected:
    """Run the model over all examples, `batch` at a time, and keep per metric the rows of each example.

    Raises OptimizerError for NaN outputs (naming the first example), for labels that are missing or out of
    range, and for outputs that a metric cannot read.
    """
    total, done, several = len(dataset), 0, False
    if total < 2:
        raise OptimizerError(
            f"data '{dataset.name}' has {total} example(s)", "evaluate on 2 or more; an interval needs them"
        )
    found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    columns: dict[str, list[np.ndarray]] = {}
    for data in dataset.batches(batch):
        outputs = run(session, data.feeds)
        _refuse_nan(outputs, data, dataset.name)
        several |= len(outputs) > 1
        for name, part in rows(outputs, data, metrics, dataset.name).items():
            found[name].append(part)
        own = slices.classes(data, metrics)
        for column, values in {**data.columns, **({} if own is None else {slices.CLASS: own})}.items():
            columns.setdefault(column, []).append(values)
        done += len(data.indices)
        progress(done, total)
    fills = {name: getattr(metric, "FILL", None) for name, (metric, _) in metrics.items()}
    joined = {name: _joined(name, parts, fills[name], several) for name, parts in found.items()}
    return Collected(joined, {name: _column(parts) for name, parts in columns.items()})


def rows(outputs: Mapping[str, np.ndarray], data: Batch, metrics: Metrics, where: str) -> dict[str, np.ndarray]:
    """Metric -> rows (examples, k) of one batch of the data set `where`.

    Raises OptimizerError with the metric's name for outputs or labels that it cannot read.
    """
    found: dict[str, np.ndarray] = {}
    for name, (metric, options) in metrics.items():
        try:
            found[name] = metric.examples(outputs, data, options)
        except OptimizerError as error:
            raise OptimizerError(f"metric '{name}' on data '{where}': {error.message}", error.hint) from None
    return found


def broken(outputs: Mapping[str, np.ndarray]) -> list[str]:
    """The outputs that hold NaN."""
    return [name for name, array in outputs.items() if array.dtype.kind == "f" and np.isnan(array).any()]


def run(session: Session, feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs for any number of samples, also from a model whose batch size is fixed."""
    first = session.signature.inputs[0].shape[0] if session.signature.inputs[0].shape else 1
    samples = len(next(iter(feeds.values())))
    if isinstance(first, str) or first == samples:
        return session(feeds)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, samples, first):
        # The last chunk is filled up by repeating its last sample; what comes of that is cut off below.
        rows = np.minimum(np.arange(start, start + first), samples - 1)
        parts.append(session({name: array[rows] for name, array in feeds.items()}))
    return {name: np.concatenate([p[name] for p in parts])[:samples] for name in parts[0]}


def measurements(
    subject: str,
    rows: Mapping[str, np.ndarray],
    metrics: Metrics,
    baseline: Baseline | None,
    machine_digest: str,
    seed: int,
    protocol: dict[str, Any],
    limits: Limits | None = None,
) -> list[Measurement]:
    """Every metric with its 95 % interval, and against a baseline (name, rows) its paired drop.

    A drop is how much worse the subject is than the baseline, whichever direction is better. Metrics that
    compare with the baseline's outputs (agreement, cosine) exist only where there is a baseline. For each of
    `limits`, the protocol gives the one-sided p-value that the truth lies on the wrong side of it.
    """
    found: list[Measurement] = []
    for name, (metric, options) in metrics.items():
        taker = _Taker(subject, name, metric, options, machine_digest, seed, protocol, limits or {})
        if metric.AGAINST == "baseline":
            if baseline is not None:
                found.append(taker.absolute(metric.compare(rows[name], baseline[1][name]), baseline[0]))
            continue
        found.append(taker.absolute(rows[name], None))
        if baseline is not None:
            found.append(taker.drop(rows[name], baseline[1][name], baseline[0]))
    return found


def sliced(
    subject: str,
    rows: Mapping[str, np.ndarray],
    parts: Sequence[slices.Part],
    metrics: Metrics,
    baseline: Baseline | None,
    machine_digest: str,
    seed: int,
    protocol: dict[str, Any],
    comparisons: int,
) -> list[Measurement]:
    """The same of each part of the data; parts below FEWEST examples are only counted.

    `comparisons`: how many drops of one metric are looked at together; each drop's protocol gives the interval
    that holds for all of them at once (Bonferroni).
    """
    found: list[Measurement] = []
    for part in parts:
        if len(part.indices) < slices.FEWEST:
            found.append(_counted(subject, part, machine_digest, protocol))
            continue
        own = {name: values[part.indices] for name, values in rows.items()}
        against = baseline and (baseline[0], {name: values[part.indices] for name, values in baseline[1].items()})
        together = {"comparisons": comparisons}
        taken = measurements(subject, own, metrics, against, machine_digest, seed, {**protocol, **together})
        found += [dataclasses.replace(m, at=part.at) for m in taken]
    return found


def spread(rows: Mapping[str, np.ndarray], metrics: Metrics, seed: int) -> dict[str, dict[str, float]]:
    """Value and standard error of every metric that needs no baseline: what a later plan foretells precision from."""
    found: dict[str, dict[str, float]] = {}
    for name, (metric, _) in metrics.items():
        if metric.AGAINST == "labels":
            error = statistics.standard_error(rows[name], metric.summarize, seed, getattr(metric, "weighted", None))
            found[name] = {"value": float(metric.summarize(rows[name])), "error": error}
    return found


def _counted(subject: str, part: slices.Part, machine: str, protocol: dict[str, Any]) -> Measurement:
    how = {**protocol, "interval": f"exact count; fewer than {slices.FEWEST} examples are not judged"}
    count = len(part.indices)
    return Measurement(
        subject, "examples", "absolute", count, None, None, count, "", "higher", None, part.at, how, machine
    )


class _Taker:
    """Turns the rows of one metric of one subject into measurements."""

    def __init__(
        self,
        subject: str,
        name: str,
        metric: Any,
        options: Any,
        machine: str,
        seed: int,
        protocol: dict[str, Any],
        limits: Limits,
    ) -> None:
        self.subject, self.name, self.metric, self.limits = subject, name, metric, limits
        self.machine, self.seed, self.protocol = machine, seed, protocol
        self.unit: str = getattr(options, "unit", metric.UNIT)
        self.better: Better = getattr(options, "better", metric.BETTER)
        self.weighted: statistics.Weighted | None = getattr(metric, "weighted", None)

    def absolute(self, rows: np.ndarray, against: str | None) -> Measurement:
        value, lower = self.metric.summarize(rows), self.better == "lower"
        hits = self._hits(rows)
        if hits is not None:
            count = int(hits.sum())
            low, high = (100 * end for end in shares.wilson(count, len(hits)))
            how: dict[str, Any] = {"interval": "Wilson score, 95 %"}
            tested = self._tested("absolute", lambda limit: shares.share_p(count, len(hits), limit / 100, lower))
        else:
            drawn = statistics.bootstrap(rows, self.metric.summarize, self.seed, weighted=self.weighted)
            # Classes that n examples all got right do not prove perfection: they can miss a share `unseen` of bad
            # ones. Numbers (a cosine, a correlation) show by their own spread how far the next one may lie.
            slack = shares.unseen(len(rows)) * self._reach(value) if self.unit == "%" else 0.0
            floored = dataclasses.replace(drawn, floor=slack)
            low, high = drawn.ends()
            low, high = (low, floored.ends()[1]) if lower else (floored.ends()[0], high)
            how = self._bootstrapped(drawn)
            wrong = floored.p_at_least if lower else lambda limit: floored.mirrored().p_at_least(-limit)
            tested = self._tested("absolute", wrong)
        return self._measurement(
            "absolute", value, low, high, len(rows), self.unit, self.better, against, {**how, **tested}
        )

    def drop(self, rows: np.ndarray, baseline: np.ndarray, against: str) -> Measurement:
        sign = 1 if self.better == "higher" else -1
        value = sign * (self.metric.summarize(baseline) - self.metric.summarize(rows))
        before, after = self._hits(baseline), self._hits(rows)
        if before is not None and after is not None:
            n, changed = len(rows), (int((before & ~after).sum()), int((after & ~before).sum()))
            lost, gained = changed if sign > 0 else changed[::-1]
            how: dict[str, Any] = {
                "interval": "Tango score for paired shares, 95 %",
                "lost": lost,
                "gained": gained,
                "mcnemar_p": shares.mcnemar(lost, gained),
                **self._tested("drop", lambda limit: shares.noninferiority(lost, gained, n, limit / 100)),
            }

            def ends(level: float) -> tuple[float, float]:
                low, high = shares.tango(lost, gained, n, level)
                return 100 * low, 100 * high
        else:
            reach = self._reach(self.metric.summarize(baseline))
            summarize, weighted = self.metric.summarize, self.weighted
            drawn = statistics.paired(baseline, rows, summarize, self.seed, weighted=weighted, reach=reach)
            drawn = drawn if sign > 0 else drawn.mirrored()
            ends = drawn.ends
            how = {**self._bootstrapped(drawn, "paired "), **self._tested("drop", drawn.p_at_least)}
        low, high = ends(shares.LEVEL)
        if "comparisons" in self.protocol:
            how["simultaneous"] = ends(1 - (1 - shares.LEVEL) / self.protocol["comparisons"])
        unit = "pp" if self.unit == "%" else self.unit
        return self._measurement("drop", value, low, high, len(rows), unit, "lower", against, how)

    def _tested(self, relation: Relation, wrong: Callable[[float], float]) -> dict[str, Any]:
        """P-values that the truth lies on the wrong side of each limit of the gates, by limit."""
        limits = self.limits.get((self.name, relation), ())
        return {"limit_p": {f"{limit:g}": wrong(limit) for limit in limits}} if limits else {}

    def _reach(self, value: float) -> float:
        """How far a value is from the worst: from 0, or where less is better from all (100 %) being wrong."""
        wrong = 100 - value if self.unit == "%" and self.better == "lower" else 0.0
        return max(abs(value), wrong)

    def _hits(self, rows: np.ndarray) -> np.ndarray | None:
        """Right or wrong per example, when the metric is the percentage of right ones; else None."""
        if self.unit != "%" or rows.shape[1] != 1:
            return None
        top = 100.0 if rows.max() > 1 else 1.0
        hits: np.ndarray = rows[:, 0] == top
        whole = (hits | (rows[:, 0] == 0)).all()
        return hits if whole and np.isclose(self.metric.summarize(rows), 100 * hits.mean()) else None

    def _bootstrapped(self, drawn: statistics.Bootstrap, kind: str = "") -> dict[str, Any]:
        how = f"{kind}{drawn.method}, 95 %"
        return {"interval": how, "resamples": len(drawn.replicates), "seed": self.seed}

    def _measurement(
        self,
        relation: Any,
        value: float,
        low: float,
        high: float,
        n: int,
        unit: str,
        better: Better,
        against: str | None,
        how: dict[str, Any],
    ) -> Measurement:
        return Measurement(
            subject=self.subject,
            metric=self.name,
            relation=relation,
            value=float(value),
            low=float(low),
            high=float(high),
            n=n,
            unit=unit,
            better=better,
            against=against,
            protocol={**self.protocol, **how},
            machine=self.machine,
        )


def _refuse_nan(outputs: Mapping[str, np.ndarray], data: Batch, dataset: str) -> None:
    for name in broken(outputs):
        array = outputs[name]
        rows = np.isnan(array).reshape(len(array), -1).any(axis=1) if array.ndim else np.array([True])
        first = int(data.indices[min(int(rows.argmax()) // data.views, len(data.indices) - 1)])
        raise OptimizerError(
            f"the output '{name}' is NaN, first for example {first} of data '{dataset}'",
            "this artifact is broken for real data (half-precision overflow?): leave out the step that made it",
        )


def _joined(name: str, parts: list[np.ndarray], fill: float | None, several: bool) -> np.ndarray:
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1 and fill is None:
        raise OptimizerError(
            f"metric '{name}': the output has {widths[0]} to {widths[-1]} numbers per example, depending on the batch",
            "choose an output of fixed size (for text: a pooled one) with the metric's option 'output'"
            if several
            else "let the model return an output of fixed size (for text: a pooled one)",
        )
    if len(widths) > 1:
        wide = widths[-1]
        parts = [np.pad(p, ((0, 0), (0, wide - p.shape[1])), constant_values=fill or 0.0) for p in parts]
    return np.concatenate(parts)


def _column(parts: list[np.ndarray]) -> np.ndarray:
    """One column of all batches; numbers become text where another batch holds text."""
    if len({part.dtype.kind for part in parts}) > 1:
        parts = [np.array([f"{v:g}" for v in p]) if p.dtype.kind == "f" else p for p in parts]
    return np.concatenate(parts)
