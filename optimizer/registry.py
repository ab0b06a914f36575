"""Every plugin by name. Built-ins are a literal table; third parties use entry points; nobody shadows a built-in."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any, Literal

from optimizer.errors import OptimizerError, unknown

Kind = Literal["passes", "targets", "sources", "metrics", "layouts"]
KINDS: tuple[Kind, ...] = ("passes", "targets", "sources", "metrics", "layouts")
SINGULAR = {"passes": "step", "targets": "target", "sources": "data source", "metrics": "metric", "layouts": "layout"}

BUILT_IN: dict[Kind, dict[str, str]] = {
    "passes": {
        "load": "optimizer.passes.load",
        "export": "optimizer.passes.export",
        "simplify": "optimizer.passes.simplify",
        "finetune": "optimizer.passes.finetune",
        "distill": "optimizer.passes.distill",
        "fuse": "optimizer.passes.fuse",
        "prune.channels": "optimizer.passes.prune_channels",
        "prune.depth": "optimizer.passes.prune_depth",
        "prune.weights": "optimizer.passes.prune_weights",
        "quantize.static": "optimizer.passes.quantize_static",
        "quantize.inc": "optimizer.passes.quantize_static.inc",
        "qat": "optimizer.passes.quantize_static.qat",
        "quantize.dynamic": "optimizer.passes.quantize_dynamic",
        "quantize.weights": "optimizer.passes.quantize_weights",
        "half": "optimizer.passes.half",
        "auto": "optimizer.passes.auto",
    },
    "targets": {
        "pytorch": "optimizer.targets.pytorch",
        "onnxruntime": "optimizer.targets.onnxruntime",
        "openvino": "optimizer.targets.openvino",
        "tensorrt": "optimizer.targets.tensorrt",
        "tensorrt-rtx": "optimizer.targets.tensorrt_rtx",
    },
    "sources": {
        "npz": "optimizer.sources.npz",
        "parquet": "optimizer.sources.parquet",
        "images": "optimizer.sources.images",
        "text": "optimizer.sources.text",
        "python": "optimizer.sources.python",
    },
    "metrics": {
        "top1": "optimizer.metrics.top1",
        "top5": "optimizer.metrics.top5",
        "f1": "optimizer.metrics.f1",
        "spearman": "optimizer.metrics.spearman",
        "pearson": "optimizer.metrics.pearson",
        "cosine": "optimizer.metrics.cosine",
        "agreement": "optimizer.metrics.agreement",
        "map": "optimizer.metrics.map",
        "wer": "optimizer.metrics.wer",
        "perplexity": "optimizer.metrics.perplexity",
        "python": "optimizer.metrics.python",
    },
    "layouts": {},
}


@dataclass(frozen=True)
class Entry:
    """One plugin: its name, where it lives, and why it cannot be imported, if so."""

    name: str
    module: str
    built_in: bool
    broken: str | None = None


def entries(kind: Kind) -> dict[str, Entry]:
    """All plugins of a kind by name, without importing the built-ins."""
    found = {name: Entry(name, module, True) for name, module in BUILT_IN[kind].items()}
    for point in importlib.metadata.entry_points(group=f"optimizer.{kind}"):
        if point.name in found:
            reason = f"the name '{point.name}' is taken by a built-in or another package"
            found[f"{point.name} ({point.value})"] = Entry(point.name, point.value, False, reason)
        else:
            found[point.name] = Entry(point.name, point.value, False, _import_failure(point.value))
    return found


def names(kind: Kind) -> list[str]:
    """The names that `load` accepts."""
    return sorted(name for name, entry in entries(kind).items() if entry.broken is None)


@functools.cache
def load(kind: Kind, name: str) -> Any:
    """The plugin module; raises OptimizerError for an unknown or broken plugin."""
    known = entries(kind)
    if name not in known:
        raise unknown(SINGULAR[kind], name, names(kind))
    entry = known[name]
    if entry.broken:
        raise OptimizerError(
            f"the {SINGULAR[kind]} '{name}' ({entry.module}) is broken: {entry.broken}", "repair or uninstall it"
        )
    return importlib.import_module(entry.module)


def opener(artifact_format: str) -> Any:
    """The target that opens artifacts of a format: the built-in ones first."""
    for name in BUILT_IN["targets"]:
        target = load("targets", name)
        if target.PRODUCES == artifact_format:
            return target
    raise AssertionError(f"BUG: no target opens the format '{artifact_format}'")


def _import_failure(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # the plugin loader keeps the error (DESIGN, house style 9)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def pending(target: Any, options: Any = None) -> str | None:
    """Why what a target builds cannot run here, or None; with its default options where none are given."""
    return target.pending(options or target.Options()) if hasattr(target, "pending") else None
