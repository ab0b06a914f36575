"""qat: starts from what quantize.static writes, learns, and its fake quantizers agree with the runtimes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import quant_lab as lab
import torch
from onnx import helper, numpy_helper

from optimizer import plan, recipe
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_torch
from optimizer.passes.quantize_static import onnx as static
from optimizer.passes.quantize_static import qat
from optimizer.passes.quantize_static.options import Options as Static
from optimizer.passes.quantize_static.qat import agreement, fake, pair
from optimizer.protocols import Batch, Context, Session
from optimizer.scheme import QuantScheme
from optimizer.targets import openvino as openvino_target
from optimizer.values import Artifact

SCHEMES = {"onnxruntime": lab.ORT, "openvino": openvino_target.QDQ, "tensorrt": lab.TENSORRT}
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], lab.Data]]] = {
    "conv": (lab.convnet, lambda: lab.images(64)),
    "depthwise": (lab.chain, lambda: lab.images(64)),
    "transformer": (lab.prenorm, lambda: lab.vectors(64)),
    "tied": (lab.block, lambda: lab.words(64)),
}
SHORT = {"steps": 12, "batch": 16, "lr": 2e-3, "validation": 0, "keep": "last"}


@dataclasses.dataclass
class Labelled(lab.Data):
    """Examples with classes."""

    labels: np.ndarray | None = None

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        for batch in super().batches(size, limit):
            yield Batch(batch.feeds, None if self.labels is None else self.labels[batch.indices], batch.indices)


def step(
    source: Artifact, root: Path, scheme: QuantScheme, data: lab.Data, train: Any = None, **options: Any
) -> tuple[Artifact, dict[str, Any]]:
    """What qat makes of a model, and what it notes."""
    notes: dict[str, Any] = {}
    out = root / f"qat{len(list(root.glob('qat*')))}"
    out.mkdir(parents=True)
    context = Context(
        data={"calibrate": data, "train": train or data},
        scheme=scheme,
        note=notes.__setitem__,
        work=root / out.name / "w",
    )
    qat.run(source, qat.Options.model_validate({**SHORT, **options}), context, out)
    for file in (out / "w").glob("*"):
        file.unlink()
    (out / "w").rmdir()
    return lab.opened("onnx", out, source.signature), notes


def prepared(source: Artifact, data: lab.Data, scheme: QuantScheme = lab.ORT, **options: Any) -> static.Ready:
    return static.prepare(source, Static.model_validate(options), Context(data={"calibrate": data}), scheme)


def initializers(found: Artifact) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx_format.load(found.path).graph.initializer}


def rms(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    return max(float(np.sqrt(np.square(found[n] - a).mean() / np.square(a).mean())) for n, a in wanted.items())


@pytest.mark.parametrize("target", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_fake_quantizers_and_the_runtime_agree_to_one_step(name: str, target: str, tmp_path: Path) -> None:
    build, data = MODELS[name]
    _, notes = step(lab.artifact(build(), tmp_path / "float"), tmp_path, SCHEMES[target], data())
    assert notes["agreement"]["tensors"] > 0 and notes["agreement"]["values"] > 500
    assert notes["agreement"]["largest"] <= 1 and notes["agreement"]["local"] <= 1, notes["agreement"]
    assert notes["agreement"]["equal"] > 0.999


def test_the_agreement_sees_a_grid_that_is_off(tmp_path: Path) -> None:
    source = lab.artifact(lab.chain(4.0), tmp_path / "float")
    ready = prepared(source, lab.images())
    made = fake.build(ready)
    module = made.module()
    learnt = made.learnt(onnx_torch.values_of(module))
    grid = learnt.tensors["ra"]
    learnt.tensors["ra"] = dataclasses.replace(grid, scale=grid.scale * np.float32(1.05))  # type: ignore[index]  # a dict
    ready.insert(ready.model, learnt=learnt)
    measured = agreement.measure(ready.model, made, module, [b.feeds for b in lab.images(4).batches(4)])
    found = measured.document()
    assert found["largest"] > 1 and "ra_QuantizeLinear_Output" in found["beyond"] and len(found["beyond"]) > 1
    assert [seen.name for seen in measured.tensors if seen.local > 1] == ["ra_QuantizeLinear_Output"]
    warnings: list[str] = []
    qat._agree(measured, Context(warn=warnings.append))
    assert len(warnings) == 1 and re.search(r"'ra_QuantizeLinear_Output' [\d.]+%, by up to \d+", warnings[0])
    assert "differences begin at 'ra_QuantizeLinear_Output'" in warnings[0]


def test_differences_of_a_step_or_of_few_values_are_no_doubt() -> None:
    rounding, rare, often = (agreement.Seen(name) for name in ("rounding", "rare", "often"))
    rounding.add(np.ones(1000, np.int64), np.ones(1000, np.int64))
    rare.add(np.r_[np.full(10, 5), np.zeros(990, np.int64)], np.zeros(1000, np.int64))
    assert agreement.Agreement((rounding, rare)).doubt() is None
    assert agreement.Agreement((rounding, rare)).document() == {
        "tensors": 2, "values": 2000, "equal": 0.495, "largest": 5, "local": 1, "beyond": {"rare": 5}
    }  # fmt: skip
    often.add(np.r_[np.full(11, 2), np.zeros(989, np.int64)], np.zeros(1000, np.int64))
    doubt = agreement.Agreement((rare, rounding, often)).doubt()
    assert doubt and "of 1 of 3 tensors" in doubt and "('often' 1.1%, by up to 2)" in doubt
    assert doubt.endswith("begin at 'rounding'")


def test_step_sizes_are_the_same_to_the_last_bit_in_training_and_in_the_file() -> None:
    logs = np.random.default_rng(0).uniform(-12, 2, 4000).astype(np.float32)
    trained = pair.step_size(torch.from_numpy(logs)).numpy()
    np.testing.assert_array_equal(pair.written(logs), trained)
    one_by_one = [pair.step_size(torch.tensor(log)).item() for log in logs[:500]]
    np.testing.assert_array_equal(one_by_one, trained[:500])


@pytest.mark.parametrize("deviation", [0.25, 0.3081, 0.34, 0.3758, 0.5])
def test_pictures_on_a_grid_of_their_own_agree_in_the_state_before_training(deviation: float, tmp_path: Path) -> None:
    # 256 grey levels, normalized to a range of 256 steps: with the zero point rounded, all may lie half way between two
    # stored values, so that a step size that is off in its last bit moves every input by a step. For which deviations
    # that happens depends on the libraries' exponentials.
    levels = np.random.default_rng(1).integers(0, 256, (64, 3, 8, 8))
    levels.reshape(-1)[:2] = 0, 255
    data = lab.Data({"image": ((levels / 255 - 0.5) / deviation).astype(np.float32)})
    for target, scheme in (("ort", lab.ORT), ("openvino", openvino_target.QDQ)):
        source = lab.artifact(lab.convnet(norm=True), tmp_path / target)
        options = {"steps": 6, "validation": 0.25, "validations": 2, "keep": "best", "lr": 3.0, "clip": 1.0}
        _, notes = step(source, tmp_path, scheme, data, **options)
        assert notes["training"]["best"] == 0
        assert notes["agreement"]["equal"] > 0.999 and notes["agreement"]["local"] <= 1, notes["agreement"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reduced", [False, True])
def test_training_starts_from_what_quantize_static_writes(name: str, reduced: bool, tmp_path: Path) -> None:
    build, data = MODELS[name]
    source = lab.artifact(build(), tmp_path / "float")
    wanted = initializers(lab.Bench(tmp_path).static(source, data=data(), reduce_range=reduced))
    ready = prepared(source, data(), reduce_range=reduced)
    made = fake.build(ready)
    values = onnx_torch.values_of(made.module())
    made.put(ready.model, values)
    ready.insert(ready.model, learnt=made.learnt(values))
    found = {t.name: numpy_helper.to_array(t) for t in ready.model.graph.initializer}
    assert set(found) == set(wanted)
    for key, array in wanted.items():
        if array.dtype == np.int32:  # biases: a scale that went through its logarithm is off in the last bit
            assert np.abs(found[key].astype(np.int64) - array).max() <= 1e-5 * np.abs(array).max() + 1, key
        elif array.dtype.kind in "iu":
            np.testing.assert_array_equal(found[key], array, err_msg=key)
        else:
            np.testing.assert_allclose(found[key], array, rtol=1e-5, err_msg=key)


def test_training_brings_the_outputs_nearer_to_the_float_model(tmp_path: Path) -> None:
    source, data = lab.artifact(lab.chain(), tmp_path / "float"), lab.images(128)
    coarse = {"per_channel": False}
    feeds = next(iter(lab.images(64, seed=5).batches(64))).feeds
    wanted = lab.outputs(source, feeds)
    before = rms(lab.outputs(lab.Bench(tmp_path).static(source, data=data, **coarse), feeds), wanted)
    found, notes = step(
        source, tmp_path, lab.ORT, data, quantize=coarse, steps=40, lr=1e-3, outputs="mse", validation=0.2, keep="best"
    )
    assert rms(lab.outputs(found, feeds), wanted) < 0.7 * before
    assert lab.precision(found).startswith("int8 (5 of 5")
    assert notes["learns"] == ["'logits' by mse"]
    assert notes["training"]["loss"][-1] < notes["training"]["loss"][0]
    assert notes["learnt"]["weights"] == 9 and notes["quantized"]["Conv"] == 3


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    source = lab.artifact(lab.convnet(), tmp_path / "float")
    first, second = (step(source, tmp_path, lab.ORT, lab.images(64))[0] for _ in range(2))
    assert (first.path / "model.onnx").read_bytes() == (second.path / "model.onnx").read_bytes()


def test_step_sizes_have_the_gradient_of_lsq() -> None:
    # Values below, inside and above a range of 0 to 255 steps of 0.5, whose zero is 10.
    x = torch.tensor([[-20.0, 0.3, 7.1, 500.0]], requires_grad=True)
    log = torch.tensor(np.log(np.float32(0.5)), requires_grad=True)
    share = torch.tensor(10 / pair.SPAN, requires_grad=True)
    facts = pair.Pair("s", "z", "uint8", 0, 255, None, (), "x", None, True)
    found = pair.function().apply(x, log, share, facts)
    assert found.detach().tolist() == [[-5.0, 0.5, 7.0, 122.5]]
    found.sum().backward()
    assert x.grad is not None and log.grad is not None and share.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 0]]
    scaling = 1 / np.sqrt(4 * 255)
    slope = (0 - 10) + (1 - 0.6) + (14 - 14.2) + (255 - 10)
    assert float(log.grad) == pytest.approx(slope * 0.5 * scaling, rel=1e-4)
    assert float(share.grad) == pytest.approx(-2 * 0.5 * pair.SPAN * scaling, rel=1e-4)


def test_a_scale_per_channel_gets_a_gradient_per_channel() -> None:
    weight = torch.tensor([[1.3, -0.2], [0.02, 0.017]], requires_grad=True)
    log = torch.tensor(np.log(np.array([0.01, 0.0002], np.float32)), requires_grad=True)
    facts = pair.Pair("s", "z", "int8", -127, 127, 0, ("layer",), "w", "w", False)
    found = pair.function().apply(weight, log, torch.zeros(2), facts)
    np.testing.assert_allclose(found.detach(), [[1.27, -0.2], [0.02, 0.017]], rtol=1e-5)
    found.sum().backward()
    assert weight.grad is not None and log.grad is not None
    assert weight.grad.tolist() == [[0, 1], [1, 1]] and log.grad.shape == (2,)
    assert float(log.grad[0]) == pytest.approx(127 * 0.01 / np.sqrt(2 * 127), rel=1e-3)
    assert float(log.grad[1]) == pytest.approx(0, abs=1e-6)


def test_zero_points_move_only_where_zero_is_inside_the_range(tmp_path: Path) -> None:
    made = fake.build(prepared(lab.artifact(lab.chain(), tmp_path / "float"), lab.images()))
    moves = {p.tensor: p.moves for p in made.pairs.values() if p.constant is None}
    assert moves["image"] and moves["rb"] and not moves["ra"] and not moves["rd"]
    symmetric = fake.build(prepared(lab.artifact(lab.chain(), tmp_path / "again"), lab.images(), lab.TENSORRT))
    assert not any(p.moves for p in symmetric.pairs.values())


def test_a_tensorrt_file_has_the_form_that_tensorrt_takes(tmp_path: Path) -> None:
    found, _ = step(lab.artifact(lab.convnet(), tmp_path / "float"), tmp_path, lab.TENSORRT, lab.images(64))
    graph, tensors = onnx_format.load(found.path).graph, initializers(found)
    zeros = [tensors[n.input[2]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros and all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    made = {name: node for node in graph.node for name in node.output}
    for layer in (n for n in graph.node if n.op_type in ("Conv", "Gemm")):
        assert layer.input[2] in tensors and tensors[layer.input[2]].dtype == np.float32  # a bias without a pair
        above = made[made[layer.input[1]].input[0]]
        assert above.op_type == "QuantizeLinear" and tensors[above.input[0]].dtype == np.float32
        scale = tensors[above.input[1]].reshape(-1, *[1] * (tensors[above.input[0]].ndim - 1))
        assert (np.abs(tensors[above.input[0]]) <= 127.001 * scale).all()  # -128 is never stored


def test_openvino_runs_the_file_in_int8_and_agrees(tmp_path: Path) -> None:
    for name, (build, data) in MODELS.items():
        found, _ = step(lab.artifact(build(), tmp_path / name), tmp_path / f"{name}-qat", openvino_target.QDQ, data())
        lowered = lab.lowered(found, tmp_path / f"{name}-ir")
        assert lab.precision(lowered).startswith("int8"), name
        feeds = next(iter(data().batches(32))).feeds
        assert lab.error(lab.outputs(found, feeds), lab.outputs(lowered, feeds)) < 0.02, name


def test_labels_are_learnt_alone_or_beside_a_teacher(tmp_path: Path) -> None:
    source, data = lab.artifact(lab.convnet(), tmp_path / "float"), lab.images(64)
    train = Labelled(data.feeds, labels=np.arange(64) % 4)
    _, alone = step(source, tmp_path, lab.ORT, data, train, teacher="none")
    assert alone["learns"] == ["labels by cross-entropy of 'logits', weight 1"] and set(alone["training"]["parts"]) == {
        "labels",
        "accuracy",
    }
    _, both = step(source, tmp_path, lab.ORT, data, train, hard=0.25)
    assert both["learns"] == ["'logits' by kl", "labels by cross-entropy of 'logits', weight 0.25"]
    assert {"outputs", "labels"} <= set(both["training"]["parts"])


class Other:
    """A teacher with outputs of its own, as an opened artifact."""

    def __init__(self, source: Artifact, width: int, factor: float) -> None:
        output = dataclasses.replace(source.signature.outputs[0], shape=("batch", width))
        self.signature = dataclasses.replace(source.signature, outputs=(output,))
        self.precision, self._factor = "float32", factor
        self.seen: list[int] = []

    def __call__(self, feeds: Any) -> dict[str, np.ndarray]:
        self.seen.append(len(feeds["image"]))
        count = len(feeds["image"])
        return {"logits": np.tile(np.float32([0, 0, self._factor, 0]), (count, 1))}


def test_a_named_artifact_teaches(tmp_path: Path) -> None:
    source, data = lab.artifact(lab.convnet(), tmp_path / "float"), lab.images(64)
    teacher = Other(source, 4, 9.0)

    def opened(name: str) -> contextlib.AbstractContextManager[Session]:
        assert name == "big"
        return contextlib.nullcontext(teacher)

    (tmp_path / "out").mkdir()
    context = Context(data={"calibrate": data, "train": data}, scheme=lab.ORT, open=opened, work=tmp_path / "w")
    context = dataclasses.replace(context, artifacts={"big": source})
    options = qat.Options.model_validate({**SHORT, "teacher": "big", "steps": 60, "lr": 3e-2})
    assert qat.artifacts(options) == ("big",)
    qat.run(source, options, context, tmp_path / "out")
    found = lab.outputs(lab.opened("onnx", tmp_path / "out", source.signature), {"image": data.feeds["image"][:8]})
    assert teacher.seen and (found["logits"].argmax(1) == 2).all()
    context = dataclasses.replace(context, open=lambda _: contextlib.nullcontext(Other(source, 7, 1.0)))
    with pytest.raises(OptimizerError, match="the teacher 'big' gives 'logits' as float32"):
        qat.run(source, options, context, tmp_path / "out")


def strange() -> Any:
    """A model with an operator that has no gradient here."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="first"),
        helper.make_node("Hardmax", ["h"], ["y"], name="hardest"),
    ]
    return lab.model(nodes, {"x": ["n", 6]}, {"y": ["n", 6]}, lab.weights(w=np.eye(6, dtype=np.float32)))


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    data, rows = lab.images(32), lab.Data({"x": np.ones((16, 6), np.float32)})
    convnet = lab.artifact(lab.convnet(), tmp_path / "float")
    with pytest.raises(OptimizerError, match="qat cannot differentiate Hardmax: Hardmax 'hardest'"):
        step(lab.artifact(strange(), tmp_path / "strange"), tmp_path, lab.ORT, rows)
    with pytest.raises(OptimizerError, match=r"one batch size only \(image: float32\[2,3,8,8\]\)"):
        step(lab.artifact(lab.convnet(batch=2), tmp_path / "fixed"), tmp_path, lab.ORT, data)
    with pytest.raises(OptimizerError, match="'train' is missing"):
        qat.run(convnet, qat.Options(), Context(data={"calibrate": data}, scheme=lab.ORT), tmp_path)
    with pytest.raises(OptimizerError, match="nothing is left to quantize"):
        step(convnet, tmp_path, lab.ORT, data, quantize={"keep": ["*"]})
    with pytest.raises(OptimizerError, match=r"the loss became (NaN|infinite)|training diverges"):
        step(convnet, tmp_path, lab.ORT, data, lr=1e18, steps=40)
    with pytest.raises(OptimizerError, match="the teacher 'source' answers NaN"):
        bad = lab.Data({"image": np.full((32, 3, 8, 8), np.nan, np.float32)})
        step(convnet, tmp_path, lab.ORT, data, bad)
    with pytest.raises(OptimizerError, match="compares with labels, the data 'tiny' has none"):
        step(convnet, tmp_path, lab.ORT, data, hard=0.5)
    assert not list(tmp_path.glob("qat*/model.onnx"))


