"""The share of lost Spearman that comes back when the ruined MiniLM keeps in float what `optc explain` advises.

    python bench/publish.py text/minilm-int8-everything text/minilm-int8-explained
    python bench/explain.py [--dry-run]

Both recipes are built and evaluated on all SICK test pairs; the figure is 1 - drop with the advice / drop without it.
"""

from __future__ import annotations

import figures
from figures import HEADLINE

from optimizer import schema
from optimizer.measure.quantiles import Estimate
from optimizer.values import Measurement

SUBJECT = "int8-static@onnxruntime"


def drop(name: str) -> Measurement:
    """The published drop of a recipe."""
    path = HEADLINE.parent / f"{name}.json"
    run = schema.load_run(path.read_bytes(), path.name)
    return next(m for m in run.measurements if (m.subject, m.metric, m.relation) == (SUBJECT, "spearman", "drop"))


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=1)
    ruined, advised = drop("minilm-int8-everything"), drop("minilm-int8-explained")
    assert advised.low is not None
    assert advised.high is not None
    ends = [100 * (1 - value / ruined.value) for value in (advised.value, advised.high, advised.low)]
    found = figures.figure("explain.restored_share", Estimate(*ends), advised.n, "%")
    figures.publish([found], given.dry_run)


if __name__ == "__main__":
    main()
