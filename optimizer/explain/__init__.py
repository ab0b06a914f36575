"""Why a candidate is slow, why it is wrong, and what to write into the recipe next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain import keep, slow, wrong
from optimizer.explain.clock import Clock
from optimizer.explain.subject import Subject, one
from optimizer.protocols import Feeds
from optimizer.store import Store
from optimizer.values import Explanation, Profile

__all__ = ["Asked", "explain"]

PROFILE_SHARE, PROFILE_MOST = 0.1, 20.0  # of the budget, and seconds


@dataclass(frozen=True)
class Asked:
    """What is to be explained, and how much effort it may take."""

    slow: bool = True
    wrong: bool = True
    samples: int = 64
    examples: int = 500
    budget: float = 300.0  # seconds
    batch: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)


def explain(subject: Subject, asked: Asked, store: Store, console: Console) -> Explanation:
    """Explain one candidate.

    Raises OptimizerError where what was asked for cannot be done; with both sides asked for, a side that cannot
    be done is left out and the advice says why.
    """
    start = time.perf_counter()
    advice: list[str] = [subject.note] if subject.note else []
    refused = {
        "not profiled": slow.refusal(subject.target) if asked.slow else None,
        "accuracy not explained": wrong.refusal(subject) if asked.wrong else None,
    }
    reasons = [f"{what}: {reason}" for what, reason in refused.items() if reason]
    if len(reasons) == asked.slow + asked.wrong:
        raise OptimizerError("; ".join(reasons), "explain a quantized candidate of onnxruntime or openvino, on data")
    advice += reasons
    profile = _profiled(subject, asked, store, console) if asked.slow and not refused["not profiled"] else None
    found = None
    if asked.wrong and not refused["accuracy not explained"]:
        found = wrong.find(subject, asked.samples, asked.examples, Clock.now(asked.budget), console)
        advice += [*wrong.described(found), *found.ranking.sentences]
        if found.ranking.keep:
            advice.append(f"next, in the recipe: {keep.step(subject.steps, found.ranking.keep)}")
    return Explanation(
        subject=subject.name,
        against=subject.against,
        data=subject.data.name if subject.data else "none (inputs made from the signature)",
        profile=profile,
        tensors=found.tensors if found else (),
        first_jump=found.first_jump if found else None,
        sensitivities=found.ranking.sensitivities if found else (),
        keep=found.ranking.keep if found else (),
        advice=tuple(advice),
        seconds=time.perf_counter() - start,
    )


def _profiled(subject: Subject, asked: Asked, store: Store, console: Console) -> Profile:
    seconds = min(PROFILE_SHARE * asked.budget, PROFILE_MOST)
    return slow.profile(subject, _feeds(subject, asked), store, console, seconds)


def _feeds(subject: Subject, asked: Asked) -> Feeds:
    """One inference's inputs: real ones, else made from the signature (time depends on shapes, little on values)."""
    from optimizer.formats.feeds import synthetic_feeds

    dims = {**subject.dims, **asked.dims}
    if subject.data is not None:
        return one(subject.data, subject.signature, asked.batch, dims)
    batch = subject.signature.batch_symbol()
    sizes = {**dict.fromkeys(subject.signature.symbols(), 32), **({batch: asked.batch} if batch else {}), **dims}
    return synthetic_feeds(subject.signature, sizes, subject.seed)
