"""How the planner places training steps and finds teachers. Nothing is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.errors import OptimizerError
from optimizer.plan import Plan, plan
from optimizer.recipe import parse

NET = "from torch import nn\n\ndef Net(width=4):\n    return nn.Linear(4, 2)\n"


def data(name: str) -> dict[str, Any]:
    return {"source": {"npz": {"path": name}}, "label": "y"}


BASE: dict[str, Any] = {
    "schema": 1,
    "model": {"entry": "net.py:Net", "inputs": {"x": "float32[batch,4]"}},
    "data": {"calibrate": data("train.npz"), "train": data("train.npz"), "evaluate": data("test.npz")},
    "variants": {"fp32": []},
    "targets": ["onnxruntime", "openvino"],
    "measure": {"metrics": ["top1"], "latency": False},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    for seed, name in enumerate(("train", "test")):
        rng = np.random.default_rng(seed)
        np.savez(tmp_path / f"{name}.npz", x=rng.random((64, 4), dtype=np.float32), y=np.arange(64) % 2)
    return tmp_path


def planned(folder: Path, **changes: Any) -> Plan:
    return plan(parse({**BASE, **changes}, "test", folder))


def uses(found: Plan, candidate: str) -> list[str]:
    keys = next(c.steps for c in found.candidates if c.name == candidate)
    return [found.step(k).use for k in keys]


def test_training_comes_before_the_export_and_is_shared_by_targets(folder: Path) -> None:
    found = planned(folder, variants={"fp32": [], "tuned": ["finetune"], "int8": ["finetune", "quantize.static"]})
    assert uses(found, "tuned@onnxruntime") == ["load", "finetune", "export", "simplify", "onnxruntime"]
    assert sum(s.use == "finetune" for s in found.steps) == 1


def test_a_teacher_is_an_ingredient_and_comes_first(folder: Path) -> None:
    variants = {"student": [{"distill": {"teacher": "tuned"}}], "tuned": ["finetune"], "fp32": []}
    found = planned(folder, variants=variants)
    order = [s.use for s in found.steps]
    assert order.index("finetune") < order.index("distill")
    student = next(s for s in found.steps if s.use == "distill")
    tuned = next(s for s in found.steps if s.use == "finetune")
    assert student.others["tuned"].key == tuned.key
    assert student.ingredients["artifacts"]["tuned"][0] == tuned.key
    other = planned(folder, variants={**variants, "tuned": [{"finetune": {"lr": 0.1}}]})
    assert next(s for s in other.steps if s.use == "distill").key != student.key
    assert next(s for s in other.steps if s.use == "load").key == found.steps[0].key


def test_the_original_is_the_model_as_loaded(folder: Path) -> None:
    found = planned(folder, variants={"fp32": [], "student": ["finetune", "distill"]})
    student = next(s for s in found.steps if s.use == "distill")
    assert student.others["original"].key == found.steps[0].key
    assert student.source != found.steps[0].key


def test_a_variant_as_teacher_ends_before_its_export(folder: Path) -> None:
    variants = {"fp32": [], "int8": ["finetune", "quantize.static"], "student": [{"distill": {"teacher": "int8"}}]}
    found = planned(folder, variants=variants)
    student = next(s for s in found.steps if s.use == "distill")
    assert found.step(student.others["int8"].key).use == "finetune"


def test_a_finished_artifact_teaches_through_its_target(folder: Path) -> None:
    variants = {"int8": ["quantize.static"], "student": [{"distill": {"teacher": "int8@openvino"}}], "fp32": []}
    found = planned(folder, variants=variants)
    student = next(s for s in found.steps if s.use == "distill")
    other = student.others["int8@openvino"]
    assert found.step(other.key).format == "openvino" and other.target.__name__.endswith("openvino")
    keys = [s.key for s in found.steps]
    assert keys.index(other.key) < keys.index(student.key)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": [{"distill": {"teacher": "origina"}}]}, "unknown artifact 'origina'.*did you mean 'original'"),
        ({"a": [{"distill": {"teacher": "nope"}}]}, r"unknown artifact 'nope'.*; available: (?!a\b|a@)"),
        ({"a": [{"distill": {"teacher": "b@openvin"}}], "b": []}, "did you mean 'b@openvino'"),
        ({"a": [{"distill": {"teacher": "a"}}]}, r"waits for this very step \(a -> a\)"),
        (
            {"a": [{"distill": {"teacher": "b"}}], "b": ["finetune", {"distill": {"teacher": "a@onnxruntime"}}]},
            r"waits for this very step \(a -> b -> a\)",
        ),
        (
            {"a": ["quantize.static", "finetune"]},
            "finetune takes torch, the model is onnx by then; put it before 'quantize.static'",
        ),
        ({"a": ["distill"], "b": [{"distill": {"outputs": "none"}}]}, "name what is learnt instead"),
        ({"a": [{"finetune": {"epoch": 3}}]}, "did you mean 'epochs'"),
        ({"a": [{"finetune": {"validation": "select"}}]}, "needs the data role 'select'"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, variants: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        planned(folder, variants=variants)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_no_data_to_train_on(folder: Path) -> None:
    with pytest.raises(OptimizerError, match="'finetune' needs the data role 'train'"):
        planned(folder, variants={"a": ["finetune"]}, data={"evaluate": data("test.npz")})


def test_a_finished_program_cannot_be_trained(folder: Path) -> None:
    (folder / "net.pt2").write_bytes(b"program")
    with pytest.raises(OptimizerError, match=r"net.pt2 is a finished program.*\n.*entry") as caught:
        planned(folder, variants={"a": ["finetune"]}, model={"file": "net.pt2"})
    assert "finetune" in str(caught.value)


@pytest.mark.parametrize("role", ["evaluate", "select"])
def test_one_file_to_train_and_to_judge_is_refused_before_anything_runs(folder: Path, role: str) -> None:
    roles = {"train": data("train.npz"), "evaluate": data("test.npz"), role: data("train.npz")}
    with pytest.raises(OptimizerError, match=f"'train' and '{role}' share examples"):
        planned(folder, variants={"a": ["finetune"]}, data=roles)
