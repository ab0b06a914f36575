"""Which layers to leave in float: greedily, the most noise taken away for what it costs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optimizer.explain.prices import Prices
from optimizer.explain.proxy import Proxy
from optimizer.explain.variants import Layer, types

FIXED = 0.02  # part of the whole that any choice is taken to cost beside its own price
STRIDE = 4  # layers are screened in so many rounds: where time runs out, those missed lie everywhere
PREFIXES = (2, 4, 8, 16, 32)  # so many of the most suspicious layers are also tried together
LIKELY = 8  # single layers that are tried at each step, the most suspicious first
USEFUL = 0.02  # part of the noise: a choice that takes less away is none


@dataclass(frozen=True)
class Choice:
    """Layers that may be left in float together."""

    names: tuple[str, ...]
    cost: float  # part of the whole


@dataclass(frozen=True)
class Found:
    """The layers left in float, and whether the judge was content."""

    kept: frozenset[str]
    restored: bool
    steps: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Screened:
    """Layer -> the error of the outputs when it alone is quantized, or why that cannot run."""

    errors: Mapping[str, float]
    faults: Mapping[str, str]


def screen(
    layers: Sequence[Layer], proxy: Proxy, time_left: Callable[[], bool], advance: Callable[[int, int], None]
) -> Screened:
    """Try every layer alone, as far as time allows; what it does not allow is in neither mapping."""
    every = frozenset(layer.name for layer in layers)
    errors: dict[str, float] = {}
    faults: dict[str, str] = {}
    for done, layer in enumerate(layer for start in range(STRIDE) for layer in layers[start::STRIDE]):
        if errors and not time_left():
            break
        fault = proxy.fault(every - {layer.name})
        if fault:
            faults[layer.name] = fault
        else:
            errors[layer.name] = proxy.error(every - {layer.name})
        advance(done + 1, len(layers))
    return Screened(errors, faults)


def groups(layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """Selector -> layers: every type with several; where some of them have no weight of their own, also those alone."""
    found: dict[str, tuple[str, ...]] = {}
    for op, names in types(layers).items():
        bare = tuple(layer.name for layer in layers if layer.op == op and not layer.weights)
        if 1 < len(names) < len(layers):
            found[f"op:{op}"] = names
        if 1 < len(bare) < len(names):
            found[f"/^({'|'.join(map(re.escape, bare))})$/"] = bare
    return found


def greedy(
    layers: Sequence[Layer],
    suspicion: Mapping[str, float],
    proxy: Proxy,
    content: Callable[[frozenset[str]], bool],
    time_left: Callable[[], bool],
    prices: Prices,
) -> Found:
    """Leave more and more in float until `content` says that the metric is restored, then take back what is not needed.

    `suspicion`: layer -> the error when it alone is quantized.
    """
    whole = tuple(groups(layers).values())
    together = [_choice(prices, names) for names in whole]
    kept: frozenset[str] = frozenset()
    steps: list[tuple[str, ...]] = []
    while time_left():
        left = sorted((n for n in suspicion if n not in kept), key=lambda n: -suspicion[n])
        ranked = [_choice(prices, left[:count]) for count in PREFIXES if count <= len(left)]
        best = _best([*together, *ranked, *(_choice(prices, [n]) for n in left[:LIKELY])], kept, proxy, time_left)
        if best is None:
            break
        kept |= set(best.names)
        steps.append(best.names)
        if content(kept):
            kept = _smaller(kept, _units(steps, whole), prices, content, time_left)
            return Found(kept, True, tuple(s for s in steps if set(s) <= kept))
    return Found(kept, False, tuple(steps))


def _choice(prices: Prices, names: Sequence[str]) -> Choice:
    return Choice(tuple(names), prices.share(names))


def _best(open_: Sequence[Choice], kept: frozenset[str], proxy: Proxy, time_left: Callable[[], bool]) -> Choice | None:
    """The choice that takes away the largest part of the remaining noise for its cost."""
    now = proxy.error(kept)
    best, most = None, 0.0
    if now == 0:
        return None
    for choice in open_:
        if set(choice.names) <= kept:
            continue
        if best is not None and not time_left():
            break
        after = proxy.error(kept | set(choice.names))
        part = 1 - after / now if math.isfinite(now) else float(math.isfinite(after))
        worth = part / (FIXED + choice.cost)
        if part >= USEFUL and worth > most:
            best, most = choice, worth
    return best


def _smaller(
    kept: frozenset[str],
    units: Sequence[tuple[str, ...]],
    prices: Prices,
    content: Callable[[frozenset[str]], bool],
    time_left: Callable[[], bool],
) -> frozenset[str]:
    """Take back choices, the dearest first, as long as the judge stays content: an early one may have become idle."""
    for names in sorted(units, key=lambda names: -prices.share(names)):
        without = kept - set(names)
        if without and time_left() and content(without):
            kept = without
    return kept


def _units(steps: Sequence[tuple[str, ...]], whole: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What is taken back together: types whole; of layers that only suspicion put together, each by itself."""
    return [unit for names in steps for unit in ([names] if names in whole else [(name,) for name in names])]
