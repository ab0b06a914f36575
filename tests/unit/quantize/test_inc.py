"""quantize.inc: what Neural Compressor quantized in PyTorch, as each target's kernels want it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import inc_models
import numpy as np
import onnx
import pytest
import torch
from quant_lab import ORT, TENSORRT, Data, images, model, opened, outputs, vectors, weights

from optimizer import formats, samples, schema
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats.tensorrt import pairs
from optimizer.formats.torch import open_model
from optimizer.passes import load
from optimizer.passes.quantize_static import inc
from optimizer.passes.quantize_static.inc import settle
from optimizer.protocols import Context
from optimizer.recipe import ModelSpec
from optimizer.scheme import QuantScheme
from optimizer.targets import pytorch as pytorch_target
from optimizer.values import Artifact

INPUTS = {
    "Picture": {"image": "float32[batch,3,8,8]"},
    "Sequence": {"x": "float32[batch,6,16]"},
    "Plain": {"x": "float32[batch,6,16]"},
    "Bounded": {"x": "float32[batch,length,16]"},
}


class Lab:
    """Loads models of inc_models and quantizes them; keeps what was noted and warned of."""

    def __init__(self, root: Path) -> None:
        self.root, self.notes, self.warnings = root, {}, []

    def load(self, name: str, **more: object) -> Artifact:
        given = {"entry": f"{inc_models.__file__}:{name}", "inputs": INPUTS[name], **more}
        out = self.folder()
        load.run(None, schema.parse(ModelSpec, given, "model", self.root), Context(), out)
        return opened("torch", out, formats.read("torch", out))

    def quantize(
        self, source: Artifact, scheme: QuantScheme = ORT, data: Data | None = None, **options: object
    ) -> Artifact:
        out = self.folder()
        context = Context(
            data={"calibrate": data or (images() if "image" in source.signature.inputs[0].name else vectors())},
            scheme=scheme, samples=samples.made(source.signature, 0).feeds,
            note=self.notes.__setitem__, warn=self.warnings.append,
        )  # fmt: skip
        inc.run(source, schema.parse(inc.Options, options, "step"), context, out)
        return opened("onnx", out, onnx_format.read(out))

    def folder(self) -> Path:
        out = self.root / f"step{len(list(self.root.glob('step*')))}"
        out.mkdir()
        return out


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    pytest.importorskip("neural_compressor")
    return Lab(tmp_path)


def fused(found: Artifact) -> Counter[str]:
    """The operators that ONNX Runtime makes of a graph."""
    file = found.path / "fused.onnx"
    onnx_format.inference_session(
        found.path, 1, "extended", configure=lambda o: setattr(o, "optimized_model_filepath", str(file))
    )
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_products_of_a_sequence_run_in_integers_near_the_float_model(lab: Lab) -> None:
    source = lab.load("Sequence")
    found = lab.quantize(source)
    assert lab.notes["quantized"] == {"MatMul": 2}
    assert fused(found)["MatMulIntegerToFloat"] == 2, "weights were transposed as integers, no Transpose is left"
    feeds = vectors(8, seed=9).feeds
    wanted, got = open_model(source.path)(feeds), outputs(found, feeds)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert 0 < np.abs(got[name] - value).max() < 0.06 * np.abs(value).max()
    assert [s.shape for s in found.signature.inputs] == [("batch", 6, 16)]


def test_biases_of_convolutions_are_integers_where_kernels_add_them(lab: Lab) -> None:
    found = lab.quantize(lab.load("Picture"))
    assert lab.notes["quantized"] == {"Conv": 2, "Gemm": 1}
    graph = onnx_format.load(found.path).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    makers = {o: n for n in graph.node for o in n.output}
    for node in (n for n in graph.node if n.op_type in ("Conv", "Gemm")):
        assert [kinds[makers[name].input[0]] for name in node.input[1:]] == [
            onnx.TensorProto.INT8,
            onnx.TensorProto.INT32,
        ]
    assert fused(found)["QLinearConv"] >= 1, "the convolution whose output is quantized"
    assert "BatchNormalization" not in {n.op_type for n in graph.node}
    assert lab.notes["apart"]["onnx from torch"] < inc.LIMIT_APART


def test_a_target_that_wants_float_weights_behind_pairs_gets_them(lab: Lab) -> None:
    found = lab.quantize(lab.load("Picture"), TENSORRT)
    found_model = onnx_format.load(found.path)
    assert pairs.refused(found_model) == pairs.unused(found_model) == []
    makers = {o: n for n in found_model.graph.node for o in n.output}
    floats = {t.name for t in found_model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    for node in (n for n in found_model.graph.node if n.op_type in ("Conv", "Gemm")):
        quantize = makers[makers[node.input[1]].input[0]]
        assert quantize.op_type == "QuantizeLinear" and quantize.input[0] in floats
        assert node.input[2] in floats, "no bias in int32"


def test_modules_are_kept_by_name_and_class(lab: Lab) -> None:
    source = lab.load("Picture")
    lab.quantize(source, keep=["second"])
    assert (lab.notes["quantized"], lab.notes["kept"]) == ({"Conv": 1, "Gemm": 1}, ["second"])
    lab.quantize(source, keep=["op:Conv2d"], method="kl")
    assert lab.notes["quantized"] == {"Gemm": 1}
    with pytest.raises(OptimizerError, match=r"quantize.inc: keep: the selector 'thrid' matches none"):
        lab.quantize(source, keep=["thrid"])
    with pytest.raises(OptimizerError, match="quantized nothing in this model"):
        lab.quantize(source, keep=["*"])


def test_what_it_cannot_take_is_told(lab: Lab) -> None:
    with pytest.raises(OptimizerError, match="quantized nothing in this model"):
        lab.quantize(lab.load("Plain"))
    script = lab.root / "net.pt"
    torch.jit.script(inc_models.Sequence()).save(str(script))
    out = lab.folder()
    given = {"file": script, "inputs": INPUTS["Sequence"]}
    load.run(None, schema.parse(ModelSpec, given, "model", lab.root), Context(), out)
    with pytest.raises(OptimizerError, match="a TorchScript archive has none"):
        lab.quantize(opened("torch", out, formats.read("torch", out)))


def test_a_dimension_that_ends_has_to_be_given_its_range(lab: Lab) -> None:
    with pytest.raises(OptimizerError, match="in the specified range") as caught:
        lab.quantize(lab.load("Bounded"))
    assert "model: {dims: {NAME: [least, largest]}}" in str(caught.value.hint)
    lab.quantize(lab.load("Bounded", dims={"length": [2, 12]}))
    assert lab.notes["quantized"] == {"MatMul": 1}


def test_few_samples_are_warned_of(lab: Lab) -> None:
    lab.quantize(lab.load("Sequence"), samples=3)
    assert any("only 3 calibration samples" in text for text in lab.warnings)


def test_the_module_itself_is_not_for_it() -> None:
    assert "pytorch runs the module itself" in str(inc.refuse(inc.Options(), pytorch_target.SCHEME))
    assert "no kernels for static int8" in str(inc.refuse(inc.Options(), replace(ORT, static=())))
    assert inc.refuse(inc.Options(), ORT) is None
    assert "leave one of the two out" in str(inc.refuse_after(["qat"], ORT))


@pytest.mark.parametrize(("bias", "stored"), [(0.5, True), (1e9, False)])
def test_a_bias_beyond_32_bits_stays_a_float(bias: float, stored: bool) -> None:
    import onnx_ir
    from onnx import helper

    tensors = weights(
        w=np.full((2, 3), 0.01, np.float32), ws=np.full(2, 1e-4, np.float32), wz=np.zeros(2, np.int8),
        xs=np.float32(0.01), xz=np.uint8(128), b=np.full(2, bias, np.float32),
    )  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "b"], ["y"], transB=1),
    ]
    graph = onnx_ir.from_proto(model(nodes, {"x": ["n", 3]}, {"y": ["n", 2]}, tensors))
    assert settle.settle(graph, ORT) == {"Gemm": 1}
    gemm = next(node for node in graph.graph if node.op_type == "Gemm")
    assert (gemm.inputs[2].producer() is not None) == stored
    assert gemm.inputs[1].producer().inputs[0].const_value.numpy().dtype == np.int8
