"""Times what a step has not decided on yet: its attempt and its source, both taken on to the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimizer.errors import OptimizerError
from optimizer.measure import latency
from optimizer.measure.process import Subject
from optimizer.protocols import Feeds, Ratio
from optimizer.recipe import LatencySpec
from optimizer.values import Artifact

SECONDS, RESTARTS = 4.0, 4  # counted calls per artifact, in so many fresh processes
SOURCE, ATTEMPT = "source", "attempt"


def ratio(
    ends: tuple[Artifact, Artifact],
    target: str,
    options: Mapping[str, Any],
    feeds: Feeds,
    asked: LatencySpec | None,
    seed: int,
    machine: str,
) -> Ratio:
    """Latency of the attempt over that of the source (`ends`: source, attempt), from fresh processes in turns.

    At the smallest batch size that the recipe measures, with its threads and sizes. Raises OptimizerError for an
    artifact that does not run on the target.
    """
    spec = asked or LatencySpec()
    setting = spec.model_copy(
        update={
            "batch": [min(spec.batch)], "seconds": SECONDS, "restarts": RESTARTS, "most_restarts": RESTARTS,
            "precision": None, "budget": None,
        }
    )  # fmt: skip
    named = zip((SOURCE, ATTEMPT), ends, strict=True)
    subjects = [Subject(f"{name}@{target}", target, artifact, dict(options)) for name, artifact in named]
    against = {subjects[0].name: None, subjects[1].name: subjects[0].name}
    found = latency.measure(subjects, against, feeds, setting, seed, machine)
    for m in found:
        if (m.subject, m.metric, m.relation) == (subjects[1].name, "latency.p50", "speedup"):
            return Ratio(1 / m.value, 1 / (m.high or m.value), 1 / (m.low or m.value))
    raise OptimizerError(f"no latency of an attempt on '{target}' was measured", "measure it with optc bench")
