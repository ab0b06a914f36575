"""finetune and distill through whole builds on tiny models, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_lab import blobs

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.execute import Executed, execute
from optimizer.formats import torch as torch_format
from optimizer.plan import plan
from optimizer.recipe import parse
from optimizer.store import Store
from optimizer.training.matching import pair
from optimizer.values import Signature, TensorSpec

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16, outputs=3, layers=1, unit=False):
        super().__init__()
        self.first = nn.Linear(8, width)
        self.rest = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.last = nn.Linear(width, outputs)
        self.unit = unit

    def forward(self, x):
        x = torch.relu(self.first(x))
        for layer in self.rest:
            x = torch.relu(layer(x))
        x = self.last(x)
        return nn.functional.normalize(x, dim=-1) if self.unit else x

class Pictures(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=1)
        self.two = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.last = nn.Linear(2 * width, 3)

    def forward(self, x):
        x = torch.relu(self.two(torch.relu(self.one(x.reshape(-1, 1, 2, 4)))))
        return self.last(x.mean((2, 3)))

class Tokens(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.mix = nn.Linear(width, width)
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        x = torch.relu(self.mix(self.embed(x.unsqueeze(-1))))
        return self.last(x.mean(1))
"""
QUICK = {"batch": 16, "lr": 0.01, "epochs": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(CODE)
    for name, data in {"train": blobs(240, 1), "test": blobs(90, 2), "select": blobs(60, 3)}.items():
        np.savez(tmp_path / f"{name}.npz", x=data.feeds["x"], y=data.labels)
    return tmp_path


def recipe(
    folder: Path, variants: dict[str, Any], model: dict[str, Any] | None = None, label: str | None = "y"
) -> dict[str, Any]:
    data = {name: {"source": {"npz": {"path": f"{name}.npz"}}, "label": "y"} for name in ("train", "test", "select")}
    data["train"] = {**data["train"], "label": label, "inputs": {"x": "x"}}
    entry = {"entry": "net.py:Net", "inputs": {"x": "float32[batch,8]"}, "outputs": ["out"]}
    return {
        "schema": 1,
        "model": {**entry, **(model or {})},
        "data": {"train": data["train"], "evaluate": data["test"], "select": data["select"]},
        "variants": {"fp32": [], **variants},
        "targets": ["pytorch"],
        "measure": {"metrics": ["top1"], "latency": False},
    }


def built(
    folder: Path, store: Store, variants: dict[str, Any], targets: tuple[str, ...] = ("pytorch",), **changes: Any
) -> Executed:
    document = {**recipe(folder, variants, **changes), "targets": list(targets)}
    return execute(plan(parse(document, "test", folder)), store, Console(level=0), measure=False)


def opened(executed: Executed, variant: str) -> torch_format.TorchModel:
    key = next(c.artifact for c in executed.run.candidates if c.variant == variant and c.target == "pytorch")
    return torch_format.open_model(executed.producer.done[str(key)].artifact.path)


def notes(executed: Executed, use: str) -> dict[str, Any]:
    return next(step.notes for step in executed.run.steps if step.use == use)


def accuracy(model: torch_format.TorchModel) -> float:
    test = blobs(90, 2)
    assert test.labels is not None
    return float((model({"x": test.feeds["x"]})["out"].argmax(1) == test.labels).mean())


def test_finetune_learns_and_tells_its_curves(folder: Path, store: Store) -> None:
    found = built(folder, store, {"tuned": [{"finetune": {**QUICK, "metric": "top1"}}]})
    assert accuracy(opened(found, "fp32")) < 0.6 < 0.8 < accuracy(opened(found, "tuned"))
    told = notes(found, "finetune")
    assert told["loss"] == "cross-entropy of 'out'"
    training = told["training"]
    assert training["judged_by"] == "top1" and training["better"] == "higher" and training["held_back"] == 24
    assert (
        len(training["loss"]) == len(training["steps"]) == len(training["rates"]) == len(training["parts"]["accuracy"])
    )
    assert training["loss"][-1] < training["loss"][0] and training["scores"]["top1"][-1] > training["scores"]["top1"][0]
    json.dumps(training)
    again = built(folder, store, {"tuned": [{"finetune": {**QUICK, "metric": "top1"}}]})
    assert all(step.cached for step in again.run.steps)
    assert not list((store.root / "work").iterdir())


def test_the_state_is_chosen_on_select_where_asked_for(folder: Path, store: Store) -> None:
    found = built(folder, store, {"tuned": [{"finetune": {**QUICK, "epochs": 2, "validation": "select"}}]})
    training = notes(found, "finetune")["training"]
    assert (training["examples"], training["held_back"]) == (240, 60)


TEACHER = [{"finetune": {**QUICK}}]


def test_a_variant_teaches_and_the_record_says_what_is_learnt(folder: Path, store: Store) -> None:
    variants = {"teacher": TEACHER, "student": [{"distill": {**QUICK, "teacher": "teacher"}}]}
    found = built(folder, store, variants)
    assert accuracy(opened(found, "student")) > 0.8
    told = notes(found, "distill")
    assert told["teacher"] == "teacher (torch)" and told["learns"] == ["'out' by kl at temperature 2"]
    x = {"x": blobs(90, 2).feeds["x"]}
    apart = np.abs(opened(found, "student")(x)["out"] - opened(found, "teacher")(x)["out"]).max()
    before = np.abs(opened(found, "fp32")(x)["out"] - opened(found, "teacher")(x)["out"]).max()
    assert apart < 0.5 * before


@pytest.mark.parametrize(
    ("model", "learns"),
    [
        ({"args": {"unit": True, "outputs": 8}}, "'out' by cosine"),
        ({"args": {"outputs": 20}, "outputs": ["scores"]}, "'scores' by kl at temperature 2"),
    ],
)
def test_the_loss_fits_the_outputs(folder: Path, store: Store, model: dict[str, Any], learns: str) -> None:
    found = built(folder, store, {"s": [{"distill": {**QUICK, "steps": 1}}]}, model=model, label=None)
    assert notes(found, "distill")["learns"] == [learns]


def test_values_are_learnt_by_their_squared_error(folder: Path, store: Store) -> None:
    found = built(
        folder, store, {"s": [{"distill": {**QUICK, "steps": 1}}]}, model={"args": {"outputs": 2}}, label=None
    )
    assert notes(found, "distill")["learns"] == ["'out' by mse"]


def test_labels_that_nobody_compares_with_may_be_json(folder: Path, store: Store) -> None:
    train = blobs(240, 1)
    np.savez(folder / "train.npz", x=train.feeds["x"], y=np.array(['{"boxes": [[1, 2, 3, 4]], "labels": [1]}'] * 240))
    document = recipe(folder, {"s": [{"distill": {**QUICK, "steps": 1}}]})
    document["data"]["train"]["label_as"] = "json"
    found = execute(plan(parse(document, "test", folder)), store, Console(level=0), measure=False)
    assert notes(found, "distill")["learns"] == ["'out' by mse"]
    document["variants"]["s"] = ["finetune"]
    with pytest.raises(OptimizerError, match=r"s@pytorch: finetune: .* has none that are numbers"):
        execute(plan(parse(document, "test", folder)), store, Console(level=0), measure=False)


def test_labels_may_be_mixed_in(folder: Path, store: Store) -> None:
    found = built(folder, store, {"s": [{"distill": {**QUICK, "hard": 0.5}}]})
    told = notes(found, "distill")
    assert "labels by cross-entropy of 'out', weight 0.5" in told["learns"]
    assert set(told["training"]["parts"]) == {"outputs", "labels", "accuracy"}


def test_inner_layers_of_another_width_are_projected(folder: Path, store: Store) -> None:
    inner = {"features": {"first": "last"}, "outputs": "none"}
    found = built(folder, store, {"s": [{"distill": {**QUICK, **inner}}]}, label=None)
    told = notes(found, "distill")
    assert told["learns"] == ["features of 'first' from 'last'"]
    curve = told["training"]["parts"]["features"]
    assert curve[-1] < 0.5 * curve[0]
    assert set(opened(found, "s").module.state_dict()) == set(opened(found, "fp32").module.state_dict())


@pytest.mark.parametrize(
    ("entry", "pairs"),
    [
        ("net.py:Pictures", {"attention": {"one": "two"}, "features": {"two": "one"}}),
        ("net.py:Tokens", {"attention": {"mix": "embed"}, "heads": 2}),
    ],
)
def test_attention_of_pictures_and_of_sequences(folder: Path, store: Store, entry: str, pairs: dict[str, Any]) -> None:
    variants = {"s": [{"distill": {**QUICK, "outputs": "none", **pairs}}]}
    found = built(folder, store, variants, model={"entry": entry})
    curve = notes(found, "distill")["training"]["parts"]["attention"]
    assert curve[-1] < 0.9 * curve[0]


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"features": {"firts": "last"}}, {}, "unknown module of the student 'firts'.*did you mean 'first'"),
        ({"features": {"first": "lsat"}}, {}, "unknown module of the teacher 'lsat'.*did you mean 'last'"),
        ({"attention": {"first": "last"}}, {}, "cannot be compared as attention"),
        ({"output": "embedding"}, {}, "unknown output 'embedding'"),
        ({"hard": 0.5}, {"label": None}, "the data 'train' has none"),
        ({"metric": "top1"}, {"label": None}, "'top1' chooses the best state by labels"),
    ],
)
def test_distill_refuses(
    folder: Path, store: Store, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptimizerError, match=f"(?s){message}"):
        built(folder, store, {"s": [{"distill": {**QUICK, **options}}]}, **changes)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"label": None}, "compares with labels, the data 'train' has none"),
        ({}, {"model": {"args": {"outputs": 2}}}, "labels go from 0 to 2, the output 'out' has scores for 2 classes"),
        ({"loss": "mse"}, {}, "as many labels as outputs"),
        ({"loss": "cosine"}, {}, "compares pairs"),
        ({"output": "outt"}, {}, "did you mean 'out'"),
        ({"metric": "agreement"}, {}, "compares with a baseline"),
        ({"augment": {"flip": True}}, {}, "no input holds any"),
        ({"lr": 1e9, "optimizer": "sgd", "validation": 0}, {}, "the loss became|training diverges"),
    ],
)
def test_finetune_refuses(
    folder: Path, store: Store, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptimizerError, match=message):
        built(folder, store, {"s": [{"finetune": {**QUICK, **options}}]}, **changes)
    assert not [e for e in store.entries() if e.use == "finetune"], "nothing is half-written"


