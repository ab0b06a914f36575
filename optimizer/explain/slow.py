"""Why slow: the kernels of one candidate by time, their kinds, and where each lies on the machine's roofline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from optimizer import schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain import profile_onnx, profile_openvino, roofline
from optimizer.explain.kernels import Kernel, Profiled, gaps
from optimizer.explain.subject import Subject
from optimizer.protocols import Feeds
from optimizer.registry import load
from optimizer.store import Store
from optimizer.values import OpTime, Profile

PROFILERS: dict[str, Any] = {"onnxruntime": profile_onnx.profile, "openvino": profile_openvino.profile}
MULTIPLY = ("Conv", "Gemm", "MatMul", "FullyConnected", "LSTM", "GRU", "Attention", "RNN")
BUSY = "other programs ran while the peaks were measured: the shares of the roofline may be too high"
NAMED = 4  # kernels that a sentence names


def refusal(target: str) -> str | None:
    """Why a target has no profile, or None."""
    if target in PROFILERS:
        return None
    return f"{target} has no kernel profile here, only {' and '.join(PROFILERS)} do; torch.profiler shows eager PyTorch"


def profile(subject: Subject, feeds: Feeds, store: Store, console: Console, budget: float) -> Profile:
    """The profile of the subject on one inference's inputs; raises OptimizerError where its target has none."""
    reason = refusal(subject.target)
    if reason:
        raise OptimizerError(reason, "explain a candidate of one of these targets, or leave --slow out")
    threads = subject.options.get("threads") or subject.machine.cores
    found = roofline.peaks(store, subject.machine, threads, console)
    with console.task(f"{subject.name}: profile"):
        profiled = kernels(subject, feeds, budget)
    batch = len(next(iter(feeds.values()))) if feeds else 1
    return summarized(profiled, found, {"batch": batch, "threads": threads, "peaks": dict(found.methods)})


def kernels(subject: Subject, feeds: Feeds, budget: float) -> Profiled:
    """What the profiler of the subject's target says in about `budget` seconds; for a target that has one."""
    options = schema.parse(load("targets", subject.target).Options, subject.options, f"target '{subject.target}'")
    found: Profiled = PROFILERS[subject.target](subject.artifact, options, feeds, subject.machine, budget)
    return found


def summarized(profiled: Profiled, found: roofline.Peaks, at: dict[str, Any]) -> Profile:
    """Kernels -> the profile: shares, the roofline, findings."""
    rest = gaps(profiled.kernels, profiled.plain_ms)
    ranked = sorted((*profiled.kernels, *([rest] if rest else [])), key=lambda k: -k.ms)
    total = sum(k.ms for k in ranked) or 1.0
    shares: defaultdict[str, float] = defaultdict(float)
    for kernel in ranked:
        shares[kernel.kind] += kernel.ms / total
    overhead = profiled.profiled_ms / profiled.plain_ms - 1 if profiled.plain_ms else 0.0
    return Profile(
        ms=profiled.profiled_ms,
        ops=tuple(_op(k, total, found) for k in ranked),
        shares=dict(shares),
        peaks=dict(found.values),
        at={
            **at,
            "dims": dict(profiled.sizes),
            "inferences": profiled.runs,
            "plain_ms": profiled.plain_ms,
            "overhead": overhead,
        },
        findings=(
            *_totals(ranked, total),
            *profiled.findings,
            *_fallbacks(ranked, total),
            *_waste(ranked, total),
            *([BUSY] if found.busy else []),
        ),
    )


def _op(kernel: Kernel, total: float, found: roofline.Peaks) -> OpTime:
    place = roofline.place(kernel, found)
    return OpTime(
        name=kernel.name,
        op=kernel.op,
        kind=kernel.kind,
        dtype=kernel.dtype,
        ms=kernel.ms,
        share=kernel.ms / total,
        implementation=kernel.implementation,
        macs=kernel.macs,
        bytes=kernel.bytes,
        bound=place.bound if place else None,
        of_peak=place.of_peak if place else None,
    )


def _totals(kernels: Sequence[Kernel], total: float) -> list[str]:
    """The share of the time in integers, and how near the products come to the peak."""
    integers = sum(k.ms for k in kernels if k.kind == "quantized")
    return [f"{100 * integers / total:.0f} % of the time is in int8 kernels"] if integers else []


def _fallbacks(kernels: Sequence[Kernel], total: float) -> list[str]:
    """Products that stayed in float in a model that computes others in integers."""
    products = [k for k in kernels if k.macs or any(k.op.startswith(m) or m in k.op for m in MULTIPLY)]
    floats = [k for k in products if k.kind == "float"]
    if not floats or not any(k.kind == "quantized" for k in products):
        return []
    share = 100 * sum(k.ms for k in floats) / total
    return [
        f"{len(floats)} of {len(products)} convolutions and matrix products fell back to float "
        f"({share:.1f} % of the time): {_names(floats)}"
    ]


def _waste(kernels: Sequence[Kernel], total: float) -> list[str]:
    """Casts and reorders that the runtime inserted."""
    found = []
    for what, chosen in (
        ("layout changes that the runtime inserted", [k for k in kernels if k.kind == "layout"]),
        ("casts between types", [k for k in kernels if k.op in ("Cast", "Convert")]),
        ("separate quantization steps (FakeQuantize)", [k for k in kernels if k.op == "FakeQuantize"]),
    ):
        if chosen:
            share = 100 * sum(k.ms for k in chosen) / total
            found.append(f"{len(chosen)} {what} take {share:.1f} % of the time: {_names(chosen)}")
    return found


def _names(kernels: Sequence[Kernel]) -> str:
    first = sorted(kernels, key=lambda k: -k.ms)[:NAMED]
    more = f" and {len(kernels) - NAMED} more" if len(kernels) > NAMED else ""
    return ", ".join(f"{k.op} '{k.name}'" for k in first) + more


def told(profile: Profile) -> list[str]:
    """Verdict sentences: the time, what the profiler costs, then the findings."""
    at = profile.at
    dims = ", ".join(f"{name} {size}" for name, size in at["dims"].items())
    return [
        f"one inference takes {at['plain_ms']:.3g} ms ({dims or 'fixed size'}, {at['threads']} threads), with the "
        f"profiler {profile.ms:.3g} ms ({100 * at['overhead']:+.0f} %); medians of {at['inferences']} each",
        *profile.findings,
    ]
