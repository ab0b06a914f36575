"""What one answer for all examples scores, and that a baseline which is no better than that is cautioned of."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import optc
from onnx import TensorProto, helper, numpy_helper

from optimizer import execute, recipe, registry
from optimizer.console import Console
from optimizer.measure import accuracy, constant
from optimizer.plan import plan
from optimizer.protocols import Batch
from optimizer.store import Store
from optimizer.values import Run

CLASSES = 7
LABELS = np.repeat(np.arange(CLASSES), [9, 3, 5, 1, 2, 4, 6])


def score(name: str, scores: np.ndarray, labels: Any, **given: Any) -> tuple[float, float | None]:
    """What a metric says of outputs, and what it says of one answer for all."""
    metric = registry.load("metrics", name)
    found = Batch({}, labels, np.arange(len(labels)))
    rows = metric.examples({"scores": scores}, found, metric.Options(**given))
    return metric.summarize(rows), metric.constant(rows, labels if metric.LABELS == "classes" else None)


@pytest.mark.parametrize(("name", "given"), [("top1", {}), ("top5", {}), ("f1", {}), ("f1", {"positive": 4})])
def test_no_constant_answer_of_a_classifier_is_better_and_one_is_as_good(name: str, given: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    orders = [np.argsort(random.random(CLASSES)) for _ in range(400)]
    orders.append(np.argsort(np.argsort(np.bincount(LABELS))))  # the most frequent highest
    orders.append(np.eye(CLASSES)[4])
    tried = [score(name, np.tile(order.astype(float), (len(LABELS), 1)), LABELS, **given) for order in orders]
    level = tried[0][1]
    assert level is not None and {own for _, own in tried} == {level}, "it does not depend on the model"
    assert max(value for value, _ in tried) == pytest.approx(level)


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_numbers_that_do_not_vary_correlate_with_nothing(name: str) -> None:
    value, level = score(name, np.full((30, 1), 0.3), np.arange(30.0))
    assert value == level == 0


def test_perplexity_of_equal_likelihoods_is_the_vocabulary() -> None:
    tokens = np.random.default_rng(0).integers(0, 11, (6, 9))
    assert score("perplexity", np.zeros((6, 9, 11)), tokens) == (pytest.approx(11), 11)


def test_a_recognizer_that_writes_nothing_misses_every_word(tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    (tmp_path / "words.txt").write_text("<pad>\na\nb\n|\n")
    said = np.array(["a b", "ab a b"], object)
    assert score("wer", np.zeros((2, 5), np.int64), said, vocabulary=tmp_path / "words.txt") == (100, 100)


def test_a_detector_that_finds_nothing_is_the_constant_one() -> None:
    pytest.importorskip("pycocotools")
    metric = registry.load("metrics", "map")
    truth = np.empty(2, object)
    truth[:] = [{"boxes": [[0, 0, 9, 9]], "labels": [1]}, {"boxes": [], "labels": []}]
    outputs = {"boxes": np.zeros((2, 1, 4)), "scores": np.zeros((2, 1)), "labels": np.zeros((2, 1), int)}
    rows = metric.examples(outputs, Batch({}, truth, np.arange(2)), metric.Options())
    assert metric.summarize(rows) == metric.constant(rows, None) == 0


def cautioned(name: str, rows: np.ndarray, classes: np.ndarray | None = None) -> list[str]:
    metric = registry.load("metrics", name)
    metrics = {name: (metric, metric.Options())}
    measured = accuracy.measurements("fp32@a", {name: rows}, metrics, None, "here", 0, {})
    return constant.cautions([constant.Judged("fp32@a", {name: rows}, classes)], metrics, measured)


def test_the_interval_decides() -> None:
    classes = np.repeat([0, 1], [600, 400])  # always 0 is right in 60 %
    hits = lambda count: np.arange(1000)[:, None] < count  # noqa: E731  # rows of a model that is right so often
    (told,) = cautioned("top1", hits(615).astype(float), classes)
    assert told == (
        "top1 does not tell the baseline from one answer for all examples, which scores 60 %: it is "
        "61.5 % [58.45, 64.47] for fp32@a; a drop from that says nothing"
    )
    assert cautioned("top1", hits(300).astype(float), classes), "worse than that is no better"
    assert not cautioned("top1", hits(640).astype(float), classes)
    assert not cautioned("top1", hits(300).astype(float), None), "without classes nothing is known"
    noise = np.random.default_rng(0).normal(size=(300, 2))
    assert cautioned("spearman", noise) and not cautioned("spearman", np.cumsum(np.abs(noise), axis=0))


def test_where_lower_is_better_the_upper_end_counts() -> None:
    far, near = (np.tile([9 * loss, 9.0, 11.0], (50, 1)) for loss in (2.0, 2.5))
    assert not cautioned("perplexity", far) and cautioned("perplexity", near)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier of four classes that was never trained, beside one that was."""
    random = np.random.default_rng(0)
    x, right = random.normal(size=(400, 16)).astype(np.float32), random.normal(size=(16, 4)).astype(np.float32)
    np.savez(tmp_path / "test.npz", x=x, label=(x @ right).argmax(axis=1))
    for name, weights in (("untrained", np.zeros((16, 4), np.float32)), ("trained", right)):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["z"], name="product")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4])],
            [numpy_helper.from_array(weights, "w")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(made, tmp_path / f"{name}.onnx")
    return tmp_path


def built(folder: Path, store: Store, model: str, **measure: Any) -> Run:
    document = {
        "model": {"file": f"{model}.onnx"},
        "data": {"evaluate": "test.npz"},
        "variants": {"fp32": [], "dynamic": ["quantize.dynamic"]},
        "targets": ["onnxruntime"],
        "measure": {"metrics": ["top1", "agreement"], "latency": False, **measure},
        "gates": ["top1 drop <= 4pp"],
    }
    planned = plan(recipe.parse(document, "test", folder, "tiny"))
    return execute.execute(planned, store, Console(err=io.StringIO())).run


def test_a_build_with_a_worthless_baseline_says_so(folder: Path, store: Store) -> None:
    run = built(folder, store, "untrained")
    assert run.outcome == "pass", "which is why it has to be said"
    (told,) = [text for text in run.warnings if "one answer for all examples" in text]
    assert told.startswith("top1 does not tell the baseline from one answer") and "for fp32@onnxruntime;" in told
    assert "dynamic@onnxruntime" not in told
    assert not [t for t in built(folder, store, "trained").warnings if "one answer for all examples" in t]


def test_so_does_an_evaluation_without_a_recipe(folder: Path) -> None:
    told = optc(folder, "eval", "untrained.onnx", "trained.onnx", "--data", "test.npz")
    assert told.returncode == 0 and "one answer for all examples" in told.stdout
    for paths in (("trained.onnx", "untrained.onnx"), ("untrained.onnx",)):
        assert "one answer for all examples" not in optc(folder, "eval", *paths, "--data", "test.npz").stdout
