"""Tiny seeded ONNX graphs and a data set that counts what it hands out, for tests of quantization and targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimizer.formats import onnx as onnx_format
from optimizer.passes import quantize_static
from optimizer.protocols import Batch, Context, Feeds
from optimizer.scheme import QuantScheme
from optimizer.targets import onnxruntime as ort_target
from optimizer.targets import openvino as openvino_target
from optimizer.targets import tensorrt as tensorrt_target
from optimizer.values import Artifact

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
WIDTH = 72  # of `block`: no multiple of a group
ORT, OPENVINO, TENSORRT = ort_target.SCHEME, openvino_target.SCHEME, tensorrt_target.SCHEME


def weights(**arrays: np.ndarray) -> list[Any]:
    return [numpy_helper.from_array(a, n) for n, a in arrays.items()]


def model(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    tensors: list[Any],
    kinds: dict[str, int] | None = None,
    opset: int = 20,
) -> Any:
    """A model of these nodes; inputs and outputs are float unless `kinds` says otherwise."""

    def values(shapes: dict[str, list[Any]]) -> list[Any]:
        return [helper.make_tensor_value_info(n, (kinds or {}).get(n, FLOAT), s) for n, s in shapes.items()]

    graph = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def convnet(batch: str | int = "batch", opset: int = 20, norm: bool = False) -> Any:
    """Conv, (BatchNorm,) Relu, Conv, Add with a shortcut, Relu, pool, Gemm; weights are named after modules."""
    random = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype("float32") / np.float32(np.sqrt(np.prod(shape[1:]) or 1))

    tensors = {"conv1.weight": normal(8, 3, 3, 3), "conv2.weight": normal(8, 8, 3, 3), "linear.weight": normal(4, 8)}
    tensors |= {"conv1.bias": normal(8), "conv2.bias": normal(8), "linear.bias": normal(4)}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], name="node_conv1", **pads)]
    if norm:
        tensors |= {"scale": normal(8) + 1, "shift": normal(8), "mean": normal(8), "var": normal(8) ** 2 + 1}
        nodes.append(helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["b1"], name="bn"))
    nodes += [
        helper.make_node("Relu", ["b1" if norm else "c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], name="node_conv2", **pads),
        helper.make_node("Add", ["c2", "r1"], ["a2"], name="add"),
        helper.make_node("Relu", ["a2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "linear.weight", "linear.bias"], ["logits"], name="head", transB=1),
    ]
    return model(nodes, {"image": [batch, 3, 8, 8]}, {"logits": [batch, 4]}, weights(**tensors), opset=opset)


def write_labelled(folder: Path) -> None:
    """`net.onnx`, a `convnet`, and `data.npz`: 64 random images for it with a label each."""
    random = np.random.default_rng(1)
    images = random.standard_normal((64, 3, 8, 8)).astype(np.float32)
    onnx.save(convnet(), folder / "net.onnx")
    np.savez(folder / "data.npz", image=images, label=random.integers(0, 4, 64))


def attention(mask: float = float(np.finfo(np.float32).min)) -> Any:
    """Tokens, an embedding, one attention head with an additive mask, a product: (n, 5) int64 -> (n, 5, 8)."""
    random = np.random.default_rng(5)
    square = {f"{n}.weight": random.standard_normal((8, 8)).astype("float32") / 3 for n in ("query", "key", "out")}
    table = random.standard_normal((20, 8)).astype("float32")
    hidden = np.triu(np.full((5, 5), np.float32(mask)), k=1)
    nodes = [
        helper.make_node("Gather", ["table.weight", "tokens"], ["x"], name="embed"),
        helper.make_node("MatMul", ["x", "query.weight"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "key.weight"], ["k"], name="key"),
        helper.make_node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="score"),
        helper.make_node("Add", ["scores", "hidden"], ["masked"], name="mask"),
        helper.make_node("Softmax", ["masked"], ["probabilities"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["probabilities", "x"], ["mixed"], name="mix"),
        helper.make_node("MatMul", ["mixed", "out.weight"], ["y"], name="out"),
    ]
    tensors = weights(**square, **{"table.weight": table, "hidden": hidden})
    return model(nodes, {"tokens": ["n", 5]}, {"y": ["n", 5, 8]}, tensors, kinds={"tokens": INT64})


def block(width: int = WIDTH, seed: int = 7) -> Any:
    """Tokens, a table, a normalization that two products read, a Gemm with alpha and beta, a head tied to the table."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype("float32")

    tensors = {"table.weight": normal(40, width) * 3, "scale": 1 + normal(width), "shift": normal(width)}
    tensors |= {"up.weight": normal(width, 96), "gate.weight": normal(width, 96)}
    tensors |= {"down.weight": normal(width, 96), "down.bias": normal(width), "flat": np.array([-1, 96])}
    tensors["back"] = np.array([-1, 5, width])
    nodes = [
        helper.make_node("Gather", ["table.weight", "tokens"], ["x"], name="embed"),
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], name="norm", axis=-1),
        helper.make_node("MatMul", ["n", "up.weight"], ["u"], name="up"),
        helper.make_node("MatMul", ["n", "gate.weight"], ["g"], name="gate"),
        helper.make_node("Sigmoid", ["g"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["u", "s"], ["m"], name="mul"),
        helper.make_node("Reshape", ["m", "flat"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "down.weight", "down.bias"], ["d"], name="down", transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Reshape", ["d", "back"], ["b"], name="unflatten"),
        helper.make_node("Add", ["x", "b"], ["r"], name="residual"),
        helper.make_node("Transpose", ["table.weight"], ["head.weight"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["r", "head.weight"], ["logits"], name="head"),
    ]
    kinds = {"tokens": INT64}
    return model(nodes, {"tokens": ["n", 5]}, {"logits": ["n", 5, 40]}, weights(**tensors), kinds=kinds)


def chain(spread: float = 30.0, dead: bool = False) -> Any:
    """Conv, Relu, depthwise Conv, LeakyRelu, strided Conv, mean, Gemm, Relu, Gemm, whose channels differ by `spread`.

    `dead`: one channel of the first convolution has no weights, one of the last but one layer is never read.
    """
    random = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return (values * spread ** random.uniform(-0.5, 0.5, (shape[0], *[1] * (len(shape) - 1)))).astype("float32")

    tensors = {"a.weight": normal(8, 3, 3, 3), "b.weight": normal(8, 1, 3, 3), "c.weight": normal(12, 8, 3, 3)}
    tensors |= {"d.weight": normal(10, 12), "e.weight": normal(10, 4), "axes": np.array([2, 3])}
    tensors |= {
        f"{n}.bias": (random.standard_normal(k) / 5).astype("float32")
        for n, k in zip("abcd", (8, 8, 12, 10), strict=True)
    }
    if dead:
        tensors["a.weight"][2], tensors["e.weight"][3] = 0, 0
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "a.weight", "a.bias"], ["a"], name="a", **pads),
        helper.make_node("Relu", ["a"], ["ra"], name="relu_a"),
        helper.make_node("Conv", ["ra", "b.weight", "b.bias"], ["b"], name="b", group=8, **pads),
        helper.make_node("LeakyRelu", ["b"], ["rb"], name="leaky", alpha=0.1),
        helper.make_node("Conv", ["rb", "c.weight", "c.bias"], ["c"], name="c", strides=[2, 2], **pads),
        helper.make_node("ReduceMean", ["c", "axes"], ["m"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["m", "d.weight", "d.bias"], ["d"], name="d", transB=1),
        helper.make_node("Relu", ["d"], ["rd"], name="relu_d"),
        helper.make_node("MatMul", ["rd", "e.weight"], ["logits"], name="e"),
    ]
    return model(nodes, {"image": ["batch", 3, 8, 8]}, {"logits": ["batch", 4]}, weights(**tensors))


