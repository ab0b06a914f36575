"""A profile as what the page draws: the time by kind as one bar, and a table of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.report import numerals
from optimizer.report.plots import short
from optimizer.values import OpTime, Profile

KINDS = {
    "quantized": "computed in integers",
    "float": "computed in float",
    "convert": "quantize, dequantize, casts",
    "layout": "reorders inserted by the runtime",
    "other": "everything else",
}
ROWS = 2000  # kernels in the whole page


@dataclass(frozen=True)
class Segment:
    """One kind's part of the time, in percent of the bar."""

    kind: str
    meaning: str
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Kernel:
    """One kernel in words; what a column is sorted by beside what it says."""

    op: str
    name: str
    kind: str
    dtype: str
    ms: str
    share: str
    share_order: float
    implementation: str
    bound: str
    of_peak: str
    of_peak_order: float


@dataclass(frozen=True)
class Kernels:
    """The profile of one candidate."""

    sentence: str
    segments: tuple[Segment, ...]
    rows: tuple[Kernel, ...]
    left_out: str  # which kernels are not in the table
    peaks: str
    findings: tuple[str, ...]


def kernels(profile: Profile, of: int = 1) -> Kernels:
    """The view of one profile, when the page holds `of` of them."""
    room = max(50, ROWS // max(1, of))
    rest = profile.ops[room:]
    left_out = ""
    if rest:
        share = 100 * sum(o.share for o in rest)
        left_out = f"{numerals.count(len(rest), 'kernel')} with {share:.1f} % of the time stand in run.json only."
    return Kernels(
        sentence=_sentence(profile),
        segments=tuple(_segments(profile.shares)),
        rows=tuple(_kernel(op) for op in profile.ops[:room]),
        left_out=left_out,
        peaks=_peaks(profile.peaks),
        findings=tuple(f"{f[:1].upper()}{f[1:]}" + ("" if f.endswith(".") else ".") for f in profile.findings),
    )


def _sentence(profile: Profile) -> str:
    """How long one inference took, at which sizes, and what the profiler itself cost."""
    at = profile.at
    sizes = {**({"batch": at["batch"]} if "batch" in at else {}), **(at.get("dims") or {})}
    words = [f"{name} {size}" for name, size in sizes.items()]
    words += [numerals.count(at["threads"], "thread")] if isinstance(at.get("threads"), int) else []
    place = f" ({', '.join(words)})" if words else ""
    plain = at.get("plain_ms")
    without = f", {short(plain)} ms without it" if isinstance(plain, int | float) else ""
    return f"One inference took {short(profile.ms)} ms with the profiler on{without}{place}."


def _segments(shares: dict[str, float]) -> list[Segment]:
    total = sum(v for v in shares.values() if v > 0)
    found: list[Segment] = []
    x = 0.0
    for kind in [*KINDS, *(k for k in shares if k not in KINDS)]:
        share = shares.get(kind, 0.0) / total if total else 0.0
        if share > 0:
            found.append(Segment(kind, KINDS.get(kind, ""), round(x, 3), round(100 * share, 3), percent(share)))
            x += 100 * share
    return found


def percent(share: float) -> str:
    """A share of one as percent, one decimal."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _kernel(op: OpTime) -> Kernel:
    return Kernel(
        op=op.op, name=op.name, kind=op.kind, dtype=op.dtype, ms=short(op.ms), share=percent(op.share),
        share_order=round(op.share, 6), implementation=op.implementation, bound=op.bound or "",
        of_peak="" if op.of_peak is None else f"{100 * op.of_peak:.0f} %",
        of_peak_order=-1.0 if op.of_peak is None else round(op.of_peak, 4),
    )  # fmt: skip


def _peaks(peaks: dict[str, float]) -> str:
    """What this machine reaches at best, in one line."""
    parts: Sequence[str] = [
        f"{name} {value:,.0f} {'GB/s' if name == 'memory' else 'GMAC/s'}" for name, value in peaks.items()
    ]
    return f"Measured peaks of this machine: {', '.join(parts)}." if parts else ""