def test_a_module_that_computes_something_else_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimizer.formats.onnx_torch import module

    monkeypatch.setitem(module.FUNCTIONS, "Relu", lambda op, x: x)  # type: ignore[arg-type]  # a dict
    with pytest.raises(OptimizerError, match="gives another 'logits' than in ONNX Runtime"):
        step(lab.artifact(lab.convnet(), tmp_path / "float"), tmp_path, lab.ORT, lab.images(32))


def test_targets_that_take_no_pairs_are_refused_and_labels_without_a_teacher_are_all() -> None:
    nothing = QuantScheme(target="pytorch", format="torch")
    reason = qat.refuse(qat.Options(), nothing)
    assert reason and "pytorch does not say" in reason
    assert qat.refuse(qat.Options(), lab.ORT) is None and qat.refuse(qat.Options(), openvino_target.QDQ) is None
    assert qat.Options(teacher="none").labelled == 1 and qat.Options().labelled == 0
    with pytest.raises(ValueError, match="all of the loss is of the labels"):
        qat.Options(teacher="none", hard=0.5)
    assert qat.data(qat.Options()) == ("calibrate", "train") and "select" in qat.data(qat.Options(validation="select"))


def test_plain_gradients_move_a_step_size_as_lsq_has_it(tmp_path: Path) -> None:
    made = fake.build(prepared(lab.artifact(lab.convnet(), tmp_path / "float"), lab.images()))
    module: Any = made.module()
    rates = {name: made.rate(f"learnt.{i}", module, "sgd") for i, name in enumerate(module.names)}
    scale = float(np.exp(onnx_torch.values_of(module)["r1_scale"]))
    assert rates["conv1.weight"] == 1 and rates["r1_scale"] == pytest.approx(scale**-2, rel=1e-4)
    assert {made.rate(f"learnt.{i}", module, "adamw") for i in range(len(module.names))} == {1.0}