def prenorm(outlier: float = 40.0) -> Any:
    """A block that normalizes first, (n, 6, 16) float: query, key and value share an input with an outlier channel.

    A gated layer follows, silu(gate) * up -> down, and both read the second normalization.
    """
    random = np.random.default_rng(11)
    square = {n: random.standard_normal((16, 16)).astype("float32") / 4 for n in ("q", "k", "v", "gate", "up", "down")}
    tensors = {f"{n}.weight": a for n, a in square.items()}
    tensors |= {f"norm{i}.scale": random.uniform(0.5, 1.5, 16).astype("float32") for i in (1, 2)}
    tensors |= {f"norm{i}.bias": random.standard_normal(16).astype("float32") / 5 for i in (1, 2)}
    tensors["norm1.scale"][5] *= outlier
    for name in "qkv":
        tensors[f"{name}.weight"][5] /= outlier
    tensors["q.bias"] = random.standard_normal(16).astype("float32")
    nodes = [
        helper.make_node("LayerNormalization", ["x", "norm1.scale", "norm1.bias"], ["n1"], name="norm1", axis=-1),
        helper.make_node("MatMul", ["n1", "q.weight"], ["q0"], name="q"),
        helper.make_node("Add", ["q0", "q.bias"], ["q1"], name="q_bias"),
        helper.make_node("MatMul", ["n1", "k.weight"], ["k1"], name="k"),
        helper.make_node("MatMul", ["n1", "v.weight"], ["v1"], name="v"),
        helper.make_node("Transpose", ["k1"], ["kt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q1", "kt"], ["scores"], name="score"),
        helper.make_node("Softmax", ["scores"], ["shares"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "v1"], ["mixed"], name="mix"),
        helper.make_node("Add", ["x", "mixed"], ["h"], name="residual"),
        helper.make_node("LayerNormalization", ["h", "norm2.scale", "norm2.bias"], ["n2"], name="norm2", axis=-1),
        helper.make_node("MatMul", ["n2", "gate.weight"], ["g"], name="gate"),
        helper.make_node("Sigmoid", ["g"], ["sg"], name="sigmoid"),
        helper.make_node("Mul", ["g", "sg"], ["silu"], name="silu"),
        helper.make_node("MatMul", ["n2", "up.weight"], ["u"], name="up"),
        helper.make_node("Mul", ["silu", "u"], ["gated"], name="product"),
        helper.make_node("MatMul", ["gated", "down.weight"], ["y"], name="down"),
    ]
    return model(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 16]}, weights(**tensors))


