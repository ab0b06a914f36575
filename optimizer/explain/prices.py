"""What leaving layers in float costs: time by the runtime's own profiler, stored values, or a count of the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizer.explain.kernels import Profiled
from optimizer.explain.variants import Layer

BYTES = 3  # that a stored value takes more in float32 than in 8 bits


@dataclass(frozen=True)
class Prices:
    """Layer -> what it costs in float, as a part of the whole."""

    shares: Mapping[str, float]
    whole: float
    unit: str

    def share(self, names: Iterable[str]) -> float:
        """What these layers cost together, as a part of the whole."""
        return sum(self.shares.get(name, 0.0) for name in names)

    def told(self, names: Iterable[str]) -> str:
        """The same in words: `0.031 of 0.8 ms`, `12 % of what is ...`."""
        if self.unit.startswith("%"):
            return f"{self.share(names) * self.whole:.2g} {self.unit}"
        return f"{self.share(names) * self.whole:.2g} of {self.whole:.3g} {self.unit}"


def counted(layers: Sequence[Layer]) -> Prices:
    """By the share of the multiplications and of the stored weights."""
    macs, weights = (sum(sizes) or 1 for sizes in zip(*((la.macs, la.weights) for la in layers), strict=True))
    shares = {layer.name: (layer.macs / macs + layer.weights / weights) / 2 for layer in layers}
    return Prices(shares, 100.0, "% of what is multiplied and stored in 8 bits")


def stored(layers: Sequence[Layer]) -> Prices:
    """By the bytes that their weights take more in float32."""
    whole = sum(layer.weights for layer in layers)
    shares = {layer.name: layer.weights / (whole or 1) for layer in layers}
    return Prices(shares, whole * BYTES / 1e6, "MB that all would take more")


def measured(layers: Sequence[Layer], rounded: Profiled, plain: Profiled) -> Prices:
    """By the milliseconds that each layer takes longer in float, of those that the quantized model takes.

    `rounded`, `plain`: profiles of the model with all layers quantized and with all in float, which name nodes as the
    layers are named. Where they show no layer that is faster in 8 bits, prices are counted instead.
    """
    in_float, in_eight = milliseconds(plain, layers), milliseconds(rounded, layers)
    lost = {layer.name: max(0.0, in_float[layer.name] - in_eight[layer.name]) for layer in layers}
    if not any(lost.values()) or not rounded.plain_ms:
        return counted(layers)
    return Prices({name: ms / rounded.plain_ms for name, ms in lost.items()}, rounded.plain_ms, "ms")


def milliseconds(found: Profiled, layers: Sequence[Layer]) -> Mapping[str, float]:
    """Layer -> its time; a kernel that serves several is shared out by multiplications, or evenly where it has none."""
    known = {layer.name: layer for layer in layers}
    times: defaultdict[str, float] = defaultdict(float)
    for kernel in found.kernels:
        own = [known[name] for name in dict.fromkeys((*kernel.covers, kernel.name)) if name in known]
        macs = sum(layer.macs for layer in own)
        for layer in own:
            times[layer.name] += kernel.ms * (layer.macs / macs if macs else 1 / len(own))
    return times
