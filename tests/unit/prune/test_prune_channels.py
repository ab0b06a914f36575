"""Channels leave where they can, stay where they must with the reason, and the rest computes what it did."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import prune_lab
import prune_models
import pytest
import torch
from prune_lab import Bench, Held

from optimizer import anatomy, testing
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import pruned
from optimizer.formats.edits import Cut
from optimizer.formats.torch import load_record, open_model
from optimizer.passes import export, prune_channels
from optimizer.passes.prune_channels import cutting
from optimizer.passes.prune_channels.groups import find_groups
from optimizer.values import Artifact

CUTTABLE = {
    "Residual": {"stem", "inner", "wide"},
    "Depthwise": {"stem", "expand"},
    "Concat": {"left", "right", "mix"},
    "Grouped": {"reduce", "grouped"},
    "Flat": {"up", "down"},
    "PreNorm": {"embed", "up"},
    "Attentive": {"qkv", "out"},
}


@pytest.mark.parametrize("name", CUTTABLE)
def test_half_of_every_group_leaves_and_the_rest_computes_the_same(bench: Bench, name: str) -> None:
    source = bench.load(name)
    result = bench.prune(prune_channels, source, ratio=0.5, scope="layer", round_to=1)
    whole, small = open_model(source.path), open_model(result.path)
    assert set(bench.notes["channels"]) >= CUTTABLE[name], bench.notes["left whole"]
    for before, after in bench.notes["channels"].values():
        assert after == before / 2
    groups = find_groups(whole, prune_lab.feeds_of(source)[0]).groups
    if any(group.mixes for group in groups):
        return  # a normalization over the channels that are left is another function; their order is tested below
    silenced = _silenced(source, result)
    for expected, found in zip(silenced, prune_lab.run(small, source), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def _silenced(source: Artifact, result: Artifact) -> list[np.ndarray]:
    """Outputs of the whole module whose readers see zeros for every channel that the record cuts away."""
    whole = open_model(source.path)
    module = whole.module
    for edit in load_record(result.path).edits:
        tensor = getattr(edit, "tensor", "")
        layer = module.get_submodule(tensor.rpartition(".")[0]) if tensor else None
        grouped = getattr(layer, "groups", 1) > 1
        if tensor.endswith("weight") and edit.axis == (0 if isinstance(layer, torch.nn.ConvTranspose2d) else 1):
            gone = [i for i in range(layer.weight.shape[edit.axis]) if i not in edit.kept]
            assert not grouped or edit.axis == 1
            with torch.no_grad():
                layer.weight.index_fill_(edit.axis, torch.tensor(gone, dtype=torch.long), 0)
    return prune_lab.run(whole, source)


def test_residual_streams_and_their_shortcuts_are_cut_together(bench: Bench) -> None:
    result = bench.prune(prune_channels, bench.load("Residual"), ratio=0.5, scope="layer", round_to=1)
    shapes = prune_lab.widths(result)
    assert shapes["stem.weight"] == (4, 3, 3, 3) and shapes["outer.weight"] == (4, 6, 3, 3)
    assert shapes["wide.weight"] == (8, 4, 3, 3) and shapes["project.weight"] == (8, 4, 1, 1)
    assert shapes["head.weight"] == (5, 8)


def test_depthwise_convolutions_keep_one_channel_per_group(bench: Bench) -> None:
    result = bench.prune(prune_channels, bench.load("Depthwise"), ratio=0.5, scope="layer", round_to=1)
    depth = open_model(result.path).module.depth
    assert depth.weight.shape == (12, 1, 3, 3) and depth.groups == depth.in_channels == depth.out_channels == 12


def test_grouped_convolutions_lose_the_same_from_every_group(bench: Bench) -> None:
    result = bench.prune(prune_channels, bench.load("Grouped"), ratio=0.5, scope="layer", round_to=1)
    module = open_model(result.path).module
    assert module.grouped.weight.shape == (12, 2, 3, 3) and module.grouped.groups == 4
    assert (module.grouped.in_channels, module.grouped.out_channels, module.norm.num_channels) == (8, 12, 12)


def test_attention_loses_whole_heads_and_knows_how_many_are_left(bench: Bench) -> None:
    pytest.importorskip("transformers")
    result = bench.prune(prune_channels, bench.load("tiny_bert"), ratio=0.5, scope="layer", round_to=4)
    layer = open_model(result.path).module.encoder.layer[0]
    assert layer.attention.self.query.weight.shape == (16, 32) and layer.attention.output.dense.weight.shape == (32, 16)
    assert (layer.attention.self.num_attention_heads, layer.attention.self.all_head_size) == (2, 16)
    assert layer.intermediate.dense.weight.shape == (24, 32)
    kept = kept_of(result, "encoder.layer.0.attention.self.query.weight")
    assert {i // 8 for i in kept} == {kept[0] // 8, kept[-1] // 8} and len(kept) == 16, "whole heads of 8 channels"


def test_one_projection_of_query_key_and_value_loses_the_same_heads_of_each(bench: Bench) -> None:
    result = bench.prune(prune_channels, bench.load("Attentive"), ratio=0.5, scope="layer", round_to=1)
    kept = kept_of(result, "qkv.weight")
    third = [i for i in kept if i < 16]
    assert list(kept) == [*third, *(i + 16 for i in third), *(i + 32 for i in third)]
    assert open_model(result.path).module.num_heads == 2


def test_what_computes_something_else_without_its_channels_is_left_whole(bench: Bench) -> None:
    """The forward of `Shifted` runs with any count: only a comparison of values finds that channels are mispaired."""
    result = bench.prune(prune_channels, bench.load("Shifted"), ratio=0.5, scope="layer", round_to=1)
    shapes = prune_lab.widths(result)
    assert shapes["inner.weight"][0] == 4, "the rest goes on"
    assert shapes["stem.weight"] == (8, 4, 1, 1)
    assert "something else" in bench.notes["left whole"]["stem"]


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("HardCoded", "second", "forward raised RuntimeError"),
        ("FixedHeads", "value", "forward computes something else"),
        ("Residual", "head", "the model's output"),
    ],
)
def test_a_group_that_breaks_the_forward_is_rolled_back_with_its_reason(
    bench: Bench, name: str, layer: str, reason: str
) -> None:
    source = bench.load(name)
    result = bench.prune(prune_channels, source, ratio=0.5, scope="layer", round_to=1)
    whole = bench.notes["left whole"]
    found = next(why for root, why in whole.items() if root in (layer, "query", "key", "value"))
    assert reason in found
    assert prune_lab.widths(result)[f"{layer}.weight"][0] == prune_lab.widths(source)[f"{layer}.weight"][0]


def test_the_order_of_channels_under_a_norm_does_not_matter_in_a_right_group(bench: Bench) -> None:
    source = bench.load("PreNorm")
    model = open_model(source.path)
    group = next(g for g in find_groups(model, prune_lab.feeds_of(source)[0]).groups if g.mixes)
    swapped = pruned.edited(model, cutting.swaps(model.module, group))
    for expected, found in zip(prune_lab.run(model, source), prune_lab.run(swapped, source), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    broken = dataclasses.replace(group, members=group.members[1:])
    wrong = pruned.edited(model, cutting.swaps(model.module, broken))
    assert np.abs(prune_lab.run(model, source)[0] - prune_lab.run(wrong, source)[0]).max() > 0.01


def test_a_record_rebuilds_exactly_the_pruned_module(bench: Bench) -> None:
    source = bench.load("Residual")
    result = bench.prune(prune_channels, source, ratio=0.4, round_to=2)
    whole = open_model(source.path)
    expected = pruned.edited(whole, load_record(result.path).edits).module.state_dict()
    found = open_model(result.path).module.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert result.size == sum(t.numel() * t.element_size() for t in found.values()) < source.size


def test_a_second_pruning_goes_on_where_the_first_ended(bench: Bench) -> None:
    first = bench.prune(prune_channels, bench.load("Residual"), ratio=0.5, scope="layer", round_to=1)
    second = bench.prune(prune_channels, first, ratio=0.5, scope="layer", round_to=1)
    assert prune_lab.widths(second)["stem.weight"] == (2, 3, 3, 3)
    assert len(load_record(second.path).edits) > len(load_record(first.path).edits)


@pytest.mark.parametrize("name", ["Residual", "Depthwise", "Grouped", "Attentive"])
def test_a_pruned_module_exports_to_a_plain_smaller_graph(bench: Bench, name: str) -> None:
    source = bench.load(name)
    result = bench.prune(prune_channels, source, ratio=0.5, scope="layer", round_to=1)
    out = bench.folder()
    export.run(result, export.Options(), bench.context(result), out)
    weights = onnx_format.load(out).graph.initializer
    assert sum(np.prod(w.dims) for w in weights) < 0.9 * bench.notes["parameters"]["before"]
    session = onnx_format.inference_session(out, 1)
    for expected, feeds in zip(prune_lab.run(open_model(result.path), source), prune_lab.feeds_of(source), strict=True):
        np.testing.assert_allclose(session.run(None, dict(feeds))[0], expected, rtol=1e-3, atol=1e-5)


def test_macs_are_counted_and_met(bench: Bench) -> None:
    bench.prune(prune_channels, bench.load("Residual"), macs="0.5x", round_to=1)
    before, after = bench.notes["macs"]["before"], bench.notes["macs"]["after"]
    stem, inner, outer = 3 * 8 * 9 * 64, 8 * 12 * 9 * 64, 12 * 8 * 9 * 64
    wide, project, head = 8 * 16 * 9 * 16, 8 * 16 * 16, 16 * 5
    assert before == stem + inner + outer + wide + project + head
    assert 0.4 * before < after <= 0.5 * before


def test_inspect_counts_what_is_left(bench: Bench) -> None:
    result = bench.prune(prune_channels, bench.load("Depthwise"), ratio=0.5, scope="layer", round_to=1)
    found = anatomy.artifact(result.path, {})
    assert found.macs == bench.notes["macs"]["after"]
    assert found.values == bench.notes["parameters"]["after"] < bench.notes["parameters"]["before"]


def test_parameters_are_met_in_steps(bench: Bench) -> None:
    source = bench.load("Residual")
    result = bench.prune(prune_channels, source, parameters=0.5, steps=3, round_to=1)
    total = sum(np.prod(shape) for shape in prune_lab.widths(source).values())
    assert sum(np.prod(shape) for shape in prune_lab.widths(result).values()) <= 0.5 * total
    assert not bench.warnings


def test_training_between_steps_keeps_what_it_learnt(bench: Bench) -> None:
    source, data = bench.load("Residual"), {"train": _images(32, labels=False)}
    recover = {"steps": 20, "batch": 16, "lr": 0.003, "validation": 0, "keep": "last", "device": "cpu"}
    options = {"ratio": 0.6, "scope": "layer", "round_to": 1}
    plain = bench.prune(prune_channels, source, steps=2, **options)
    taught = bench.prune(prune_channels, source, data, steps=2, recover=recover, **options)
    assert load_record(plain.path).state is None and load_record(taught.path).state is not None
    assert prune_lab.widths(plain) == prune_lab.widths(taught)
    given = {"image": data["train"].feeds["image"]}
    whole, without, with_training = (open_model(a.path)(given)["output"] for a in (source, plain, taught))
    assert np.square(with_training - whole).sum() < np.square(without - whole).sum()
    assert "recovery.1" in bench.notes and "recovery.2" not in bench.notes


def test_an_unattainable_goal_keeps_the_most_that_can_leave_and_says_so(bench: Bench) -> None:
    bench.prune(prune_channels, bench.load("Residual"), macs="0.01x", round_to=4)
    assert "cannot be reached" in bench.warnings[0]
    assert bench.notes["macs"]["after"] < 0.5 * bench.notes["macs"]["before"]


def test_counts_are_rounded_to_what_the_target_likes(bench: Bench) -> None:
    bench.prune(prune_channels, bench.load("Depthwise"), ratio=0.6, round_to=8)
    assert bench.notes["channels"]["expand"][1] % 8 == 0
    bench.prune(prune_channels, bench.load("Residual"), ratio=0.5, round_to=64)
    assert "round_to" in bench.warnings[0] and bench.notes["channels"] == {}


def kept_of(found: Artifact, tensor: str, axis: int = 0) -> tuple[int, ...]:
    """The indices that a record keeps of a tensor's axis."""
    edits = load_record(found.path).edits
    return next(e.kept for e in edits if isinstance(e, Cut) and (e.tensor, e.axis) == (tensor, axis))


