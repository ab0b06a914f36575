"""Single weights become zero where they matter least, in patterns that hold, and stay zero in training."""

from __future__ import annotations

import re

import numpy as np
import prune_lab
import pytest
import torch
from prune_lab import Bench, Held

from optimizer.errors import OptimizerError
from optimizer.formats import sparsity
from optimizer.formats.torch import load_record, open_model
from optimizer.passes import prune_channels, prune_weights
from optimizer.training import loop
from optimizer.training.settings import Settings
from optimizer.values import Artifact


def weights(found: Artifact) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in open_model(found.path).module.named_parameters() if p.dim() > 1}


def test_the_smallest_weights_of_every_layer_become_zero(bench: Bench) -> None:
    source = bench.load("Residual")
    result = bench.prune(prune_weights, source, sparsity=0.5)
    for name, tensor in weights(result).items():
        before = weights(source)[name]
        assert int((tensor == 0).sum()) == before.numel() // 2
        assert before[tensor == 0].abs().max() <= before[tensor != 0].abs().min()
        assert torch.equal(tensor[tensor != 0], before[tensor != 0])
    assert bench.notes["size"]["after"] < 0.75 * bench.notes["size"]["before"]
    assert set(load_record(result.path).masked) == set(weights(result))


def test_globally_small_layers_lose_more(bench: Bench) -> None:
    result = bench.prune(prune_weights, bench.load("Tower"), sparsity=0.4, scope="global")
    found = bench.notes["sparsity"]
    assert found["layers.2.0"] == 1.0 and found["layers.0.0"] < 0.4
    zeros = sum(int((w == 0).sum()) for w in weights(result).values())
    assert zeros == pytest.approx(0.4 * sum(w.numel() for w in weights(result).values()), abs=1)


def test_wanda_weighs_by_what_a_weight_is_multiplied_by(bench: Bench) -> None:
    """Inputs 0 and 1 are a thousand times smaller: their weights go first, whatever their size, in every row."""
    source = bench.load("PreNorm")
    inputs = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    inputs[:, :2] *= 1e-3
    result = bench.prune(prune_weights, source, {"calibrate": Held({"x": inputs})}, sparsity=0.34, method="wanda")
    embed = weights(result)["embed.weight"]
    assert (embed[:, :2] == 0).all() and (embed[:, 2:] != 0).all()
    reference = weights(source)["up.weight"]
    assert int((weights(result)["up.weight"] == 0).sum(1).unique()) == int(0.34 * reference.shape[1])


def test_wanda_knows_the_channels_of_grouped_convolutions(bench: Bench) -> None:
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    source = bench.load("Grouped")
    result = bench.prune(
        prune_weights, source, {"calibrate": Held({"image": images})}, sparsity=0.5, method="wanda", samples=8
    )
    module = open_model(source.path).module
    with torch.no_grad():
        given = torch.relu(module.reduce(torch.from_numpy(images)))
        norm = given.pow(2).sum((0, 2, 3)).sqrt().reshape(4, 1, 4, 1, 1)
        score = (module.grouped.weight.reshape(4, 6, 4, 3, 3).abs() * norm).reshape(24, -1)
    kept = weights(result)["grouped.weight"].reshape(24, -1) != 0
    assert torch.equal(kept, score.argsort(1).argsort(1) >= 18)


@pytest.mark.parametrize(("pattern", "nonzero", "width"), [("2:4", 2, 4), ("1:4", 1, 4), ("3:8", 3, 8)])
def test_a_pattern_holds_along_input_channels(bench: Bench, pattern: str, nonzero: int, width: int) -> None:
    source = bench.load("Residual")
    result = bench.prune(prune_weights, source, pattern=pattern)
    assert "stem" in bench.notes["left dense"] and "no multiple" in bench.notes["left dense"]["stem"]
    wide, before = weights(result)["wide.weight"], weights(source)["wide.weight"]
    for row, was in zip(
        wide.permute(0, 2, 3, 1).reshape(-1, width), before.permute(0, 2, 3, 1).reshape(-1, width), strict=True
    ):
        assert int((row != 0).sum()) == nonzero
        assert set(row.nonzero().flatten().tolist()) == set(was.abs().argsort()[-nonzero:].tolist())
    assert not sparsity.follows(before, nonzero, width)


