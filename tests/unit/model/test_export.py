"""Export: what comes out is the model under the signature's names, at every size, or nothing at all."""

from __future__ import annotations

from collections import Counter

import models
import numpy as np
import onnx
import pytest
import torch
from conftest import MODELS

from optimizer import samples
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_names
from optimizer.formats.feeds import synthetic_feeds
from optimizer.passes import export
from optimizer.values import Check

IMAGE = {"image": "float32[batch,3,16,16]"}
VECTOR = {"x": "float32[batch,8]"}
TOKENS = {"input_ids": "int64[batch,sequence]", "attention_mask": "int64[batch,sequence]"}


def operators(path) -> Counter[str]:
    return Counter(node.op_type for node in onnx_format.parse(path / "model.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("OptionA", {"inputs": IMAGE}),
        ("TwoInputs", {"inputs": {"left": "float32[batch,4]", "right": "float32[batch,3]"}}),
        ("TokenEncoder", {"inputs": TOKENS, "dims": {"sequence": [1, 64]}}),
        ("Detector", {"inputs": {"image": "float32[batch,3,height,width]"}}),
    ],
)
def test_every_kind_of_model_by_the_first_exporter(bench, name, spec):
    source = bench.model(name, **spec)
    found = bench.export(source)
    assert found.signature.inputs == source.signature.inputs
    assert [s.name for s in found.signature.outputs] == [s.name for s in source.signature.outputs]
    assert bench.notes["exporter"] == "dynamo" and not bench.warnings


def test_recurrent_layers_stay_one_operator_in_every_export_of_a_process(bench):
    source = bench.model("Recurrent", inputs={"tokens": "int64[batch,length]"})
    for _ in range(2):
        found = bench.export(source)
        assert operators(found.path)["LSTM"] == 1
        assert found.signature.inputs == source.signature.inputs and bench.notes["exporter"] == "dynamo"
        assert [s.name for s in found.signature.outputs] == [s.name for s in source.signature.outputs]
        assert not bench.warnings


@pytest.mark.parametrize(("name", "inputs"), [("ConvNet", IMAGE), ("Detector", IMAGE), ("TokenEncoder", TOKENS)])
def test_the_second_exporter_gives_the_same_signature(bench, name, inputs):
    source = bench.model(name, inputs=inputs, dims={"sequence": [1, 64]} if inputs is TOKENS else {})
    found = bench.export(source, exporter="torchscript")
    assert found.signature.inputs == source.signature.inputs
    assert [s.name for s in found.signature.outputs] == [s.name for s in source.signature.outputs]


def test_weights_keep_the_names_of_the_module_and_nodes_no_local_paths(bench):
    found = bench.export(bench.model("MLP", inputs=VECTOR))
    data = (found.path / "model.onnx").read_bytes()
    names = {tensor.name for tensor in onnx_format.parse(found.path / "model.onnx").graph.initializer}
    assert names == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert str(MODELS).encode() not in data and b"stack_trace" not in data


def test_the_other_exporter_is_tried_and_the_first_reason_kept(bench):
    source = bench.model("FlatAttention", inputs={"x": "float32[batch,length,8]"})
    bench.export(source)
    assert bench.notes["exporter"] == "torchscript"
    assert "only 4D" in bench.notes["failed.dynamo"]


def test_both_reasons_are_in_the_error_and_name_the_operator(bench):
    with pytest.raises(OptimizerError) as caught:
        bench.export(bench.model("Unsupported", inputs=VECTOR))
    assert "dynamo: the operator aten.linalg_eig" in caught.value.message
    assert "torchscript: the operator aten::linalg_eig" in caught.value.message


def test_control_flow_that_depends_on_values_names_the_users_line(bench):
    source = bench.model("Branching", inputs=VECTOR)
    number = 1 + MODELS.read_text().splitlines().index("        if y.sum() > 0:")
    with pytest.raises(OptimizerError, match=rf"{MODELS}, line {number}: if y.sum\(\) > 0:"):
        bench.export(source)
    bench.export(source, exporter="torchscript", tolerance=10.0)
    assert f"{MODELS}, line {number}" in bench.warnings[0]


def test_a_scripted_branch_is_exported_as_a_branch(bench, tmp_path):
    torch.jit.script(models.seeded(models.Branching)).save(tmp_path / "branch.pt")
    source = bench.load(file=str(tmp_path / "branch.pt"), inputs=VECTOR)
    assert operators(bench.export(source).path)["If"] == 1


def test_a_return_from_within_a_scripted_loop_is_refused_with_a_way_out(bench, tmp_path):
    torch.jit.script(models.seeded(models.ReturnsFromLoop)).save(tmp_path / "returns.pt")
    source = bench.load(file=str(tmp_path / "returns.pt"), inputs=VECTOR)
    with pytest.raises(OptimizerError, match="a return from within a loop") as caught:
        bench.export(source)
    assert "INTERNAL ASSERT" not in caught.value.message
    assert "leave loops by break" in str(caught.value.hint)
    torch.jit.script(models.seeded(models.LeavesLoop)).save(tmp_path / "leaves.pt")
    source = bench.load(file=str(tmp_path / "leaves.pt"), inputs=VECTOR)
    assert operators(bench.export(source).path)["Loop"] == 1, "the advice holds"


