"""Every entry of the registry keeps the contract of its kind; the kit itself notices what breaks one."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
from pydantic import BaseModel, Field

from optimizer import registry, testing
from optimizer.protocols import Batch
from optimizer.schema import Strict

ENTRIES = [(kind, name) for kind in registry.KINDS for name in registry.BUILT_IN[kind]]
COUNT = 12


@pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=[f"{kind}-{name}" for kind, name in ENTRIES])
def test_keeps_its_contract(kind: registry.Kind, name: str) -> None:
    testing.CHECKS[kind](registry.load(kind, name))


def test_nothing_heavy_is_imported_with_a_plugin() -> None:
    testing.check_imports(*(registry.BUILT_IN[kind][name] for kind, name in ENTRIES))


def batch(labels: np.ndarray) -> Batch:
    return Batch(feeds={}, labels=labels, indices=np.arange(COUNT))


@pytest.mark.parametrize("name", ["top1", "top5", "f1", "agreement", "cosine"])
def test_class_metrics_compute_by_the_contract(name: str) -> None:
    random = np.random.default_rng(1)
    outputs = {"scores": random.standard_normal((COUNT, 7)).astype(np.float32)}
    testing.check_metric(registry.load("metrics", name), outputs, batch(random.integers(0, 7, COUNT)))


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_correlations_compute_by_the_contract(name: str) -> None:
    random = np.random.default_rng(2)
    outputs = {"score": random.standard_normal((COUNT, 1)).astype(np.float32)}
    testing.check_metric(registry.load("metrics", name), outputs, batch(random.standard_normal(COUNT)))


def plugin(**members: object) -> ModuleType:
    """A copy of the metric top1 with some names changed; None removes one."""
    source = importlib.import_module("optimizer.metrics.top1")
    made = ModuleType("broken_plugin", source.__doc__)
    for name, value in {**vars(source), **members}.items():
        if not name.startswith("__") and value is not None:
            setattr(made, name, value)
    return made


class Undocumented(Strict):
    speed: float = 1.0


class Loose(BaseModel):
    speed: float = Field(1.0, description="how fast")


class Unsound(Strict):
    speed: int = Field(0, ge=1, description="how fast")


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"UNIT": "percent"}, "UNIT is not one of"),
        ({"BETTER": None}, "BETTER is not one of"),
        ({"UNIT": "pp"}, "UNIT is not one of '%', ''"),
        ({"LABELS": "words"}, "LABELS is not one of 'classes', 'numbers', 'text', 'json', 'tokens'"),
        ({"SHARE": "yes"}, "SHARE is not True or False"),
        ({"summarize": None}, "has no function summarize"),
        ({"examples": lambda outputs: outputs}, "examples does not take 3 arguments"),
        ({"Options": None}, "Options is not a pydantic model"),
        ({"Options": Undocumented}, "the option 'speed' has no description"),
        ({"Options": Loose}, "accepts unknown keys"),
        ({"Options": Unsound}, "the default of the option 'speed' is not valid"),
        ({"AGAINST": "baseline"}, "has no function compare"),
    ],
)
def test_the_kit_names_a_broken_metric(members: dict[str, object], fault: str) -> None:
    with pytest.raises(AssertionError, match="broken_plugin: .*" + fault):
        testing.check_metric(plugin(**members))


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"examples": lambda o, b, p: np.zeros((3, 1))}, "returned shape"),
        ({"examples": lambda o, b, p: np.full((COUNT, 1), np.nan)}, "NaN"),
        ({"summarize": lambda rows: float(rows[0, 0]) + float(rows[-1, 0]) * 2}, "depends on the order"),
        ({"summarize": lambda rows: float(rows.mean())}, "SHARE is True, but"),
        ({"weighted": lambda rows, counts: counts.sum(axis=1) * 0.0 - 1}, "weighted does not agree"),
    ],
)
def test_the_kit_names_a_metric_that_computes_nonsense(members: dict[str, object], fault: str) -> None:
    random = np.random.default_rng(3)
    outputs = {"scores": random.standard_normal((COUNT, 7))}
    labels = outputs["scores"].argmax(axis=1)
    labels[: COUNT // 2] = (labels[: COUNT // 2] + 1) % 7
    with pytest.raises(AssertionError, match=fault):
        testing.check_metric(plugin(**members), outputs, batch(labels))


def test_the_kit_names_a_broken_pass_and_target() -> None:
    empty = ModuleType("empty")
    with pytest.raises(AssertionError, match=r"has no docstring.*VERSION is not.*CONSUMES is not.*has no function run"):
        testing.check_pass(empty)
    source = importlib.import_module("optimizer.targets.pytorch")
    target = ModuleType("broken_target", "x")
    vars(target).update({n: v for n, v in vars(source).items() if not n.startswith("__")})
    vars(target).update(SCHEME="int8", COMPILE=("speed",), CONSUMES=("coreml",), probe=lambda: "")
    with pytest.raises(AssertionError, match=r"CONSUMES holds coreml.*SCHEME is no.*COMPILE names speed.*probe\(\)"):
        testing.check_target(target)


def test_the_kit_names_heavy_imports(tmp_path, monkeypatch) -> None:
    (tmp_path / "greedy_plugin.py").write_text("import onnx\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(AssertionError, match="importing greedy_plugin loads onnx"):
        testing.check_imports("optimizer.metrics.top1", "greedy_plugin")
    with pytest.raises(AssertionError, match="No module named 'nowhere'"):
        testing.check_imports("nowhere")
