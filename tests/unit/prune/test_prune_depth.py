"""Blocks leave by what the outputs feel of their absence, or by name; numbers of blocks stay right."""

from __future__ import annotations

import numpy as np
import prune_lab
import pytest
from prune_lab import Bench, Held

from optimizer.errors import OptimizerError
from optimizer.formats.edits import Drop
from optimizer.formats.torch import load_record, open_model
from optimizer.passes import export, prune_depth


def data(name: str) -> dict[str, Held]:
    random = np.random.default_rng(0)
    if name == "tiny_bert":
        tokens = random.integers(0, 60, (8, 9))
        return {"calibrate": Held({"input_ids": tokens, "attention_mask": np.ones_like(tokens)})}
    return {"calibrate": Held({"x": random.standard_normal((24, 8)).astype(np.float32)})}


def test_the_blocks_that_do_least_leave_first(bench: Bench) -> None:
    source = bench.load("Tower")
    result = bench.prune(prune_depth, source, data("Tower"), drop=2)
    assert bench.notes["dropped"] == ["layers.2", "layers.3"], "their weights are a hundredth of the others'"
    assert set(bench.notes["left whole"]) == {"pair.0", "pair.1"}
    felt = bench.notes["felt"]
    assert felt[0]["layers.2"] < felt[0]["layers.3"] < felt[0]["layers.0"] and "layers.2" not in felt[1]
    module = open_model(result.path).module
    assert len(module.layers) == module.num_layers == 4
    expected = open_model(source.path).module.layers[4][0].weight
    assert np.array_equal(module.layers[2][0].weight.detach(), expected.detach())


def test_blocks_leave_by_name_whatever_their_order(bench: Bench) -> None:
    source = bench.load("Tower")
    result = bench.prune(prune_depth, source, blocks=["layers.1", "/layers.[45]/"])
    assert [e.block for e in load_record(result.path).edits if isinstance(e, Drop)] == [
        "layers.5",
        "layers.4",
        "layers.1",
    ]
    whole = open_model(source.path).module
    whole.layers = type(whole.layers)([whole.layers[i] for i in (0, 2, 3)])
    whole.num_layers = 3
    expected = open_model(source.path)
    expected.built.module.__dict__.update(whole.__dict__)
    for a, b in zip(prune_lab.run(expected, source), prune_lab.run(open_model(result.path), source), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_transformer_keeps_its_config_consistent_and_exports(bench: Bench) -> None:
    pytest.importorskip("transformers")
    result = bench.prune(prune_depth, bench.load("tiny_bert"), data("tiny_bert"), keep=1)
    module = open_model(result.path).module
    assert len(module.encoder.layer) == module.config.num_hidden_layers == 1
    assert bench.notes["macs"]["after"] < 0.55 * bench.notes["macs"]["before"]
    out = bench.folder()
    export.run(result, export.Options(), bench.context(result), out)
    assert (out / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("Tower", {"drop": 6}, r"6 blocks cannot leave, 5 of layers can \(pair.0: forward raised"),
        ("Tower", {"keep": 6}, r"leaves every stack as it is \(layers 6\)"),
        ("Tower", {"blocks": ["layers.*"]}, "no block is left of layers"),
        ("Tower", {"blocks": ["layer.1"]}, "matches none of 8 nodes"),
        ("Tower", {"blocks": ["pair.0"]}, "does not work without pair.0"),
        ("Tower", {"drop": 1, "stacks": ["tower"]}, "matches none"),
        ("Tower", {"drop": 1, "stacks": ["pair"]}, "1 blocks cannot leave, 0 of"),
        ("Tower", {"drop": 1, "keep": 1}, "given: keep and drop"),
        ("Residual", {"drop": 1}, "no stack of equal blocks"),
    ],
)
def test_mistakes_are_named(bench: Bench, name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(OptimizerError, match=told):
        bench.prune(prune_depth, bench.load(name), data(name), **options)


def test_named_blocks_need_no_data() -> None:
    assert prune_depth.data(prune_depth.Options(blocks=["a"])) == ()
    assert prune_depth.data(prune_depth.Options(drop=1)) == ("calibrate",)
