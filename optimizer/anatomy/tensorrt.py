"""A serialized engine taken apart by what lies beside it: no library and no GPU is needed to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from optimizer import cuda, formats
from optimizer.anatomy import onnx
from optimizer.anatomy.parts import Anatomy, Layer
from optimizer.formats import tensorrt as tensorrt_format
from optimizer.formats.tensorrt import engine, flavour, layers
from optimizer.formats.tensorrt import facts as engine_facts
from optimizer.formats.tensorrt.flavour import FLAVOURS


def dissect(path: Path, dims: Mapping[str, int]) -> Anatomy:
    """Layers with their types, the facts that decide where it runs, and the multiplications of its ONNX model.

    Raises OptimizerError when the engine is not whole.
    """
    told = engine_facts.load(path)
    signature = formats.read(told.flavour, path)
    source = onnx.dissect(path / tensorrt_format.SOURCE / "model.onnx", dims)
    found = layers.load(path)
    kinds = Counter(f"{layer.kind} {layer.dtype}".strip() for layer in found)
    moved = sum(layer.reformat for layer in found)
    where = f"compute capability {', '.join(told.capabilities)}{' and newer' if told.newer else ''}"
    facts = {
        "version": told.version,
        "runs on": f"{told.built_on.gpu} ({where})" if told.built_on else where,
        "precision": layers.describe(found) or told.precision(),
        "reformats": f"{moved} of {len(found)} layers",
        "profiles": "; ".join(map(str, told.ranges())) or "fixed shapes",
        "runs here": _here(told),
    }
    return replace(
        source,
        kind=f"{FLAVOURS[told.flavour].title} engine",
        signature=signature,
        operators=dict(kinds.most_common()),
        facts=facts,
        layers=tuple(
            Layer(x.name, x.kind, "+".join(dict.fromkeys(x.inputs)), "+".join(dict.fromkeys(x.outputs)), x.nodes)
            for x in found
        ),
    )


def _here(told: engine_facts.Facts) -> str:
    """Whether the engine runs on this machine, else why not and what to do."""
    own, gpus = FLAVOURS[told.flavour], cuda.survey().gpus
    misfit = engine.misfit(told, own, own.version(), gpus[0] if gpus else None)
    reason = f"{misfit}; {engine.REBUILD}" if misfit else flavour.absent(own) or flavour.unrunnable(own)
    return f"no: {reason}" if reason else "yes"
