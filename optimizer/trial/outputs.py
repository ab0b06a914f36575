"""Are these the same model? Every artifact runs once on the same inputs, and its outputs are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from optimizer import equivalence
from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.subjects import Opened
from optimizer.trial.inputs import at_batch
from optimizer.trial.once import Answer, run_once
from optimizer.values import Check

COSINE, ERROR = 0.99, 0.5
"""Below the one or beyond the other, two sets of outputs are called different. INT8 of one model lies well inside."""


@dataclass(frozen=True)
class Looked:
    """Which subjects gave usable outputs, what ran, what is odd, and who failed why."""

    alive: list[Opened] = field(default_factory=list)
    precision: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failed: dict[str, OptimizerError] = field(default_factory=dict)


def look(opened: Sequence[Opened], baseline: str, feeds: Feeds, batch: int, threads: int) -> Looked:
    """Run every subject once; NaN and a dead process fail that subject alone, the others go on."""
    found = Looked()
    answers: dict[str, Answer] = {}
    for one in opened:
        name = one.subject.name
        given = at_batch(one, feeds, batch)
        try:
            answers[name] = run_once(one.subject, given, int(one.subject.options.get("threads") or threads))
            _refuse_nan(name, answers[name].outputs)
        except OptimizerError as error:
            found.failed[name] = error
            continue
        found.alive.append(one)
        found.precision[name] = answers[name].precision
    names = [o.subject.name for o in found.alive]
    reference = baseline if baseline in names else next(iter(names), "")
    for name in names:
        if name != reference and (told := _told(name, reference, answers)):
            found.warnings.append(told)
    return found


def _refuse_nan(name: str, outputs: Mapping[str, np.ndarray]) -> None:
    for output, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise OptimizerError(
                f"'{name}': the output '{output}' holds NaN or infinity",
                "a model that gives no numbers is not measured; look at its weights, or at --input",
            )


def _told(name: str, reference: str, answers: Mapping[str, Answer]) -> str | None:
    """A sentence when the outputs lie far apart."""
    expected, found = answers[reference].outputs, answers[name].outputs
    if set(expected) != set(found):
        if len(expected) != len(found):
            return f"{name} has {len(found)} outputs, {reference} has {len(expected)}; these may not be the same model"
        found = dict(zip(expected, found.values(), strict=True))  # named otherwise by another exporter
    check = equivalence.compare([expected], [found], [{}], None, False)
    if check.reason:
        return f"{name}: {check.reason}; this may not be the same model as {reference}"
    if check.cosine >= COSINE and check.max_error <= ERROR:
        return None
    return (
        f"the outputs of {name} differ from those of {reference} by {_distance(check)}; these may not be the same model"
    )


def _distance(check: Check) -> str:
    return f"{check.max_error:.2g} of the largest value, cosine {check.cosine:.4f}"
