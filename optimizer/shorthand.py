"""The common case without a file: command line flags -> the recipe document they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optimizer.errors import OptimizerError, unknown
from optimizer.recipe import Recipe, parse

MODEL_SUFFIXES = (".onnx", ".pt2", ".pt", ".pth", ".torchscript", ".ts")
PRECISIONS: dict[str, list[Any]] = {
    "fp32": [],
    "fp16": [{"half": {"dtype": "fp16"}}],
    "bf16": [{"half": {"dtype": "bf16"}}],
    "int8": ["quantize.static"],
    "int8-fp16": ["quantize.static", {"half": {"dtype": "fp16"}}],
    "int8-dynamic": ["quantize.dynamic"],
    "int8-weights": [{"quantize.weights": {"bits": 8}}],
    "fp8": [{"quantize.static": {"dtype": "fp8"}}],
    "int4": ["quantize.weights"],
}


@dataclass(frozen=True)
class Flags:
    """What `optc build MODEL` was told."""

    model: str
    weights: str | None = None
    hf_task: str | None = None
    inputs: Sequence[str] = ()  # name=dtype[dims]
    data: str | None = None  # to calibrate with
    evaluate: str | None = None  # default: the same data
    label: str | None = None
    metrics: Sequence[str] = ()
    targets: Sequence[str] = ()
    precisions: Sequence[str] = ()
    max_drop: str | None = None
    min_speedup: str | None = None


def is_model(reference: str) -> bool:
    """Whether a reference names a model and not a recipe; decided by spelling alone."""
    if reference.endswith((".yaml", ".yml")):
        return False
    return ":" in reference or reference.endswith(MODEL_SUFFIXES) or reference.startswith(("./", "../", "/"))


def document(flags: Flags) -> dict[str, Any]:
    """The recipe document of the flags; raises OptimizerError where they do not make sense together."""
    for precision in flags.precisions:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
    metrics = list(flags.metrics) or (["top1"] if flags.label else [])
    if flags.max_drop and not metrics:
        raise OptimizerError(
            f"--max-drop {flags.max_drop} needs a metric to judge", "add --label COLUMN (for top1), or --metric NAME"
        )
    found: dict[str, Any] = {
        "schema": 1,
        "model": _model(flags),
        "data": _data(flags),
        "variants": {"fp32": [], **{p: PRECISIONS[p] for p in flags.precisions}},
        "targets": list(flags.targets) or ["onnxruntime"],
        "baseline": "fp32",
        "measure": {"metrics": metrics},
        "gates": [f"{m} drop <= {flags.max_drop}" for m in metrics if flags.max_drop],
    }
    if flags.min_speedup:
        found["gates"].append(f"latency.p50 speedup >= {flags.min_speedup}")
    return found


def _model(flags: Flags) -> dict[str, Any]:
    model: dict[str, Any] = {}
    if flags.model.endswith(MODEL_SUFFIXES):
        model["file"] = flags.model
    elif ":" in flags.model and not flags.model.startswith("python:"):
        model["entry"] = flags.model
    else:
        model["hf"] = flags.model
    if flags.weights:
        model["weights"] = flags.weights
    if flags.hf_task:
        model["task"] = flags.hf_task
    if flags.inputs:
        pairs = [text.partition("=") for text in flags.inputs]
        bad = [name for name, equals, spec in pairs if not (name and equals and spec)]
        if bad:
            raise OptimizerError(f"--input {bad[0]}: cannot be read", "write --input 'image=float32[batch,3,224,224]'")
        model["inputs"] = {name: spec for name, _, spec in pairs}
    return model


def _data(flags: Flags) -> dict[str, Any]:
    given = {"calibrate": flags.data, "evaluate": flags.evaluate or flags.data}
    if not flags.label:
        return {role: reference for role, reference in given.items() if reference}
    return {role: {"ref": reference, "label": flags.label} for role, reference in given.items() if reference}


def narrowed(recipe: Recipe, variants: Sequence[str], targets: Sequence[str]) -> Recipe:
    """The recipe with only these variants (its baseline kept) and targets; empty means all.

    A target that the recipe does not list is taken with its default options.
    """
    for name in variants:
        if name not in recipe.variants:
            raise unknown("variant", name, recipe.variants, where=f"recipe '{recipe.name}'")
    baseline, _, on = (recipe.baseline or "").partition("@")
    if targets and on and on not in targets:
        raise OptimizerError(
            f"recipe '{recipe.name}': its baseline '{recipe.baseline}' is on a target that --target leaves out",
            f"add --target {on}, or extend the recipe in a file with another baseline",
        )
    kept = {*variants, baseline}
    listed = {use.name: {use.name: use.options} for use in recipe.targets}
    changes: dict[str, Any] = {}
    if variants:
        written = recipe.document().get("variants", {})
        changes["variants"] = {n: uses for n, uses in written.items() if n in kept}
    if targets:
        left = changes.get("variants", recipe.document().get("variants"))
        changes |= {"variants": {name: _on(found, targets) for name, found in left.items()}} if left else {}
        changes["targets"] = [listed.get(name, name) for name in targets]
    return _changed(recipe, changes)


def _on(variant: Any, targets: Sequence[str]) -> Any:
    """A variant with steps per target, of these targets; as it is where it has none of them: the planner says so."""
    if not isinstance(variant, dict):
        return variant
    return {name: own for name, own in variant.items() if name in targets} or variant


def adjusted(recipe: Recipe, gates: Sequence[str], bundle: str | None) -> Recipe:
    """The recipe with more gates, and another choice of what to bundle."""
    changes: dict[str, Any] = {"gates": [*recipe.gates, *gates]} if gates else {}
    return _changed(recipe, {**changes, "bundle": bundle} if bundle else changes)


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    if not changes:
        return recipe
    return parse({**recipe.document(), **changes}, f"recipe '{recipe.name}' with flags", recipe.base)
