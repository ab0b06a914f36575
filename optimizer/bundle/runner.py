"""Writes run.py: the example of how to run a bundle, for a machine that has numpy and the runtime and no optc."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from optimizer.bundle.manifest import Manifest
from optimizer.errors import OptimizerError
from optimizer.formats import providers

NONE: Mapping[str, Any] = MappingProxyType({})
TEMPLATES = Path(__file__).with_name("runners")


@dataclass(frozen=True)
class Runner:
    """What a target's bundles need: the runtime's distribution and the kind of file that it opens."""

    distribution: str
    suffix: str
    template: str
    module: str = ""  # where one template serves several
    needs: tuple[str, ...] = ()  # further distributions


RUNNERS = {
    "onnxruntime": Runner("onnxruntime", ".onnx", "onnxruntime"),
    "openvino": Runner("openvino", ".xml", "openvino"),
    "tensorrt": Runner("tensorrt", ".plan", "tensorrt", "tensorrt", ("cuda-bindings",)),
    "tensorrt-rtx": Runner("tensorrt-rtx-cu13", ".plan", "tensorrt", "tensorrt_rtx", ("cuda-bindings",)),
}


def runner(target: str, options: Mapping[str, Any] = NONE) -> Runner:
    """The runner of a target with options of these; raises OptimizerError for one whose models cannot be shipped."""
    if target == "pytorch":
        raise OptimizerError(
            "a pytorch model cannot be bundled: it needs the code it was written in, which a bundle does not ship",
            "bundle it for onnxruntime or openvino",
        )
    if target not in RUNNERS:
        raise OptimizerError(
            f"the target '{target}' has no runner; bundles can be made for {', '.join(RUNNERS)}", "choose one of them"
        )
    provider = providers.PROVIDERS.get(options.get("provider", "")) if target == "onnxruntime" else None
    if provider:
        return replace(RUNNERS[target], distribution=provider.distribution, needs=provider.needs)
    return RUNNERS[target]


def script(manifest: Manifest) -> str:
    """The text of run.py."""
    names = [t.name for t in manifest.signature.inputs]
    needs = " and ".join(runner(manifest.target, manifest.runtime.options).needs)
    parts = {
        "{distribution}": manifest.runtime.distribution + (f", {needs}" if needs else ""),
        "{version}": manifest.runtime.version,
        "{example}": "{" + ", ".join(f'"{n}": {n if n.isidentifier() else "array"}' for n in names) + "}",
        "{load}": _template(runner(manifest.target).template).replace("{module}", runner(manifest.target).module),
    }
    return re.sub("|".join(map(re.escape, parts)), lambda m: parts[m[0]], _template("run"))


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.py.txt").read_text(encoding="utf-8")


def model_file(names: list[str], target: str) -> str:
    """Which of the artifact's files the runtime opens."""
    suffix = runner(target).suffix
    found = [n for n in names if n.endswith(suffix)]
    if len(found) > 1:
        found = [n for n in found if n == f"model{suffix}"]
    if len(found) != 1:
        raise AssertionError(f"BUG: no single {suffix} file in an artifact for {target}: {', '.join(names)}")
    return found[0]