@dataclass
class Data:
    """Examples in memory; remembers the size of every batch that it gave."""

    feeds: dict[str, np.ndarray]
    views: int = 1
    given: list[int] = field(default_factory=list)
    name: str = "tiny"
    digest: str = "0"

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values()))) // self.views

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        count = min(len(self), len(self) if limit is None else limit)
        for start in range(0, count, size):
            rows = slice(start * self.views, min(start + size, count) * self.views)
            self.given.append(min(start + size, count) - start)
            yield Batch({n: a[rows] for n, a in self.feeds.items()}, None, np.arange(start, start + size), self.views)


def images(count: int = 32, seed: int = 0, views: int = 1) -> Data:
    return Data({"image": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype("float32")}, views)


def vectors(count: int = 32, seed: int = 2) -> Data:
    return Data({"x": np.random.default_rng(seed).standard_normal((count, 6, 16)).astype("float32")})


def tokens(count: int = 32) -> Data:
    return Data({"tokens": np.random.default_rng(1).integers(0, 20, (count, 5))})


def words(count: int = 64) -> Data:
    return Data({"tokens": np.random.default_rng(1).integers(0, 40, (count, 5))})


def artifact(built: Any, folder: Path) -> Artifact:
    """The model as an artifact in the format onnx."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(built, folder / onnx_format.FILE)
    return opened("onnx", folder, onnx_format.read(folder))


def opened(kind: str, folder: Path, signature: Any) -> Artifact:
    return Artifact(kind, folder, "key", "digest", signature, sum(f.stat().st_size for f in folder.iterdir()))


def lowered(source: Artifact, folder: Path) -> Artifact:
    """The artifact as OpenVINO IR."""
    folder.mkdir(parents=True)
    openvino_target.run(source, openvino_target.Options(), Context(), folder)
    return opened("openvino", folder, source.signature)


@dataclass
class Bench:
    """Runs a pass and keeps what it noted and warned of."""

    root: Path
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)

    def run(
        self, plugin: Any, source: Artifact, scheme: QuantScheme | None, data: Data | None = None, **options: Any
    ) -> Artifact:
        out = self.root / f"out{len(list(self.root.glob('out*')))}"
        out.mkdir(parents=True)
        context = Context(
            data={"calibrate": data} if data else {},
            scheme=scheme,
            note=self.notes.__setitem__,
            warn=self.warnings.append,
            progress=lambda done, total: self.steps.append((done, total)),
        )
        plugin.run(source, plugin.Options(**options), context, out)
        return opened(source.format, out, source.signature)

    def static(self, source: Artifact, scheme: QuantScheme = ORT, data: Data | None = None, **options: Any) -> Artifact:
        return self.run(quantize_static, source, scheme, data or images(), **options)


def outputs(found: Artifact, feeds: Feeds) -> dict[str, np.ndarray]:
    target = openvino_target if found.format == "openvino" else ort_target
    with target.open(found, target.Options(threads=1)) as session:
        return session(feeds)


def precision(found: Artifact) -> str:
    target = openvino_target if found.format == "openvino" else ort_target
    with target.open(found, target.Options(threads=1)) as session:
        return session.precision


def error(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """Largest difference relative to the largest value."""
    return max(float(np.abs(found[n] - a).max() / np.abs(a).max()) for n, a in expected.items())


def op_types(found: Artifact) -> list[str]:
    return [node.op_type for node in onnx_format.load(found.path).graph.node]


def quantized_inputs(found: Artifact, names: Sequence[str]) -> dict[str, bool]:
    """Whether the first two inputs of each named node are dequantized."""
    graph = onnx_format.load(found.path).graph
    restored = {name for n in graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    return {n.name: set(n.input[:2]) <= restored for n in graph.node if n.name in names}