def test_an_exported_program_is_a_source_like_any_other(bench, tmp_path):
    batch = torch.export.Dim("batch")
    program = torch.export.export(models.seeded(models.MLP), (torch.randn(2, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    source = bench.load(file=str(tmp_path / "m.pt2"), outputs=["logits"])
    assert str(bench.export(source).signature.outputs[0]) == "float32[batch,3]"


def test_a_name_that_the_exporter_defines_twice_is_found_and_repaired(tmp_path):
    """torch.onnx.export(dynamo=True) writes an output's name over its value though another node has that name."""

    class Trap(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(9, 4)

        def forward(self, ids):
            return self.table(ids).sum(1)

    ids = torch.ones(2, 3, dtype=torch.int64)
    program = torch.onnx.export(
        Trap().eval(), (ids,), dynamo=True, output_names=["embedding"], verbose=False, opset_version=18
    )
    program.save(tmp_path / "trap.onnx")
    with pytest.raises(OptimizerError, match="embedding"):  # else the trap is gone, and so may the repair
        onnx_format.check(tmp_path / "trap.onnx")
    assert onnx_names.make_unique(program.model.graph) == ["embedding"]
    program.save(tmp_path / "model.onnx")
    onnx_format.check(tmp_path / "model.onnx")
    assert onnx_format.inference_session(tmp_path, 1).run(["embedding"], {"ids": ids.numpy()})[0].shape == (2, 4)


def test_outputs_named_like_inner_values_weights_and_each_other(bench, tmp_path):
    (tmp_path / "user.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(8, 8)\n"
        "        self.w = torch.nn.Parameter(torch.ones(8))\n"
        "    def forward(self, x):\n"
        "        y = self.linear(x)\n"
        "        return {'linear': torch.relu(y) * self.w, 'w': y, 'again': y, 'same': x, 'weight': self.w}\n"
    )
    found = bench.export(bench.load(entry=f"{tmp_path}/user.py:Net", inputs=VECTOR))
    assert [s.name for s in found.signature.outputs] == ["linear", "w", "again", "same", "weight"]
    assert operators(found.path)["Identity"] >= 2  # an input and a weight that are outputs get nodes of their own


def test_a_wrong_export_is_thrown_away_and_nothing_is_left(bench):
    source = bench.model("MLP", inputs=VECTOR)

    def refuses(path):
        assert (path / "model.onnx").is_file()
        return Check("fail", 1.0, 1e-4, None, 0.0, (2, 1, 3), True, "outputs differ by 1")

    out = bench.folder()
    with pytest.raises(OptimizerError, match=r"dynamo: outputs differ by 1; torchscript: outputs differ by 1"):
        export.run(source, export.Options(), bench.context(samples.made(source.signature, 0).feeds, refuses), out)
    assert not list(out.iterdir())


def test_a_dimension_that_was_baked_in_is_refused(bench):
    source = bench.model("MLP", inputs=VECTOR)
    model = onnx_format.parse(bench.export(source).path / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    import onnx_ir

    with pytest.raises(OptimizerError, match=r"'batch' of the input 'x' .* baked in as 2"):
        onnx_names.apply(onnx_ir.serde.deserialize_model(model), source.signature)


def test_large_weights_go_into_a_file_of_their_own(bench, monkeypatch):
    monkeypatch.setattr(onnx_format, "EXTERNAL_ABOVE", 1000)
    for exporter in ("dynamo", "torchscript"):
        found = bench.export(bench.model("ConvNet", inputs=IMAGE), exporter=exporter)
        assert sorted(p.name for p in found.path.iterdir()) == ["model.onnx", "model.onnx.data"]
        onnx.checker.check_model(str(found.path / "model.onnx"))


def test_the_operator_set_is_an_option(bench):
    found = bench.export(bench.model("MLP", inputs=VECTOR), opset=20)
    assert onnx_format.parse(found.path / "model.onnx").opset_import[0].version == 20


def test_a_fixed_batch_needs_no_free_dimension(bench):
    source = bench.model("MLP", inputs={"x": "float32[4,8]"})
    feeds = synthetic_feeds(source.signature, {}, 0)
    found = bench.export(source, feeds=[feeds])
    assert str(found.signature.outputs[0]) == "float32[4,3]"


def test_the_export_says_nothing_on_the_screen(bench, capfd):
    bench.export(bench.model("FlatAttention", inputs={"x": "float32[batch,length,8]"}))
    with pytest.raises(OptimizerError):
        bench.export(bench.model("Unsupported", inputs=VECTOR))
    assert capfd.readouterr() == ("", "")


def test_samples_decide_nothing_but_sizes(bench):
    source = bench.model("MLP", inputs=VECTOR)
    feeds = [{"x": np.zeros((2, 8), np.float32)}, {"x": np.ones((5, 8), np.float32)}]
    one, two = bench.export(source), bench.export(source, feeds=feeds)
    assert (one.path / "model.onnx").read_bytes() == (two.path / "model.onnx").read_bytes()


def test_a_tracer_that_would_fix_a_decision_is_no_way_out(bench, monkeypatch):
    def fails(*given):
        raise RuntimeError("an internal error")

    monkeypatch.setattr(export.onnx_export, "dynamo", fails)
    with pytest.raises(
        OptimizerError, match=r"internal error; torchscript: the tracer would fix a decision .*models\.py"
    ):
        bench.export(bench.model("Branching", inputs=VECTOR), tolerance=10.0)