def test_the_written_file_is_valid_onnx_with_nothing_left_of_training(tmp_path: Path) -> None:
    found, _ = step(lab.artifact(lab.convnet(), tmp_path / "float"), tmp_path, lab.ORT, lab.images(64))
    onnx.checker.check_model(str(found.path / "model.onnx"))
    assert fake.BIAS not in lab.op_types(found) and {p.name for p in found.path.iterdir()} == {"model.onnx"}


def test_a_step_that_was_killed_goes_on_to_the_same_file(tmp_path: Path) -> None:
    source, data = lab.artifact(lab.convnet(), tmp_path / "float"), lab.images(64)
    options = qat.Options.model_validate({**SHORT, "checkpoint": 2, "ema": 0.9, "clip": 1.0})
    context = Context(data={"calibrate": data, "train": data}, scheme=lab.ORT)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    qat.run(source, options, dataclasses.replace(context, work=tmp_path / "w1"), tmp_path / "whole")

    def kill(done: int, total: int) -> None:
        if total == SHORT["steps"] and done == 7:
            raise KeyboardInterrupt

    killed = dataclasses.replace(context, work=tmp_path / "w2")
    with pytest.raises(KeyboardInterrupt):
        qat.run(source, options, dataclasses.replace(killed, progress=kill), tmp_path / "killed")
    steps: list[int] = []
    again = dataclasses.replace(killed, progress=lambda done, total: steps.append(done) if total == 12 else None)
    qat.run(source, options, again, tmp_path / "killed")
    assert min(steps) == 6
    first, second = ((tmp_path / name / "model.onnx").read_bytes() for name in ("whole", "killed"))
    assert first == second


