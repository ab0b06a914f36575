"""What recipes that prune and distil gain over FP32 on ONNX Runtime and what that costs, from their published runs.

    python bench/publish.py vision/prune-distill-int8 text/distill-depth-int8
    python bench/small.py [--dry-run]

Per model the target on which the small form is faster counts, and the cost is that of the same artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import figures
from figures import HEADLINE

from optimizer import schema
from optimizer.measure.quantiles import Estimate
from optimizer.values import Measurement, Run


@dataclass(frozen=True)
class Study:
    """A record, the variant that it is about, and the names of its figures."""

    record: str
    variant: str
    metric: str
    batch: int
    speedup: str
    drop: str
    unit: str


STUDIES = (
    Study("prune-distill-int8", "small", "top1", 1, "resnet56.small.speedup.b1", "resnet56.small.drop_pp", "pp"),
    Study("distill-depth-int8", "small-int8", "spearman", 1, "minilm3.speedup.1x128", "minilm3.drop", ""),
)


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=1)
    figures.publish([figure for study in STUDIES for figure in of(study)], given.dry_run)


def of(study: Study) -> list[dict[str, Any]]:
    """Speed-up and drop of the faster target; a record that is not published has none."""
    path = HEADLINE.parent / f"{study.record}.json"
    if not path.is_file():
        return []
    run = schema.load_run(path.read_bytes(), path.name)
    fastest = max(speedups(run, study), key=lambda m: m.value)
    drop = next(
        m for m in run.measurements if (m.subject, m.metric, m.relation) == (fastest.subject, study.metric, "drop")
    )
    return [
        figures.figure(study.speedup, estimate(fastest), fastest.n, "x"),
        figures.figure(study.drop, estimate(drop), drop.n, study.unit),
    ]


def speedups(run: Run, study: Study) -> list[Measurement]:
    """Of the median latency at the study's batch size, per target."""
    return [
        m
        for m in run.measurements
        if m.metric == "latency.p50"
        and m.relation == "speedup"
        and m.subject.partition("@")[0] == study.variant
        and m.at["batch"] == study.batch
    ]


def estimate(measured: Measurement) -> Estimate:
    """Value and interval."""
    assert measured.low is not None
    assert measured.high is not None
    return Estimate(measured.value, measured.low, measured.high)


if __name__ == "__main__":
    main()