def _images(count: int = 12, labels: bool = True) -> Held:
    random = np.random.default_rng(0)
    images = random.standard_normal((count, 3, 8, 8)).astype(np.float32)
    return Held({"image": images}, random.integers(0, 5, count) if labels else None)


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
@pytest.mark.parametrize("labels", [True, False])
def test_gradients_find_what_the_outputs_miss_least(bench: Bench, importance: str, labels: bool) -> None:
    """The expected ranking is that of the loss itself: each channel of a layer is silenced in turn."""
    source = bench.load("Residual")
    data = _images(labels=labels)
    result = bench.prune(
        prune_channels, source, {"calibrate": data}, ratio=0.5, scope="layer", round_to=1, importance=importance
    )
    whole = open_model(source.path)
    reference = whole(data.feeds)["output"]
    felt = []
    for channel in range(12):
        module = copy.deepcopy(whole.module)
        with torch.no_grad():
            module.outer.weight[:, channel] = 0
        felt.append(float(np.square(module(torch.from_numpy(data.feeds["image"])).detach().numpy() - reference).sum()))
    kept = kept_of(result, "inner.weight")
    best = set(np.argsort(felt)[6:])
    assert len(best & set(kept)) >= 4, f"kept {kept}, felt most {sorted(best)}"


def test_batch_norm_scales_are_an_importance_where_there_are_any(bench: Bench) -> None:
    source = bench.load("Depthwise")
    result = bench.prune(prune_channels, source, ratio=0.5, scope="layer", round_to=1, importance="bn_scale")
    module = open_model(source.path).module
    scales = module.norm1.weight.detach().abs() + module.norm2.weight.detach().abs()
    kept = kept_of(result, "expand.weight")
    assert set(kept) == set(torch.argsort(scales)[12:].tolist())
    with pytest.raises(OptimizerError, match="has a batch norm"):
        bench.prune(prune_channels, bench.load("PreNorm"), ratio=0.5, importance="bn_scale")


