"""What is to be known about how latency was measured: plain sentences, only where something is notable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimizer.report import numerals
from optimizer.report.index import Index, Setting
from optimizer.report.noise import Floor, floor
from optimizer.report.plots import short
from optimizer.values import Measurement

DRIFT = 0.02  # relative change from the first to the last call that is worth a sentence
DEPENDENT = 0.5  # effective n below this share of n is
FOREIGN = 0.1  # cores kept busy by others
CLOCK = 0.05  # relative difference of a GPU's clock between restarts that is worth a sentence
STEAL = 0.01  # share of the time that the hypervisor took
STOPPED = {
    "decided": "Measuring stopped when every gate could be decided",
    "precise": "Measuring stopped when the intervals were as narrow as asked",
    "budget": "Measuring stopped because its time was spent; longer measuring would narrow the intervals",
    "restarts": "Measuring stopped at the largest number of restarts",
}


@dataclass(frozen=True)
class Note:
    """A sentence; `grave` when it weakens the numbers."""

    text: str
    grave: bool


def notes(found: Index, setting: Setting, floors: Mapping[str, Floor]) -> tuple[Note, ...]:
    """The sentences about one setting, what weakens the numbers first."""
    taken = [m for c in found.built() if (m := found.get(c.name, "latency.p50", "absolute", setting))]
    ratios = [m for c in found.built() if (m := found.get(c.name, "latency.p50", "speedup", setting))]
    told = [*_noise(found, setting, floors), *_clocks(ratios), *_conditions(taken)]
    for m in taken:
        told += _own(m)
    told += [*_dependence(taken), *_stopped(taken)]
    return tuple(sorted(told, key=lambda note: not note.grave))


def _noise(found: Index, setting: Setting, floors: Mapping[str, Floor]) -> Iterator[Note]:
    """The width of the floor, and which speed-ups are not larger than it."""
    if not floors:
        return
    span = _span([f.width for f in floors.values()])
    text = f"Noise floor of this session: {span}. A speed-up whose interval reaches into it may be no difference."
    ratios = [(name, m) for name in floors if (m := found.get(name, "latency.p50", "speedup", setting))]
    lost = [name for name, m in ratios if floors[name].touches(m)]
    yield Note(text + (f" That holds for {_listed(lost)}." if lost else ""), bool(lost))


def noise_line(found: Index) -> str | None:
    """The noise floor of the whole run in one sentence, and which speed-ups reach into it; None if not measured."""
    widths: list[float] = []
    lost, compared = [], 0
    for setting in found.settings:
        for c in found.built():
            noise, m = floor(found, c, setting), found.get(c.name, "latency.p50", "speedup", setting)
            if noise:
                widths.append(noise.width)
                compared += m is not None
                lost += [f"{c.name} at {setting.label}" if setting.label else c.name] if m and noise.touches(m) else []
    if not widths:
        return None
    beyond = "; every speed-up is beyond it" if compared else ""
    reached = f"; the speed-up of {_listed(lost)} reaches into it" if lost else beyond
    return f"Noise floor (a baseline against itself): {_span(widths)}{reached}."


def _span(widths: Sequence[float]) -> str:
    found = sorted({round(100 * width, 1) for width in widths})
    return f"{found[0]:g} %" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g} %"


def _own(m: Measurement) -> Iterator[Note]:
    """What the calls of one candidate say about themselves."""
    drift, modes = _number(m.protocol.get("drift")), m.protocol.get("modes") or []
    if drift is not None and abs(drift) >= DRIFT:
        way = "slower" if drift > 0 else "faster"
        yield Note(f"{m.subject} became {100 * abs(drift):.1f} % {way} from the first to the last call.", True)
    if len(modes) > 1:
        times = " and ".join(f"{short(v)} ms" for v in modes)
        yield Note(f"{m.subject} has {len(modes)} typical times ({times}): its median may lie between them.", True)


def _dependence(taken: list[Measurement]) -> Iterator[Note]:
    """Whose calls resemble their neighbours so much that they count for less."""
    found = []
    for m in taken:
        effective, related = _number(m.protocol.get("effective_n")), _number(m.protocol.get("autocorrelation"))
        if effective is not None and effective < DEPENDENT * m.n:
            cause = f" (autocorrelation {related:.2f})" if related is not None else ""
            alone = numerals.count(round(effective), "independent one")
            found.append(f"the {m.n:,} calls of {m.subject} tell as much as {alone}{cause}")
    if found:
        yield Note(f"Neighbouring calls resemble each other: {', '.join(found)}.", False)


def _clocks(ratios: list[Measurement]) -> Iterator[Note]:
    """Speed-ups whose two sides are timed by different clocks, or from and to different places."""
    for m in ratios:
        if m.protocol.get("baseline_timed"):
            own = f"{m.protocol.get('clock')} ({m.protocol.get('boundary')})"
            yield Note(
                f"The speed-up of {m.subject} does not compare like with like: it is timed by {own}, its baseline "
                f"{m.protocol['baseline_timed']}.",
                True,
            )


def _conditions(taken: list[Measurement]) -> Iterator[Note]:
    """What else the machine did, over all candidates of the session."""
    found = [c for m in taken if isinstance(c := m.protocol.get("conditions"), dict)]
    foreign, steal = _largest(found, "foreign_load"), _largest(found, "steal")
    if foreign >= FOREIGN:
        yield Note(f"Other processes kept up to {foreign:.1f} cores busy while latency was measured.", True)
    if steal >= STEAL:
        yield Note(f"The hypervisor took up to {100 * steal:.1f} % of the processor's time.", True)
    if any(c.get("throttled") for c in found):
        clocks = [mhz for c in found if isinstance(mhz := c.get("mhz"), list) and len(mhz) == 2]
        low, high = min((a for a, _ in clocks), default=0.0), max((b for _, b in clocks), default=0.0)
        span = f"; its clock moved between {low:,.0f} and {high:,.0f} MHz" if low < high else ""
        yield Note(f"The processor was throttled while latency was measured{span}.", True)
    yield from _gpu(found)


def _gpu(found: list[dict[str, Any]]) -> Iterator[Note]:
    """Clocks of the GPU after each restart, where they differ."""
    clocks = [mhz for c in found if isinstance(mhz := c.get("gpu_mhz"), list) and len(mhz) == 2]
    low, high = min((a for a, _ in clocks), default=0.0), max((b for _, b in clocks), default=0.0)
    if low < (1 - CLOCK) * high:
        yield Note(f"The GPU's clock was between {low:,.0f} and {high:,.0f} MHz from restart to restart.", True)


def _stopped(taken: list[Measurement]) -> Iterator[Note]:
    for why in dict.fromkeys(m.protocol.get("stopped") for m in taken):
        if why in STOPPED:
            looks = {m.protocol.get("looks") for m in taken if m.protocol.get("stopped") == why}
            most = max((n for n in looks if isinstance(n, int)), default=0)
            after = f", after {numerals.count(most, 'look')}" if most else ""
            yield Note(f"{STOPPED[why]}{after}.", why == "budget")


def _largest(conditions: list[dict[str, Any]], name: str) -> float:
    return max((v for c in conditions if (v := _number(c.get(name))) is not None), default=0.0)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