def test_zeros_stay_zero_in_training_and_the_rest_moves(bench: Bench, tmp_path) -> None:
    result = bench.prune(prune_weights, bench.load("Residual"), sparsity=0.7)
    model = open_model(result.path)
    before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    random = np.random.default_rng(0)
    data = Held({"image": random.standard_normal((32, 3, 8, 8)).astype(np.float32)}, random.integers(0, 5, 32))

    def loss(module, batch):
        return torch.nn.functional.cross_entropy(module(batch.feeds["image"]), batch.labels), {}

    settings = Settings(steps=12, batch=16, lr=0.01, weight_decay=0.1, validation=0, ema=0.5, keep="last", device="cpu")
    loop.train(model.module, loss, data, settings)
    for name, parameter in model.module.named_parameters():
        zeros = before[name] == 0
        if name in model.record.masked:
            assert (parameter[zeros] == 0).all()
        assert not torch.equal(parameter[~zeros], before[name][~zeros])


def test_channels_can_leave_a_sparse_module(bench: Bench) -> None:
    sparse = bench.prune(prune_weights, bench.load("Residual"), sparsity=0.5)
    both = bench.prune(prune_channels, sparse, ratio=0.5, scope="layer", round_to=1)
    assert prune_lab.widths(both)["wide.weight"] == (8, 4, 3, 3)
    assert load_record(both.path).masked == load_record(sparse.path).masked
    assert (weights(both)["wide.weight"] == 0).any()
    assert not bench.warnings


def test_channels_that_leave_a_pattern_are_told(bench: Bench) -> None:
    sparse = bench.prune(prune_weights, bench.load("Residual"), pattern="2:4")
    bench.prune(prune_channels, sparse, ratio=0.5, scope="layer", round_to=1)
    assert any("no longer follow the pattern 2:4" in text for text in bench.warnings)
    assert "put prune.channels before prune.weights" in bench.warnings[-1]


def test_little_that_can_become_sparse_is_told(bench: Bench) -> None:
    bench.prune(prune_weights, bench.load("Residual"), sparsity=0.5)
    assert not bench.warnings
    bench.prune(prune_weights, bench.load("Flat"), sparsity=0.5, keep=["down"])
    assert re.search(r"became sparse hold \d+\.\d% of the model's weights", bench.warnings[0])


def test_a_schedule_recovers_between_steps(bench: Bench) -> None:
    random = np.random.default_rng(0)
    data = {"train": Held({"image": random.standard_normal((32, 3, 8, 8)).astype(np.float32)})}
    source = bench.load("Residual")
    plain = bench.prune(prune_weights, source, sparsity=0.8)
    recover = {"steps": 30, "batch": 16, "lr": 0.003, "validation": 0, "keep": "last", "device": "cpu"}
    taught = bench.prune(prune_weights, source, data, sparsity=0.8, steps=3, recover=recover)
    assert len(bench.notes["recovery.1"]["loss"]) > 1 and "recovery.3" not in bench.notes
    for name, tensor in weights(taught).items():
        assert float((tensor == 0).float().mean()) == pytest.approx(0.8, abs=0.06), name
    inputs = torch.from_numpy(data["train"].feeds["image"])
    with torch.no_grad():
        whole, one, three = (open_model(a.path).module(inputs) for a in (source, plain, taught))
    assert (three - whole).pow(2).sum() < (one - whole).pow(2).sum()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "exactly one of sparsity and pattern"),
        ({"pattern": "4:2"}, "for example 2:4"),
        ({"pattern": "2:4", "steps": 2}, "no global scope and no steps"),
        ({"sparsity": 0.5, "method": "wanda", "scope": "global"}, "scope: layer"),
        ({"sparsity": 0.5, "recover": {"epochs": 1}}, "there is one step"),
        ({"sparsity": 0.5, "keep": ["nothing"]}, "matches none"),
        ({"sparsity": 0.5, "keep": ["*"]}, "no layer that can become sparse .*kept as asked"),
        ({"pattern": "32:64"}, "no layer that can become sparse .*no multiple of 64"),
    ],
)
def test_mistakes_are_named(bench: Bench, options: dict[str, object], told: str) -> None:
    with pytest.raises(OptimizerError, match=told):
        bench.prune(prune_weights, bench.load("Residual"), **options)
