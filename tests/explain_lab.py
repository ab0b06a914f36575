"""A net with one layer that 8 bits ruin, its data with labels, and subjects made of tiny artifacts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from quant_lab import Bench, artifact, model, outputs, weights

from optimizer import machine
from optimizer.explain.subject import Subject
from optimizer.metrics import top1
from optimizer.protocols import Batch
from optimizer.values import Artifact, Machine

CULPRIT = "fc2"


def fragile() -> Any:
    """Three products; the weight of the second holds one huge value behind a unit that is always 0.

    In float it does nothing; one scale for the whole weight leaves no step for all the others.
    """
    random = np.random.default_rng(7)
    first = random.standard_normal((6, 8)).astype("float32")
    first[:, 0] = 0
    second = random.standard_normal((8, 8)).astype("float32") / 3
    second[0, 0] = 1000
    last = random.standard_normal((8, 4)).astype("float32")
    nodes = [
        helper.make_node("MatMul", ["x", "fc1.weight"], ["h1"], name="fc1"),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu1"),
        helper.make_node("MatMul", ["r1", "fc2.weight"], ["h2"], name="fc2"),
        helper.make_node("Relu", ["h2"], ["r2"], name="relu2"),
        helper.make_node("MatMul", ["r2", "fc3.weight"], ["logits"], name="fc3"),
    ]
    tensors = weights(**{"fc1.weight": first, "fc2.weight": second, "fc3.weight": last})
    return model(nodes, {"x": ["batch", 6]}, {"logits": ["batch", 4]}, tensors)


@dataclass
class Labelled:
    """Examples with labels in memory."""

    x: np.ndarray
    labels: np.ndarray
    name: str = "tiny"
    digest: str = "0"

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, size):
            rows = slice(start, min(start + size, count))
            yield Batch({"x": self.x[rows]}, self.labels[rows], np.arange(count)[rows])


def points(count: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype("float32")


def labelled(source: Artifact, count: int = 400) -> Labelled:
    """Points with the labels that the float model itself gives, where it is sure of them."""
    x = points(4 * count)
    scores = outputs(source, {"x": x})["logits"]
    ordered = np.sort(scores, axis=1)
    sure = np.flatnonzero(ordered[:, -1] - ordered[:, -2] > np.median(np.abs(scores)))[:count]
    return Labelled(x[sure], scores[sure].argmax(axis=1))


def subject(bench: Bench, **options: Any) -> Subject:
    """The fragile net, quantized with one scale per weight, against itself in float."""
    source = artifact(fragile(), bench.root / "float")
    data = labelled(source)
    found = bench.static(source, data=data, **{"per_channel": False, "model": "cnn", **options})
    found = dataclasses.replace(found, digest="quantized")
    return compared(found, source, data=data, metrics={"top1": (top1, top1.Options())})


def compared(found: Artifact, source: Artifact | None, target: str = "onnxruntime", **more: Any) -> Subject:
    given: dict[str, Any] = {"name": f"int8@{target}", "target": target, "options": {"threads": 1}, "batch": 32, **more}
    return Subject(
        artifact=found,
        machine=here(),
        against=f"fp32@{target}" if source else None,
        baseline=source,
        steps=({"quantize.static": {"per_channel": False, "keep": ["other"]}},),
        **given,
    )


def here() -> Machine:
    return machine.here()


def lab(folder: Path) -> Bench:
    return Bench(folder)