def test_training_on_what_is_evaluated_is_refused_or_left_out(folder: Path, store: Store) -> None:
    train, test = blobs(240, 1), blobs(90, 2)
    assert train.labels is not None and test.labels is not None
    both = np.concatenate([train.feeds["x"], test.feeds["x"][:4]])
    np.savez(folder / "train.npz", x=both, y=np.concatenate([train.labels, test.labels[:4]]))
    with pytest.raises(OptimizerError, match=r"4 of 244 examples of the training data .* \(rows 240, 241, 242, ...\)"):
        built(folder, store, {"s": [{"finetune": QUICK}]})
    found = built(folder, store, {"s": [{"finetune": {**QUICK, "overlap": "drop"}}]})
    assert notes(found, "finetune")["shared examples"] == {"evaluate": 4, "select": 0}
    training = notes(found, "finetune")["training"]
    assert training["examples"] + training["held_back"] == 240


def test_a_finished_artifact_teaches_its_outputs_but_not_its_layers(folder: Path, store: Store) -> None:
    taught = {**QUICK, "teacher": "teacher@onnxruntime"}
    both = ("pytorch", "onnxruntime")
    found = built(folder, store, {"teacher": TEACHER, "student": [{"distill": taught}]}, both)
    assert accuracy(opened(found, "student")) > 0.8
    assert notes(found, "distill")["teacher"] == "teacher@onnxruntime (onnx)"
    with pytest.raises(OptimizerError, match="is a compiled model, whose inner layers cannot be read"):
        inner = {**taught, "features": {"first": "first"}}
        built(folder, store, {"teacher": TEACHER, "student": [{"distill": inner}]}, both)


