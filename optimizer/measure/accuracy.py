"""Task accuracy: one pass over the evaluation data, rows per example kept, so that drops can be paired."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.measure import statistics
from optimizer.protocols import Batch, Dataset, Feeds, Session
from optimizer.values import Better, Measurement

Metrics = Mapping[str, tuple[Any, Any]]
"""Name -> (metric plugin, its options)."""


def evaluate(
    session: Session, dataset: Dataset, metrics: Metrics, batch: int, progress: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """Run the model over all examples, `batch` at a time; per metric the rows (examples, k), in data order.

    Raises OptimizerError for NaN outputs (naming the first example), for labels that are missing or out of
    range, and for outputs that a metric cannot read.
    """
    total, done = len(dataset), 0
    if total < 2:
        raise OptimizerError(
            f"data '{dataset.name}' has {total} example(s)", "evaluate on 2 or more; an interval needs them"
        )
    found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for data in dataset.batches(batch):
        outputs = run(session, data.feeds)
        _refuse_nan(outputs, data, dataset.name)
        for name, (metric, options) in metrics.items():
            try:
                found[name].append(metric.examples(outputs, data, options))
            except OptimizerError as error:
                raise OptimizerError(f"metric '{name}' on data '{dataset.name}': {error.message}", error.hint) from None
        done += len(data.indices)
        progress(done, total)
    return {name: _joined(name, parts) for name, parts in found.items()}


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
    baseline: tuple[str, Mapping[str, np.ndarray]] | None,
    machine_digest: str,
    seed: int,
    protocol: dict[str, Any],
) -> list[Measurement]:
    """Every metric with its 95 % interval, and against a baseline (name, rows) its paired drop.

    A drop is how much worse the subject is than the baseline, whichever direction is better. Metrics that
    compare with the baseline's outputs (agreement, cosine) exist only where there is a baseline.
    """
    found: list[Measurement] = []
    for name, (metric, options) in metrics.items():
        taker = _Taker(subject, name, metric, options, machine_digest, seed, protocol)
        if metric.AGAINST == "baseline":
            if baseline is not None:
                found.append(taker.absolute(metric.compare(rows[name], baseline[1][name]), baseline[0]))
            continue
        found.append(taker.absolute(rows[name], None))
        if baseline is not None:
            found.append(taker.drop(rows[name], baseline[1][name], baseline[0]))
    return found


class _Taker:
    """Turns the rows of one metric of one subject into measurements."""

    def __init__(
        self, subject: str, name: str, metric: Any, options: Any, machine: str, seed: int, protocol: dict[str, Any]
    ) -> None:
        self.subject, self.name, self.metric = subject, name, metric
        self.machine, self.seed, self.protocol = machine, seed, protocol
        self.unit: str = getattr(options, "unit", metric.UNIT)
        self.better: Better = getattr(options, "better", metric.BETTER)
        self.weighted: statistics.Weighted | None = getattr(metric, "weighted", None)

    def absolute(self, rows: np.ndarray, against: str | None) -> Measurement:
        value = self.metric.summarize(rows)
        hits = self._hits(rows)
        if hits is not None:
            low, high = (100 * end for end in statistics.wilson(int(hits.sum()), len(hits)))
            how: dict[str, Any] = {"interval": "Wilson score, 95 %"}
        else:
            low, high = statistics.bootstrap(rows, self.metric.summarize, self.seed, weighted=self.weighted)
            # Classes that n examples all got right do not prove perfection: they can miss a share `unseen` of bad
            # ones. Numbers (a cosine, a correlation) show by their own spread how far the next one may lie.
            slack = statistics.unseen(len(rows)) * abs(value) if self.unit == "%" else 0.0
            low, high = (min(low, value - slack), high) if self.better == "higher" else (low, max(high, value + slack))
            how = self._bootstrapped("percentile bootstrap, 95 %")
        return self._measurement("absolute", value, low, high, len(rows), self.unit, self.better, against, how)

    def drop(self, rows: np.ndarray, baseline: np.ndarray, against: str) -> Measurement:
        sign = 1 if self.better == "higher" else -1
        value = sign * (self.metric.summarize(baseline) - self.metric.summarize(rows))
        before, after = self._hits(baseline), self._hits(rows)
        if before is not None and after is not None:
            lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
            ends = [100 * end for end in statistics.tango(lost, gained, len(rows))]
            how: dict[str, Any] = {
                "interval": "Tango score for paired shares, 95 %",
                "lost": lost,
                "gained": gained,
                "mcnemar_p": statistics.mcnemar(lost, gained),
            }
        else:
            ends = list(statistics.paired(baseline, rows, self.metric.summarize, self.seed, weighted=self.weighted))
            how = self._bootstrapped("paired percentile bootstrap, 95 %")
        low, high = sorted(sign * end for end in ends)
        unit = "pp" if self.unit == "%" else self.unit
        return self._measurement("drop", value, low, high, len(rows), unit, "lower", against, how)

    def _hits(self, rows: np.ndarray) -> np.ndarray | None:
        """Right or wrong per example, when the metric is the percentage of right ones; else None."""
        if self.unit != "%" or rows.shape[1] != 1:
            return None
        top = 100.0 if rows.max() > 1 else 1.0
        hits: np.ndarray = rows[:, 0] == top
        whole = (hits | (rows[:, 0] == 0)).all()
        return hits if whole and np.isclose(self.metric.summarize(rows), 100 * hits.mean()) else None

    def _bootstrapped(self, how: str) -> dict[str, Any]:
        return {"interval": how, "resamples": statistics.RESAMPLES, "seed": self.seed}

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
    for name, array in outputs.items():
        if array.dtype.kind != "f" or not np.isnan(array).any():
            continue
        rows = np.isnan(array).reshape(len(array), -1).any(axis=1) if array.ndim else np.array([True])
        first = int(data.indices[min(int(rows.argmax()) // data.views, len(data.indices) - 1)])
        raise OptimizerError(
            f"the output '{name}' is NaN, first for example {first} of data '{dataset}'",
            "this artifact is broken for real data (half-precision overflow?): leave out the step that made it",
        )


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise OptimizerError(
            f"metric '{name}': the output has {widths[0]} to {widths[-1]} numbers per example, depending on the batch",
            "choose an output of fixed size (for text: a pooled one) with the metric's option 'output'",
        )
    return np.concatenate(parts)
