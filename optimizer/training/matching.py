"""Losses between a student's outputs and a teacher's: which one fits is read off the outputs, and said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from optimizer.errors import OptimizerError, unknown
from optimizer.training.settings import Match
from optimizer.training.student import Outputs
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch

SCORES = ("logit", "score", "prob", "class")
UNIT = 1e-2  # how far the length of an embedding may be from 1
Kind = Literal["kl", "kl of probabilities", "mse", "cosine"]


@dataclass(frozen=True)
class Matched:
    """The loss between outputs of one name: the mean over all samples of a batch."""

    output: str
    kind: Kind
    temperature: float

    def __call__(self, student: Outputs, teacher: Outputs) -> torch.Tensor:
        return _LOSSES[self.kind](student[self.output].float(), teacher[self.output].float(), self.temperature)


def pair(student: Signature, teacher: Signature, only: str | None, name: str, where: str) -> dict[str, str]:
    """The student's floating-point outputs -> the teacher's, by name, else by position.

    Raises OptimizerError for an output that the teacher lacks or gives in another shape; `name` is the teacher's.
    """
    known = [spec.name for spec in student.outputs]
    if only is not None and only not in known:
        raise unknown("output", only, known, where)
    theirs = {spec.name: spec for spec in teacher.outputs}
    found = {}
    for place, spec in enumerate(student.outputs):
        if not spec.dtype.startswith(("float", "bfloat")) or only not in (None, spec.name):
            continue
        other = theirs.get(spec.name)
        if other is None and len(student.outputs) == len(teacher.outputs):
            other = teacher.outputs[place]
        if other is None:
            raise OptimizerError(
                f"{where}: the teacher '{name}' has no output '{spec.name}'; it has {', '.join(theirs)}",
                "name the outputs alike (model.outputs), or compare one of them: output",
            )
        if not _alike(spec.shape, other.shape):
            raise OptimizerError(
                f"{where}: the teacher '{name}' gives '{other.name}' as {other}, the student as {spec}",
                "a teacher needs outputs of the student's shape; to learn from its inner layers alone, "
                "write outputs: none and features",
            )
        found[spec.name] = other.name
    if not found:
        raise OptimizerError(f"{where}: no output is floating-point", "learn from inner layers: features")
    return found


def _alike(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(one) == len(other) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(one, other, strict=True)
    )


def matched(
    teacher: Mapping[str, np.ndarray], labels: np.ndarray | None, match: Match, temperature: float
) -> list[Matched]:
    """The loss of each output, given what a teacher says on the first examples (under the student's names)."""
    return [
        Matched(name, _kind(name, array, labels) if match == "auto" else match, temperature)  # type: ignore[arg-type]  # "none" does not come here
        for name, array in teacher.items()
    ]


def _kind(name: str, array: np.ndarray, labels: np.ndarray | None) -> Kind:
    """Embeddings of length 1 by their angle, class scores by their distribution, everything else by its values."""
    if array.ndim < 2 or array.shape[-1] < 2:
        return "mse"
    wide = array.astype(np.float64)
    if np.allclose(np.linalg.norm(wide, axis=-1), 1, atol=UNIT):
        return "cosine"
    if array.ndim != 2:
        return "mse"
    if (wide >= 0).all() and np.allclose(wide.sum(axis=-1), 1, atol=UNIT):
        return "kl of probabilities"
    classes = labels is not None and labels.ndim == 1 and np.all(labels == np.round(labels))
    counted = classes and 0 <= labels.min() and labels.max() < array.shape[1]  # type: ignore[union-attr]  # not None, as classes says
    return "kl" if counted or any(word in name.lower() for word in SCORES) else "mse"


def _kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divergence of softened distributions, times the temperature squared (Hinton, Vinyals, Dean 2015, section 2)."""
    from torch.nn import functional

    soft = functional.log_softmax(student / temperature, dim=-1)
    wanted = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(soft, wanted, reduction="batchmean", log_target=True) * temperature**2


def _kl_of_probabilities(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    return _kl(student.clamp_min(1e-9).log(), teacher.clamp_min(1e-9).log(), temperature)


def _mse(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:  # noqa: ARG001  # one signature
    from torch.nn import functional

    return functional.mse_loss(student, teacher)


def _cosine(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:  # noqa: ARG001  # one signature
    from torch.nn import functional

    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


_LOSSES: dict[Kind, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "kl": _kl,
    "kl of probabilities": _kl_of_probabilities,
    "mse": _mse,
    "cosine": _cosine,
}
