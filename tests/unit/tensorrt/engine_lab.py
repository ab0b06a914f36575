"""Tiny graphs for TensorRT, a folder to build them in, and machines that are not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quant_lab as lab
from onnx import TensorProto, helper, numpy_helper

from optimizer import cuda
from optimizer.protocols import Context
from optimizer.targets import tensorrt_rtx as rtx
from optimizer.values import Artifact

NEEDED = pytest.mark.skipif(rtx.probe() is not None, reason=str(rtx.probe()))
"""For tests that build: skipped with the probe's own reason."""

H100 = cuda.Gpu(0, "NVIDIA H100", "9.0", 80 << 30, 1980000, 2619000)
ADA = cuda.Gpu(0, "NVIDIA RTX 4090", "8.9", 24 << 30, 2520000, 10501000)


def node_model(
    op: str, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], kind: int = TensorProto.FLOAT, **arrays: Any
) -> Any:
    """A model of one node named after its operator; `arrays` are constants that follow the inputs."""
    node = helper.make_node(op, [*inputs, *arrays], list(outputs), name=f"the_{op.lower()}")
    kinds = dict.fromkeys([*inputs, *outputs], kind)
    return lab.model([node], inputs, outputs, lab.weights(**arrays), kinds=kinds)


def pair(zero: int = 0, kind: type[np.generic] = np.int8) -> Any:
    """A Q/DQ pair with a zero point."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dequantize"),
    ]
    tensors = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.array(zero, kind), "zero")]
    return lab.model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors)


class Built:
    """Engines that are built below a folder, with what each build wrote into the record."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: dict[str, Any] = {}
        self.warnings: list[str] = []

    def artifact(self, model: Any) -> Artifact:
        """A model as an ONNX artifact."""
        return lab.artifact(model, self.root / f"source{len(list(self.root.iterdir()))}")

    def __call__(self, source: Any, samples: tuple[Any, ...] = (), **options: Any) -> Artifact:
        """The engine of a model or of an ONNX artifact."""
        given = source if isinstance(source, Artifact) else self.artifact(source)
        out = self.root / f"engine{len(list(self.root.iterdir()))}"
        out.mkdir()
        self.notes.clear()
        self.warnings.clear()
        context = Context(note=self.notes.__setitem__, warn=self.warnings.append, samples=samples)
        rtx.run(given, rtx.Options(**options), context, out)
        from optimizer import formats

        return Artifact(rtx.PRODUCES, out, "k", "d", formats.read(rtx.PRODUCES, out), formats.size(rtx.PRODUCES, out))


def machine_with(monkeypatch: pytest.MonkeyPatch, *gpus: cuda.Gpu, reason: str | None = None) -> None:
    """Let the survey find these GPUs, or the reason why there is none."""
    found = cuda.Survey(
        gpus, "580.65.06, CUDA 13.0" if gpus else None, reason if reason or gpus else "no driver; install one"
    )
    monkeypatch.setattr(cuda, "survey", lambda: found)
