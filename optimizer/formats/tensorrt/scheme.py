"""How a graph is quantized for TensorRT, and how far an engine may lie from its graph.

Explicit quantization: symmetric int8 (or float8) pairs around inputs and float weights of products, no pair at a bias,
which the kernel adds in 32 bits; a pair is fused into the layer that makes its input, so outputs stay float (TensorRT
Developer Guide, Working with Quantized Types).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optimizer import formats
from optimizer.formats import nodes
from optimizer.formats import onnx as onnx_format
from optimizer.formats import tensorrt as tensorrt_format
from optimizer.formats.tensorrt.flavour import Flavour, lacking, order
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LIMIT = 1e-3  # float32 in the kernels of another device: sums in another order, some by Winograd's algorithm
HALF_LIMIT = 5e-2  # ONNX Runtime computes float16 graphs in 32 bits on the CPU
BFLOAT_LIMIT = 0.1  # 8 bits per number; which roundings a fused kernel leaves out is its own affair
QUANTIZED_LIMIT = 0.5  # 8-bit kernels of two runtimes round apart by single steps, which add up from layer to layer
FLOAT16, BFLOAT16 = 10, 16  # of onnx.TensorProto


def of(flavour: Flavour) -> QuantScheme:
    """The scheme of a flavour's engines."""
    return QuantScheme(
        target=flavour.name,
        format="onnx",
        activation="int8",
        activation_symmetric=True,
        quantize_bias=False,
        qdq_on_weights=True,
        ops=PRODUCTS,
        # As everywhere: attention scores and probabilities lose most in 8 bits and gain least.
        constant_weights_only=("MatMul", "Gemm"),
        float_outputs=PRODUCTS,
        static=("int8", "fp8"),
        half=("fp16", "bf16"),
    )


def on(flavour: Flavour, capabilities: Sequence[str]) -> QuantScheme:
    """The scheme of engines for GPUs of these compute capabilities: types that one of them lacks are left out."""
    found = of(flavour)
    oldest = min(capabilities, key=order, default=None)
    if oldest is None or not lacking(oldest):
        return found
    return replace(
        found,
        target=f"{flavour.name} for compute capability {oldest}",
        static=tuple(kind for kind in found.static if kind not in lacking(oldest)),
        half=tuple(kind for kind in found.half if kind not in lacking(oldest)),
    )


def oracle(artifact: Artifact) -> Artifact:
    """The ONNX model that an engine was built from, as an artifact of its own."""
    path = artifact.path / tensorrt_format.SOURCE
    return Artifact("onnx", path, artifact.key, artifact.digest, onnx_format.read(path), formats.size("onnx", path))


def limit(source: Artifact) -> float:
    """The tolerance for the engine of an ONNX artifact, by what its graph computes in."""
    model = onnx_format.parse(source.path / onnx_format.FILE)
    if nodes.paired(model):
        return QUANTIZED_LIMIT
    types = {tensor.data_type for tensor in model.graph.initializer}
    return BFLOAT_LIMIT if BFLOAT16 in types else HALF_LIMIT if FLOAT16 in types else LIMIT
