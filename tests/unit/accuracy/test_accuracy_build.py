"""A whole build on a tiny graph: slices, corrections, a split to choose on, and what is told before it runs."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer import choice, execute, produce, recipe, resolution
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.plan import Plan, plan
from optimizer.store import Store
from optimizer.values import Run

WEIGHTS = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
BASE: dict[str, Any] = {
    "model": {"file": "m.onnx"},
    "data": {"evaluate": {"ref": "test.npz", "slices": ["group", "age"]}},
    "variants": {"fp32": [], "dynamic": ["quantize.dynamic"], "coarse": [{"quantize.dynamic": {"per_channel": False}}]},
    "targets": ["onnxruntime"],
    "measure": {"metrics": ["top1"], "latency": False},
    "gates": ["top1 drop <= 4pp"],
}


def write_data(path: Path, seed: int, n: int) -> None:
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 16)).astype(np.float32)
    label = (x @ WEIGHTS + g.normal(size=(n, 4))).argmax(axis=1)
    np.savez(path, x=x, label=label, group=np.array(["north", "south"])[g.integers(0, 2, n)], age=g.uniform(18, 80, n))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, tmp_path / "m.onnx")
    write_data(tmp_path / "test.npz", 1, 600)
    write_data(tmp_path / "select.npz", 2, 300)
    return tmp_path


def planned(folder: Path, **changes: Any) -> Plan:
    return plan(recipe.parse({**BASE, **changes}, "test", folder, "tiny"))


def built(folder: Path, store: Store, **changes: Any) -> Run:
    return execute.execute(planned(folder, **changes), store, Console(err=io.StringIO())).run


def test_slices_and_corrections_of_a_run(folder: Path, store: Store) -> None:
    run = built(folder, store)
    columns = {m.at["column"] for m in run.slices}
    assert columns == {"label", "group", "age"}
    drops = [m for m in run.slices if (m.subject, m.metric, m.relation) == ("dynamic@onnxruntime", "top1", "drop")]
    assert len(drops) == 4 + 2 + 4 and sum(m.n for m in drops if m.at["column"] == "group") == 600
    assert {m.protocol["comparisons"] for m in drops} == {20}, "10 slices of 2 candidates"
    whole = next(m for m in run.measurements if (m.subject, m.relation) == ("dynamic@onnxruntime", "drop"))
    parts = [m for m in drops if m.at["column"] == "age"]
    assert whole.value == pytest.approx(sum(m.value * m.n for m in parts) / 600)
    assert all("Holm's correction for 2 candidates" in v.reason for v in run.verdicts)
    assert any("2 candidates per target were judged on the same data" in text for text in run.warnings)


def test_labels_that_no_step_and_no_metric_reads_are_not_judged(folder: Path, store: Store) -> None:
    with np.load(folder / "test.npz") as found:
        np.savez(folder / "words.npz", x=found["x"][:64], label=np.array(["neither", "of", "ten", "classes"] * 16))
    data = {"calibrate": "words.npz", "evaluate": "test.npz"}
    run = built(folder, store, data=data, variants={"fp32": [], "int8": ["quantize.static"]})
    assert {m.subject for m in run.measurements if m.metric == "top1"} == {"fp32@onnxruntime", "int8@onnxruntime"}
    words = {"evaluate": "words.npz"}
    agreement = {"measure": {"metrics": ["agreement"], "latency": False}, "gates": []}
    assert built(folder, store, data=words, **agreement).measurements, "agreement compares outputs with outputs"
    before = {entry.key for entry in store.entries()}
    with pytest.raises(OptimizerError, match=r"data 'words.npz', example 0: the label .column 'label'. is the text"):
        built(folder, store, data=words, variants={"fp32": [], "int8": [{"quantize.dynamic": {"ops": ["MatMul"]}}]})
    assert {entry.key for entry in store.entries()} == before, "labels that a metric reads are judged before any step"


def test_with_a_split_to_choose_on_only_the_chosen_are_confirmed(folder: Path, store: Store) -> None:
    run = built(folder, store, data={"select": "select.npz", **BASE["data"]})
    assert {m.subject for m in run.selection} == {f"{v}@onnxruntime" for v in BASE["variants"]}
    assert {m.n for m in run.selection} == {300}
    (verdict,) = run.verdicts
    measured = {m.subject for m in run.measurements if m.metric == "top1"}
    assert measured == {"fp32@onnxruntime", verdict.subject}
    assert "Holm" not in verdict.reason and "n = 600" in verdict.reason
    others = {"dynamic@onnxruntime", "coarse@onnxruntime"} - {verdict.subject}
    note = f"chosen on the select data: {verdict.subject}; not chosen, so not evaluated or judged: {others.pop()}"
    assert note in run.warnings
    assert {c.name for c in choice.chosen(run, "all", False)} == measured


def test_all_that_pass_there_are_confirmed_where_all_are_bundled(folder: Path, store: Store) -> None:
    run = built(folder, store, data={"select": "select.npz", **BASE["data"]}, bundle="all")
    assert {v.subject for v in run.verdicts} == {"dynamic@onnxruntime", "coarse@onnxruntime"}


def test_where_nothing_is_chosen_the_verdicts_say_why(folder: Path, store: Store) -> None:
    run = built(folder, store, data={"select": "select.npz", **BASE["data"]}, gates=["top1 >= 99.9%"])
    assert run.outcome in ("fail", "inconclusive") and len(run.verdicts) == 2
    assert all(v.reason.startswith("On the select data: ") and "n = 300" in v.reason for v in run.verdicts)
    assert "nothing for onnxruntime met every gate on the select data" in run.warnings
    assert choice.chosen(run, "best", False) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"select": "test.npz", "evaluate": "test.npz"}, "'select' and 'evaluate' share examples"),
        ({"select": "select.npz"}, "need data to evaluate on"),
    ],
)
def test_a_choice_needs_other_data(folder: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        planned(folder, data=data)


def test_a_choice_needs_a_metric(folder: Path) -> None:
    with pytest.raises(OptimizerError, match="data has 'select', but no metric to choose by"):
        planned(folder, data={"select": "select.npz"}, measure={"latency": False}, gates=[])


def test_rows_of_one_source_may_not_meet(folder: Path) -> None:
    def part(**rows: int) -> dict[str, Any]:
        return {"source": {"npz": {"path": "test.npz"}}, "label": "label", **rows}

    assert planned(folder, data={"select": part(take=200), "evaluate": part(skip=200)}).selections
    with pytest.raises(OptimizerError, match="share examples"):
        planned(folder, data={"select": part(take=200), "evaluate": part(skip=199)})


def test_labels_that_are_missing_are_missed_before_anything_runs(folder: Path) -> None:
    with pytest.raises(OptimizerError, match="the metric 'top1' compares with labels, the data 'evaluate' has none"):
        planned(folder, data={"evaluate": {"source": {"npz": {"path": "test.npz"}}}})


def test_a_metric_says_what_labels_it_reads(folder: Path) -> None:
    (folder / "words.txt").write_text("a\n")
    wer = {"metrics": [{"wer": {"vocabulary": "words.txt"}}], "latency": False}
    with pytest.raises(OptimizerError, match=r"'wer' reads text as labels, .* has label_as: number") as caught:
        planned(folder, measure=wer, gates=[])
    assert "label_as: text" in str(caught.value.hint)


def test_an_unknown_slice_column_is_refused_before_anything_is_evaluated(folder: Path, store: Store) -> None:
    expected = "unknown slice column 'grup' in data 'test.npz'; available: age, group, label, x"
    with pytest.raises(OptimizerError, match=re.escape(expected)) as caught:
        built(folder, store, data={"evaluate": {"ref": "test.npz", "slices": ["grup"]}})
    assert caught.value.hint == "did you mean 'group'?"


def test_what_the_data_resolves_is_known_before_and_better_after_a_run(folder: Path, store: Store) -> None:
    gates = ["top1 drop <= 0.5pp", "f1 drop <= 5pp", "top1 >= 60%"]
    measure = {"metrics": ["top1", "f1"], "latency": False}
    before = {r.gate: r for r in resolution.foretell(planned(folder, gates=gates, measure=measure), store)}
    top1, f1, absolute = (before[text] for text in gates)
    assert top1.examples == 600 and top1.smallest == pytest.approx(1.29, abs=0.01)
    assert "assuming that 2 % of the answers change" in str(top1)
    assert top1.warning is not None and "margin of 0.5 pp is below the 1.3 pp that 600 examples resolve" in top1.warning
    assert f1.smallest is None and "not known before the first run" in str(f1) and f1.warning is None
    assert absolute.smallest == pytest.approx(3.9, abs=0.1) and absolute.warning is None
    built(folder, store, measure=measure)
    other = planned(folder, gates=gates, measure=measure, name="another")  # knows the stored baseline, not the last run
    after = {r.gate: r for r in resolution.foretell(other, store)}[gates[1]]
    assert after.smallest is not None and 0.5 < after.smallest < 2 and "baseline's results in the store" in str(after)


def test_the_next_plan_tells_what_the_last_run_found(folder: Path, store: Store) -> None:
    changes: dict[str, Any] = {"measure": {"metrics": ["f1"], "latency": False}, "gates": ["f1 drop <= 5pp"]}
    run = built(folder, store, **changes)
    halves = [(m.high - m.low) / 2 for m in run.measurements if m.relation == "drop" and m.low is not None and m.high]
    (told,) = resolution.foretell(planned(folder, **changes), store)
    assert told.smallest == pytest.approx(max(halves)) and "the last run on this data" in str(told)
    (guessed,) = resolution.foretell(planned(folder, name="another", **changes), store)
    assert guessed.guessed and guessed.warning is None
    assert guessed.smallest is not None and 1 / 3 < guessed.smallest / told.smallest < 3


def test_a_warning_of_a_step_says_whose_it_is(folder: Path, store: Store) -> None:
    model = onnx.load(folder / "m.onnx")
    model.opset_import[0].version = 11
    onnx.save(model, folder / "m.onnx")
    run = built(folder, store, variants={"fp32": []}, gates=[])
    (told,) = [w for w in run.warnings if "opset 11" in w]
    assert told.startswith("fp32@onnxruntime: load: m.onnx uses opset 11")


def test_a_function_that_is_not_there_is_missed_before_anything_is_built(folder: Path, store: Store) -> None:
    (folder / "mine.py").write_text("def error(outputs, labels):\n    return outputs['z'][:, 0]\n")
    measure = {"metrics": [{"python": {"entry": "mine.py:eror"}}], "latency": False}
    with pytest.raises(OptimizerError, match="no callable 'eror' there; available: error"):
        built(folder, store, measure=measure, gates=[])
    assert store.entries() == []


def test_a_metric_that_cannot_read_the_output_is_told_before_any_step(folder: Path, store: Store) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Unsqueeze", ["z", "axis"], ["tokens"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", 1, 4])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "m.onnx")
    for metric in ("top1", "agreement", "spearman"):
        measure = {"metrics": [metric], "latency": False}
        with pytest.raises(
            OptimizerError, match=rf"'{metric}' on data 'test.npz': the output 'tokens' has shape"
        ) as told:
            built(folder, store, measure=measure, gates=[])
        assert "[2, 1, 4]" in told.value.message, "two examples are enough"
        assert "'output'" not in str(told.value.hint) and "cosine" in str(told.value.hint), "there is no other output"
        assert {entry.record["use"] for entry in store.entries()} == {"load"}
    fine = built(folder, store, measure={"metrics": ["cosine"], "latency": False}, gates=[])
    assert {m.metric for m in fine.measurements} >= {"cosine"}


def test_metrics_are_not_tried_where_nothing_is_to_be_built(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(folder, store)
    monkeypatch.setattr(produce, "_outputs", lambda *given: pytest.fail("the model ran"))
    built(folder, store)


def test_sizes_of_dimensions_that_the_model_lacks_are_refused_before_any_step(folder: Path, store: Store) -> None:
    measure = {"metrics": ["top1"], "latency": {"dims": {"foo": 3}}}
    with pytest.raises(OptimizerError, match=r"measure\.latency\.dims: no free dimension 'foo'"):
        built(folder, store, measure=measure)
    assert {entry.record["use"] for entry in store.entries()} == {"load"}