def test_for_openvino_the_step_comes_before_the_lowering(tmp_path: Path) -> None:
    onnx.save(lab.convnet(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", image=lab.images(16).feeds["image"])
    (tmp_path / "r.yaml").write_text(
        "schema: 1\nmodel: {file: model.onnx}\ndata: {calibrate: ./data.npz, train: ./data.npz}\n"
        "variants: {qat: [qat], ptq: [quantize.static]}\ntargets: [openvino]\n"
    )
    made = plan.plan(recipe.load(str(tmp_path / "r.yaml")))
    uses = [step.use for step in made.steps]
    assert uses.index("qat") < len(uses) - 1 - uses[::-1].index("openvino")
    schemes = {step.use: step.scheme for step in made.steps if step.scheme}
    assert schemes == {"qat": openvino_target.QDQ, "quantize.static": openvino_target.SCHEME}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("before", ["quantize.static", "quantize.weights", "qat"])
def test_a_model_that_is_quantized_already_is_refused_by_the_plan(before: str, target: str, tmp_path: Path) -> None:
    onnx.save(lab.convnet(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", image=lab.images(16).feeds["image"])
    (tmp_path / "r.yaml").write_text(
        "schema: 1\nmodel: {file: model.onnx}\ndata: {calibrate: ./data.npz, train: ./data.npz}\n"
        f"variants: {{fp32: [], both: [{before}, qat]}}\ntargets: [{target}]\n"
    )
    with pytest.raises(
        OptimizerError, match=f"variant 'both', step 'qat': .* which '{before}' has quantized"
    ) as raised:
        plan.plan(recipe.load(str(tmp_path / "r.yaml")))
    assert f"leave '{before}' out" in str(raised.value.hint) and "qat: {quantize:" in str(raised.value.hint)


def test_lowering_may_round_otherwise_only_where_the_graph_is_quantized(tmp_path: Path) -> None:
    plain = lab.artifact(lab.convnet(), tmp_path / "float")
    quantized = lab.Bench(tmp_path).static(plain)
    assert openvino_target.limit(plain) == openvino_target.LIMIT < 1e-3
    assert openvino_target.limit(quantized) == openvino_target.QUANTIZED_LIMIT


def test_layers_that_share_a_weight_share_its_learnt_grid(tmp_path: Path) -> None:
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="first", **pads),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w"], ["y"], name="second", **pads),
    ]
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    built = lab.model(nodes, {"image": ["n", 3, 8, 8]}, {"y": ["n", 3, 8, 8]}, lab.weights(w=weight))
    found, notes = step(lab.artifact(built, tmp_path / "float"), tmp_path, lab.ORT, lab.images(64), lr=2e-2)
    assert notes["agreement"]["largest"] <= 1
    graph = onnx_format.load(found.path).graph
    first, second = (node.input[1] for node in graph.node if node.op_type == "Conv")
    assert first == second
