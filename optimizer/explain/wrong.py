"""Why wrong: every tensor against its counterpart, then the layers by the harm that quantizing them does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain import sensitivity, tensors
from optimizer.explain.clock import Clock
from optimizer.explain.subject import Part, Subject
from optimizer.explain.variants import Variants
from optimizer.protocols import Dataset, Feeds
from optimizer.registry import load
from optimizer.values import Signature, TensorError

TOGETHER = 4  # examples per inference, where all inner tensors are kept meanwhile
TENSORS = 0.2  # of the budget


@dataclass(frozen=True)
class Wrong:
    """What was found about the error of a candidate."""

    tensors: tuple[TensorError, ...]
    rows: int  # that they were compared on
    first_jump: str | None
    ranking: sensitivity.Ranking


def refusal(subject: Subject) -> str | None:
    """Why tensors cannot be compared, or None."""
    if subject.against is None or subject.baseline is None:
        return f"{subject.name} is the baseline itself: there is nothing to compare it with"
    if subject.artifact.format not in ("onnx", "openvino"):
        return f"{subject.target} runs {subject.artifact.format}; tensors are compared in onnx and openvino"
    if subject.artifact.digest and subject.artifact.digest == subject.baseline.digest:
        return f"{subject.name} has the same files as {subject.against}: there is nothing to explain"
    if subject.data is None:
        return "there is no data to compare on; synthetic inputs would say nothing about accuracy"
    return None


def find(subject: Subject, samples: int, examples: int, clock: Clock, console: Console) -> Wrong:
    """Compare and rank; raises OptimizerError where `refusal` has a reason, and for unlike signatures."""
    reason = refusal(subject)
    if reason:
        raise OptimizerError(reason, "explain another candidate, name --against and --data, or ask for --slow alone")
    assert subject.baseline is not None and subject.data is not None
    alike(subject.signature, subject.baseline.signature, subject.name, str(subject.against))
    threads = subject.machine.cores
    data = Part(subject.data, 0, samples)

    def feeds() -> Iterator[Feeds]:
        return given(data, subject.signature, TOGETHER)

    with console.task(f"{subject.name}: tensors on {len(data)} examples") as advance:
        compared = tensors.compare(_tapping(subject, threads), feeds, TENSORS * clock.seconds, advance)
    first = next((t.name for t in compared.tensors if t.jump), None)
    _refuse_nan(subject, feeds())
    variants = opened(subject, next(feeds()), threads)
    ranking = sensitivity.rank(subject, variants, list(feeds()), examples, clock, console)
    return Wrong(compared.tensors, compared.rows, first, ranking)


def given(data: Dataset, signature: Signature, together: int) -> Iterator[Feeds]:
    """The samples as inputs; a model with a fixed batch size gets exactly that many rows."""
    batch = signature.batch_symbol()
    rows = None if batch else int(signature.inputs[0].shape[0]) if signature.inputs[0].shape else 1
    views = next(iter(data.batches(1, 1))).views
    size = together if rows is None else max(1, rows // views)
    for found in data.batches(size):
        if rows is None or len(next(iter(found.feeds.values()))) == rows:
            yield found.feeds


def alike(ours: Signature, theirs: Signature, name: str, against: str) -> None:
    """Raise OptimizerError unless both take and give the same named tensors of the same types."""
    for kind, one, other in (("input", ours.inputs, theirs.inputs), ("output", ours.outputs, theirs.outputs)):
        mine, its = ({s.name: (s.dtype, len(s.shape)) for s in specs} for specs in (one, other))
        if mine != its:
            told = [", ".join(f"{s.name}: {s}" for s in specs) for specs in (one, other)]
            raise OptimizerError(
                f"{name} has the {kind}s {told[0]}; {against} has {told[1]}",
                "compare a candidate with the model that it was made of",
            )


def _tapping(subject: Subject, threads: int) -> tensors.Tapping:
    from optimizer.explain import taps_onnx, taps_openvino

    assert subject.baseline is not None
    kind = taps_openvino.Tapping if subject.artifact.format == "openvino" else taps_onnx.Tapping
    return kind(subject.artifact, subject.baseline, threads)


def opened(subject: Subject, feeds: Feeds, threads: int) -> Variants:
    """The variants of a candidate; `feeds` say at which sizes its multiplications are counted."""
    from optimizer.explain.variants_onnx import OnnxVariants
    from optimizer.explain.variants_openvino import OpenvinoVariants

    assert subject.baseline is not None
    if subject.artifact.format == "openvino":
        return OpenvinoVariants(subject.artifact, subject.baseline, subject.target, subject.options, feeds)
    return OnnxVariants(subject.artifact, subject.baseline, subject.target, subject.options, feeds, threads)


def _refuse_nan(subject: Subject, feeds: Iterator[Feeds]) -> None:
    """Nothing can be ranked by outputs of the baseline that are no numbers."""
    assert subject.baseline is not None
    target = load("targets", subject.target)
    with target.open(subject.baseline, target.Options()) as session:
        outputs = session(next(feeds))
    bad = [n for n, array in outputs.items() if array.dtype.kind == "f" and np.isnan(array).any()]
    if bad:
        raise OptimizerError(
            f"the output '{bad[0]}' of the baseline {subject.against} is NaN on the samples",
            "check the data and the float model: there is no right answer to compare with",
        )


def described(found: Wrong) -> list[str]:
    """Sentences about the tensors."""
    if not found.tensors:
        return ["no tensor of the candidate could be matched with one of the baseline"]
    placed = sum(t.matched == "position" for t in found.tensors)
    how = f", {placed} of them matched by position" if placed else ""
    lines = [f"{len(found.tensors)} tensors were compared on {found.rows} samples{how}"]
    jump = next((t for t in found.tensors if t.name == found.first_jump), None)
    if jump is None:
        lines.append("the error jumps nowhere: it grows no faster than the layers' inputs explain")
        return lines
    doing = "rounding" if jump.op in ("QuantizeLinear", "FakeQuantize") else jump.op
    saturated = f", {100 * jump.saturated:.2g} % of the values at an end of the range" if jump.saturated else ""
    jumps = sum(t.jump for t in found.tensors)
    lines.append(
        f"the error first jumps at '{jump.name}' ({doing} of '{jump.against}'): {jump.sqnr_db:.1f} dB, values in "
        f"[{jump.low:.4g}, {jump.high:.4g}]{saturated}; {jumps} tensors jump"
    )
    return lines
