"""What a bundle's samples are expected to give: the model's own outputs, or its oracle's where it cannot run here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer import equivalence, registry
from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.values import Artifact

# How far samples may lie from the packed outputs on another CPU or runtime version. Full precision differs by the
# order of its sums; 8- and 16-bit kernels differ by rounding and, on CPUs without VNNI, by saturation.
FULL, REDUCED = 1e-3, 5e-2


@dataclass(frozen=True)
class Told:
    """The outputs for each sample, the precision that gave them, and how far another machine's may lie from them."""

    outputs: list[dict[str, np.ndarray]]
    precision: str
    tolerance: float


def of_model(plugin: Any, options: Any, model: Artifact, feeds: Sequence[Feeds], who: str) -> Told:
    """The outputs of the model itself."""
    with plugin.open(model, options) as session:
        found = equivalence.run_all(session, feeds)
        precision = session.precision
    _require_finite(who, found)
    narrow = re.search(r"int[48]|[iu]8\b|fp8|b?f16|fp16|float16|tf32", precision.lower())
    return Told(found, precision, REDUCED if narrow else FULL)


def of_oracle(plugin: Any, options: Any, model: Artifact, feeds: Sequence[Feeds]) -> Told:
    """The outputs of the ONNX model that `model` was built from, in ONNX Runtime: `model` itself runs elsewhere."""
    source = plugin.oracle(model)
    opener = registry.opener("onnx")
    with opener.open(source, opener.Options()) as session:
        found = equivalence.run_all(session, feeds)
    _require_finite("the model that it was built from", found)
    away = plugin.away(source, options) if hasattr(plugin, "away") else None
    return Told(found, plugin.built_as(model), away or plugin.limit(source))


def _require_finite(who: str, found: Sequence[Mapping[str, np.ndarray]]) -> None:
    for name, array in (pair for outputs in found for pair in outputs.items()):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise OptimizerError(
                f"{who}: the output '{name}' holds NaN or infinity for a sample", "look at the step that made it"
            )