def test_a_teacher_of_another_shape_is_refused() -> None:
    def signature(*outputs: tuple[str, int]) -> Signature:
        return Signature((), tuple(TensorSpec(name, "float32", ("batch", size)) for name, size in outputs))

    assert pair(signature(("scores", 10)), signature(("logits", 10)), None, "t", "distill") == {"scores": "logits"}
    with pytest.raises(
        OptimizerError, match=r"gives 'scores' as float32\[batch,100\], the student as float32\[batch,10\]"
    ):
        pair(signature(("scores", 10)), signature(("scores", 100)), None, "t", "distill")
    with pytest.raises(OptimizerError, match="the teacher 't' has no output 'b'; it has a"):
        pair(signature(("a", 2), ("b", 2)), signature(("a", 2)), None, "t", "distill")


def test_a_folder_that_has_moved_costs_no_training(folder: Path, store: Store) -> None:
    variants = {"tuned": [{"finetune": {**QUICK, "epochs": 2}}]}
    x = {"x": blobs(90, 2).feeds["x"]}
    here, elsewhere = folder / "here", folder / "elsewhere"
    here.mkdir()
    for file in [*folder.glob("*.npz"), folder / "net.py"]:
        file.rename(here / file.name)
    before = opened(built(here, store, variants), "tuned")(x)["out"]
    here.rename(elsewhere)
    found = built(elsewhere, store, variants)
    assert {s.use: s.cached for s in found.run.steps} == {"load": False, "finetune": True, "pytorch": True}
    assert np.array_equal(opened(found, "tuned")(x)["out"], before)
    assert all(s.cached for s in built(elsewhere, store, variants).run.steps)


def test_what_a_metric_says_of_an_untrained_model_is_no_fault(
    folder: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "judge.py").write_text(
        "import numpy as np\n\ndef certain(outputs, labels):\n"
        "    z = outputs['out']\n    return np.where(z.max(axis=1) > 0.999, 1.0, np.nan if len(z) < 3 else 0.0)\n"
    )
    document = recipe(folder, {"tuned": [{"finetune": {**QUICK, "epochs": 1}}]})
    document |= {"data": {role: found for role, found in document["data"].items() if role != "select"}}
    document["measure"]["metrics"] = ["judge.py:certain"]
    with pytest.raises(OptimizerError, match=r"'certain' on data 'evaluate': .* NaN or infinity"):
        execute(plan(parse(document, "test", folder)), store, Console(level=0))
    assert {entry.record["use"] for entry in store.entries()} == {"load"}, "fp32 is judged as it was loaded"
    del document["variants"]["fp32"]
    found = execute(plan(parse(document, "test", folder)), store, Console(level=1))
    assert [m.metric for m in found.run.measurements if m.relation == "absolute"].count("certain") == 1
    assert "before its training: metric 'certain' on data 'evaluate'" in capsys.readouterr().err
