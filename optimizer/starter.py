"""The first recipe for a model: written by looking at it, commented, and valid once the data paths are filled in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from optimizer import formats, recipe, registry, sketch
from optimizer.recipe import ModelSpec
from optimizer.values import Signature, TensorSpec

TEXT_DATA = """\
data:
  # A .tsv or .csv file with the text in a column named text, and the class (if any) in a column named label.
  calibrate: &data
    source: {{text: {{path: calibration.tsv}}}}
    transforms:
      - tokenize: {{tokenizer: {tokenizer}, columns: [text], max_length: 128, outputs: [{outputs}]}}
  evaluate: {{<<: *data, source: {{text: {{path: evaluation.tsv}}}}{label}}}
"""
ARRAY_DATA = """\
data:
  # An .npz file holds one array per input ({inputs}), one example per row{label}.
  # Also understood: .parquet, .csv and .tsv files, ./folders/ of pictures, and shipped cards (optc list cards).
  calibrate: calibration.npz   # some hundred real examples, prepared as in training
  evaluate: evaluation.npz     # examples that the model was not trained on
"""


@dataclass(frozen=True)
class Start:
    """What was learnt about a model."""

    spec: ModelSpec
    signature: Signature
    guessed: bool

    @property
    def classifies(self) -> bool:
        """Whether the first output looks like one score per class."""
        shape = self.signature.outputs[0].shape
        task = self.spec.task or ""
        scores = len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1
        return "classification" in task or (scores and "embedding" not in self.signature.outputs[0].name)


def start(model: str, inputs: dict[str, str], weights: Path | None, task: str | None) -> Start:
    """Load a model as a build would, and see what it takes and returns."""
    spec, guessed = sketch.specification(model, inputs, weights, task)
    with tempfile.TemporaryDirectory(prefix="optc-init-") as folder:
        sketch.load(spec, Path(folder))
        plugin = registry.load("passes", "load")
        return Start(spec, formats.read(plugin.produces(spec), Path(folder)), guessed)


def text(found: Start, path: Path) -> str:
    """The recipe as YAML with comments, its paths as seen from the folder of `path`."""
    base = path.resolve().parent
    metric = "top1" if found.classifies else "cosine"
    gate = "top1 drop <= 0.5pp" if found.classifies else "cosine >= 0.99"
    parts = [
        f"# {path.stem}: written by optc init. Fill in the data, then: optc plan {path.name}, optc build {path.name}",
        "schema: 1",
        _model(found, base),
        _data(found, base),
        "variants:",
        "  fp32: []                 # the model as it is",
        "  int8: [quantize.static]  # also: quantize.dynamic, half, and their options (optc list passes --options)",
        f"targets: [{', '.join(_targets())}]  # usable here; optc doctor says what others need",
        "baseline: fp32             # what drops and speed-ups are against",
        "measure:",
        f"  metrics: [{metric}]",
        _latency(found),
        "gates:                     # the build passes only when all of these hold",
        f"  - {gate}",
        "  - latency.p50 speedup >= 1.2x",
        "  - size ratio <= 0.5",
    ]
    written = "\n".join(part.rstrip("\n") for part in parts) + "\n"
    recipe.parse(yaml.safe_load(written), str(path), base)  # it never leaves here broken
    return written


def _model(found: Start, base: Path) -> str:
    spec, lines = found.spec, ["model:"]
    if spec.entry:
        place, _, name = spec.entry.rpartition(":")
        lines.append(f"  entry: {_quoted(f'{_relative(place, base)}:{name}' if place.endswith('.py') else spec.entry)}")
    for key, file in (("weights", spec.weights), ("file", spec.file), ("hf", spec.hf)):
        lines += [f"  {key}: {_quoted(_relative(str(file), base))}"] if file else []
    if spec.entry and not spec.weights:
        lines.append(
            "  # weights: weights.safetensors   # or .pt/.pth with a state dict; without it the weights are random"
        )
    lines += [f"  task: {spec.task}"] if spec.task else []
    if spec.inputs:
        doubt = "   # guessed, and accepted by the model: check it" if found.guessed else ""
        listed = ", ".join(f"{name}: {_quoted(text)}" for name, text in spec.inputs.items())
        lines.append(f"  inputs: {{{listed}}}{doubt}")
    else:
        lines.append(f"  # takes    {_listed(found.signature.inputs)}")
    lines.append(f"  # returns  {_listed(found.signature.outputs)}")
    lines.append("  # license: of the weights, copied into bundles")
    return "\n".join(lines)


def _data(found: Start, base: Path) -> str:
    names = [spec.name for spec in found.signature.inputs]
    if found.spec.hf and "input_ids" in names:
        label = ", label: label" if found.classifies else ""
        return TEXT_DATA.format(tokenizer=_relative(str(found.spec.hf), base), outputs=", ".join(names), label=label)
    label = ",\n  # and the class of each example as the array 'label'" if found.classifies else ""
    return ARRAY_DATA.format(inputs=", ".join(names), label=label)


def _latency(found: Start) -> str:
    free = [name for name in found.signature.symbols() if name != found.signature.batch_symbol()]
    dims = f", dims: {{{', '.join(f'{name}: 128' for name in free)}}}" if free else ""
    return f"  latency: {{batch: [1], seconds: 10, restarts: 4, threads: 1{dims}}}"


def _targets() -> list[str]:
    """The targets that build and run here; one that only builds would leave every build inconclusive."""
    found = [name for name in registry.names("targets") if name != "pytorch" and _runs(registry.load("targets", name))]
    return sorted(found, key=lambda name: name != "onnxruntime")


def _runs(target: Any) -> bool:
    return target.probe() is None and registry.pending(target) is None


def _relative(file: str, base: Path) -> str:
    """As seen from `base`, unless that leads far up."""
    found = os.path.relpath(file, base)
    return os.path.abspath(file) if found.startswith("../../../") else found  # noqa: PTH100  # links are kept as written


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in specs)