def test_kept_modules_stay_and_a_selector_that_matches_nothing_is_an_error(bench: Bench) -> None:
    source = bench.load("Residual")
    result = bench.prune(prune_channels, source, ratio=0.5, scope="layer", round_to=1, keep=["inner"])
    assert prune_lab.widths(result)["inner.weight"][0] == 12
    assert bench.notes["left whole"]["inner"] == "kept as asked"
    with pytest.raises(OptimizerError, match="'iner' matches none"):
        bench.prune(prune_channels, source, ratio=0.5, keep=["iner"])


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("Residual", {"ratio": 0.97, "scope": "layer"}, "ratio 0.97 leaves no channel of"),
        ("Residual", {"ratio": 0.95}, "is more than 0.8"),
        ("Residual", {"ratio": 0.5, "macs": "0.5x"}, "given: ratio and macs"),
        ("Residual", {}, "given: none"),
        ("Residual", {"macs": "2x"}, "nothing to prune"),
        ("Residual", {"macs": "half"}, "for example 0.5x"),
    ],
)
def test_mistakes_are_named(bench: Bench, name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(OptimizerError, match=told):
        bench.prune(prune_channels, bench.load(name), **options)


def test_a_model_without_a_group_that_can_be_pruned_is_refused_with_every_reason(bench: Bench) -> None:
    with pytest.raises(OptimizerError, match=r"no channels that can be pruned \(.*model's output") as caught:
        bench.prune(prune_channels, bench.load("Tower"), ratio=0.5, keep=["layers", "pair"])
    assert "prune.depth" in caught.value.hint


def test_compiled_programs_are_refused(bench: Bench, tmp_path) -> None:
    file = tmp_path / "scripted.pt"
    torch.jit.trace(prune_models.Residual().eval(), torch.zeros(1, 3, 8, 8)).save(str(file))
    source = bench.load("Residual", entry=None, file=str(file))
    with pytest.raises(OptimizerError, match="is a TorchScript archive"):
        bench.prune(prune_channels, source, ratio=0.5)


def test_the_contract_of_a_pass() -> None:
    testing.check_pass(prune_channels)
    assert prune_channels.data(prune_channels.Options(ratio=0.5)) == ()
    assert prune_channels.data(prune_channels.Options(ratio=0.5, importance="taylor", data="train")) == ("train",)


def test_recurrent_layers_are_named_where_no_trace_gets_through(bench: Bench) -> None:
    with pytest.raises(OptimizerError, match=r"cannot be traced through rnn \(recurrent layers\)"):
        bench.prune(prune_channels, bench.load("Recurrent"), ratio=0.3)
