"""Runs a pruning pass on a model of prune_models as a build would: loaded, pruned, read back from its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import prune_models

from optimizer import formats, samples, schema
from optimizer.formats.torch import TorchModel, open_model
from optimizer.passes import load
from optimizer.protocols import Batch, Context, Feeds
from optimizer.recipe import ModelSpec
from optimizer.values import Artifact

MODELS = Path(prune_models.__file__)
IMAGE = {"image": "float32[batch,3,8,8]"}
INPUTS: dict[str, dict[str, str]] = {
    "HardCoded": {"x": "float32[batch,8]"},
    "PreNorm": {"x": "float32[batch,6]"},
    "FixedHeads": {"x": "float32[batch,length,16]"},
    "Attentive": {"x": "float32[batch,length,16]"},
    "Recurrent": {"x": "float32[batch,5,8]"},
    "Tower": {"x": "float32[batch,8]"},
    "tiny_bert": {"input_ids": "int64[batch,length]", "attention_mask": "int64[batch,length]"},
}


@dataclass(frozen=True)
class Held:
    """A data set in memory."""

    feeds: Feeds
    labels: np.ndarray | None = None
    name: str = "held"
    digest: str = "held"

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def at(self, places: np.ndarray) -> Batch:
        labels = None if self.labels is None else self.labels[places]
        return Batch({k: v[places] for k, v in self.feeds.items()}, labels, places)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        count = min(len(self), limit or len(self))
        for start in range(0, count, size):
            rows = slice(start, min(start + size, count))
            labels = None if self.labels is None else self.labels[rows]
            yield Batch({k: v[rows] for k, v in self.feeds.items()}, labels, np.arange(rows.start, rows.stop))


@dataclass
class Bench:
    """One folder per step; notes and warnings of the last pass."""

    root: Path
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def load(self, name: str, **spec: Any) -> Artifact:
        given = {"entry": f"{MODELS}:{name}", "inputs": INPUTS.get(name, IMAGE), **spec}
        out = self.folder()
        load.run(None, schema.parse(ModelSpec, given, "model", self.root), Context(), out)
        return artifact(out)

    def prune(self, plugin: Any, source: Artifact, data: Mapping[str, Any] | None = None, **options: Any) -> Artifact:
        out = self.folder()
        self.notes.clear()
        self.warnings.clear()
        plugin.run(source, schema.parse(plugin.Options, options, "step"), self.context(source, data), out)
        return artifact(out)

    def context(self, source: Artifact, data: Mapping[str, Any] | None = None) -> Context:
        return Context(
            data=data or {}, samples=feeds_of(source), note=self.notes.__setitem__, warn=self.warnings.append,
            work=self.root / "work",
        )  # fmt: skip

    def folder(self) -> Path:
        path = self.root / f"step{len(list(self.root.glob('step*')))}"
        path.mkdir()
        return path


def artifact(path: Path) -> Artifact:
    return Artifact("torch", path, path.name, "", formats.read("torch", path), formats.size("torch", path))


def feeds_of(source: Artifact, seed: int = 0) -> Sequence[Feeds]:
    return samples.made(source.signature, seed).feeds


def run(model: TorchModel, source: Artifact) -> list[np.ndarray]:
    """The first output for each of the source's sample inputs."""
    return [next(iter(model(feeds).values())) for feeds in feeds_of(source)]


def widths(found: Artifact) -> dict[str, tuple[int, ...]]:
    """Path of every parameter -> its shape in the rebuilt module."""
    return {name: tuple(p.shape) for name, p in open_model(found.path).module.named_parameters()}
