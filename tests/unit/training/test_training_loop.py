"""The training loop: it learns, repeats itself, goes on where it was killed, and notices what goes wrong."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_lab import Examples, Net, blobs, cross_entropy, equal, settings, weights

from optimizer.errors import OptimizerError
from optimizer.training import checkpoint, descent
from optimizer.training.augment import augment
from optimizer.training.cached import cached
from optimizer.training.feeder import Feeder, split
from optimizer.training.loop import train
from optimizer.training.settings import Augment
from optimizer.training.values import Validation


class Killed(Exception):
    """Stands for SIGKILL at a step; the real one is in tests/faults."""


def dying(at: int):
    """A loss that ends the training at its call number `at`."""
    calls = 0

    def loss(module: nn.Module, batch: object):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        return cross_entropy(module, batch)

    return loss


def test_it_learns_and_leaves_the_best_state(tmp_path: Path) -> None:
    net = Net()
    history = train(net, cross_entropy, blobs(), settings(epochs=6), work=tmp_path)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert history.judged_by == "loss" and history.validated[0] == 0 and history.validated[-1] == history.total
    assert history.best == history.validated[int(np.argmin(history.scores["loss"]))]
    assert history.examples + history.held_back == 200 and history.held_back == 20
    assert not net.training and next(net.parameters()).device.type == "cpu"
    assert (
        float((net(torch.from_numpy(blobs(seed=5).feeds["x"])).argmax(1).numpy() == blobs(seed=5).labels).mean()) > 0.8
    )


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    made = []
    for seed in (0, 0, 1):
        net = Net()
        torch.rand(3)  # whatever was drawn before plays no part
        train(net, cross_entropy, blobs(), settings(epochs=1), seed=seed)
        made.append(weights(net))
    assert equal(made[0], made[1])
    assert not equal(made[0], made[2])


def test_the_global_random_state_is_left_as_it_was() -> None:
    net, before = Net(), torch.get_rng_state()
    train(net, cross_entropy, blobs(), settings(steps=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "clip": 1.0, "keep": "last"}], ids=["plain", "averaged"])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path, optimizer: str, more: dict) -> None:
    options = settings(epochs=3, optimizer=optimizer, **more)
    whole = Net()
    uninterrupted = train(whole, cross_entropy, blobs(), options, work=tmp_path / "a")
    with pytest.raises(Killed):
        train(Net(), dying(24), blobs(), options, work=tmp_path / "b")
    net = Net()
    with torch.no_grad():
        net.hidden.weight.zero_()  # what it begins with plays no part: the checkpoint has it all
    assert train(net, cross_entropy, blobs(), options, work=tmp_path / "b") == uninterrupted
    assert equal(weights(whole), weights(net))


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(Net(), dying(24), blobs(), settings(epochs=3), work=tmp_path)
    assert (tmp_path / checkpoint.FILE).is_file()
    net, fresh = Net(), Net()
    train(net, cross_entropy, blobs(), settings(epochs=3, lr=0.02), work=tmp_path)
    train(fresh, cross_entropy, blobs(), settings(epochs=3, lr=0.02))
    assert equal(weights(net), weights(fresh))


def test_a_torn_checkpoint_is_none(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(Net(), dying(24), blobs(), settings(epochs=3), work=tmp_path)
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-200])
    (tmp_path / f".{checkpoint.FILE}.1234").write_bytes(b"torn")
    net, fresh = Net(), Net()
    train(net, cross_entropy, blobs(), settings(epochs=3), work=tmp_path)
    train(fresh, cross_entropy, blobs(), settings(epochs=3))
    assert equal(weights(net), weights(fresh))
    assert not list(tmp_path.glob(".*"))


def test_early_stopping_keeps_the_best_and_resumes_as_stopped(tmp_path: Path) -> None:
    values = iter([5.0, 4.0, 3.0, 3.5, 3.6, 0.0, 0.0])
    validation = Validation(score=lambda module, batches: {"error": next(values)})
    options = settings(epochs=5, validations=10, patience=2)
    net = Net()
    history = train(net, cross_entropy, blobs(), options, validation=validation)
    assert history.stopped == history.validated[-1] < history.total
    assert history.best == history.validated[2] and history.scores["error"] == [5.0, 4.0, 3.0, 3.5, 3.6]


def test_higher_is_better_where_the_score_says_so() -> None:
    values = iter([0.1, 0.9, 0.5, 0.2, 0.3])
    validation = Validation(score=lambda module, batches: {"accuracy": next(values)}, better="higher")
    history = train(Net(), cross_entropy, blobs(), settings(epochs=2), validation=validation)
    assert history.best == history.validated[1]


def test_validation_examples_are_never_trained_on() -> None:
    seen: set[int] = set()

    def loss(module: nn.Module, batch: object):
        if module.training:
            seen.update(batch.indices.tolist())
        return cross_entropy(module, batch)

    train(Net(), loss, blobs(), settings(epochs=3, validation=0.25))
    _, held = split(200, 0.25, 0)
    assert len(seen) == 150 and not seen & set(held.tolist())


def test_nan_stops_with_step_loss_rate_and_advice() -> None:
    calls = 0

    def loss(module: nn.Module, batch: object):
        nonlocal calls
        calls += 1
        value, parts = cross_entropy(module, batch)
        return (value * float("nan") if calls == 7 else value), parts

    with pytest.raises(OptimizerError, match=r"NaN at step 7, at a learning rate of 0.00\d+ \(it was") as caught:
        train(Net(), loss, blobs(), settings(epochs=3, validation=0.0))
    assert "lr: 0.00" in str(caught.value.hint)


def test_divergence_stops_and_a_rise_is_said() -> None:
    step = 0

    def loss(module: nn.Module, batch: object):
        nonlocal step
        step += 1
        return cross_entropy(module, batch)[0] * (1.2**step), {}

    with pytest.raises(OptimizerError, match="training diverges: the loss is"):
        train(Net(), loss, blobs(), settings(epochs=20, validation=0.0))
    step, said = 0, []
    train(Net(), loss, blobs(), settings(epochs=2, validation=0.0), warn=said.append)
    assert "the training loss rose" in said[0]


def test_no_example_is_left(tmp_path: Path) -> None:
    with pytest.raises(OptimizerError, match="no example is left to train on, of 1"):
        train(Net(), cross_entropy, blobs(1), settings(validation=0.9))


def test_nothing_to_train() -> None:
    net = Net()
    net.requires_grad_(False)
    with pytest.raises(OptimizerError, match="no parameter that can be trained"):
        train(net, cross_entropy, blobs(), settings())


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptimizerError, match="finds no CUDA device"):
        train(Net(), cross_entropy, blobs(), settings(device="cuda"))


def test_the_learning_rate_rises_and_falls() -> None:
    options = settings(warmup=0.1, lr=1.0)
    rates = [descent.rate(step, 100, options) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx(0.5) and rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert descent.rate(90, 100, settings(schedule="constant", lr=1.0)) == 1.0


def test_biases_and_norms_do_not_decay_and_rates_may_differ() -> None:
    groups = descent.build(Net(), settings(weight_decay=0.1), lambda name: 0.5 if "last" in name else 1.0).param_groups
    shapes = {(g["weight_decay"], g["factor"]): [tuple(p.shape) for p in g["params"]] for g in groups}
    assert shapes == {
        (0.1, 1.0): [(16, 8)],
        (0.0, 1.0): [(16,), (16,), (16,)],
        (0.1, 0.5): [(3, 16)],
        (0.0, 0.5): [(3,)],
    }


def test_every_epoch_draws_every_example_once_in_another_order() -> None:
    feeder = Feeder(blobs(), np.arange(160), settings(), 0)
    epochs = [
        np.concatenate([b.indices for b in feeder.batches(10 * e, 10 * e + 10, torch.device("cpu"))]) for e in (0, 1)
    ]
    assert all(sorted(e.tolist()) == list(range(160)) for e in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_batches_of_sequences_are_of_like_length() -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 9, (1, size)) for size in rng.integers(2, 60, 640)]

    class Text(Examples):
        def batches(self, size: int, limit: int | None = None):
            for place, text in enumerate(texts):
                yield type(self.at(np.arange(1)))({"ids": text}, None, np.array([place]))

        def __len__(self) -> int:
            return len(texts)

    found = cached(Text({"ids": np.zeros((640, 1))}), Path("/tmp"))
    feeder = Feeder(found, np.arange(640), settings(batch=16), 0)
    drawn = list(feeder.batches(0, feeder.per_epoch, torch.device("cpu")))
    assert sorted(np.concatenate([b.indices for b in drawn]).tolist()) == list(range(640))
    for batch in drawn:
        for row, index in zip(batch.feeds["ids"].numpy(), batch.indices, strict=True):
            own = texts[index].ravel()
            assert row[: own.size].tolist() == own.tolist() and not row[own.size :].any()
    padded = sum(b.feeds["ids"].numel() for b in drawn)
    assert padded < 1.1 * sum(text.size for text in texts)


def test_decoded_examples_are_what_the_data_set_gives(tmp_path: Path) -> None:
    data = blobs(50)
    found = cached(data, tmp_path)
    places = np.array([7, 3, 49])
    assert np.array_equal(found.at(places).feeds["x"], data.feeds["x"][places])
    assert np.array_equal(found.at(places).labels, data.labels[places])
    assert not list(tmp_path.iterdir()), "the files have no name, so that nothing is left of a killed process"
    assert cached(data, tmp_path, bound=100) is data, "too large: decoded as drawn"


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], [np.zeros(1), np.zeros(2), np.zeros(2), np.zeros(3)]])
def test_labels_that_no_loss_compares_with_are_left_out(labels: list[object], tmp_path: Path) -> None:
    """`distill` learns without labels; what needs them says so (test_training_steps)."""
    data = blobs(4)
    data.labels = np.array(labels, dtype=None if isinstance(labels[0], str) else object)
    found = cached(data, tmp_path)
    assert found.at(np.arange(4)).labels is None
    assert np.array_equal(found.at(np.arange(4)).feeds["x"], data.at(np.arange(4)).feeds["x"])


def test_pictures_are_shifted_and_mirrored_within_bounds() -> None:
    pictures = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8).repeat(40, 0)
    found = augment({"image": pictures}, Augment(flip=True, crop=2), np.random.default_rng(0))["image"]
    assert found.shape == pictures.shape and found.dtype == np.float32
    changed = [not np.array_equal(a, b) for a, b in zip(found, pictures, strict=True)]
    assert any(changed) and all(set(a.ravel()) <= set(b.ravel()) for a, b in zip(found, pictures, strict=True))
    mirrored = augment({"image": pictures}, Augment(flip=True), np.random.default_rng(0))["image"]
    flips = [np.array_equal(a, b[:, :, ::-1]) for a, b in zip(mirrored, pictures, strict=True)]
    assert 20 < sum(flips) < 60
    last = np.moveaxis(pictures, 1, -1)
    other = augment({"image": last}, Augment(flip=True, crop=2), np.random.default_rng(0))["image"]
    assert np.array_equal(np.moveaxis(other, -1, 1), found), "the order of the axes changes nothing else"


def test_augment_without_pictures_is_refused() -> None:
    with pytest.raises(OptimizerError, match="no input holds any"):
        train(Net(), cross_entropy, blobs(), settings(augment={"flip": True}))


def test_the_average_follows_the_weights() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = descent.Average(net, 0.9)
    nn.init.ones_(net.weight)
    for step in range(200):
        average.update(net, step)
    assert math.isclose(float(average.state["weight"]), 1.0, abs_tol=1e-6)


def test_dropout_may_rest_and_comes_back() -> None:
    class Watching(Net):
        shares: list[float] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.shares.append(self.drop.p)
            return super().forward(x)

    net = Watching()
    train(net, cross_entropy, blobs(), settings(steps=2, dropout=False))
    assert set(net.shares) == {0.0} and net.drop.p == 0.2
