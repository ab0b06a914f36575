"""The planner: what it inserts, shares, skips and refuses, and what a key depends on. Nothing is run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from optimizer import registry
from optimizer.cli import main
from optimizer.commands.plan import reason
from optimizer.errors import EXIT_OK, EXIT_USAGE, OptimizerError
from optimizer.plan import Plan, plan
from optimizer.recipe import parse
from optimizer.store import Store
from optimizer.values import Signature, TensorSpec

NET = "from torch import nn\n\ndef Net():\n    return nn.Linear(4, 2)\n"
DATA: dict[str, Any] = {"source": {"npz": {"path": "d.npz"}}, "label": "y"}
BASE: dict[str, Any] = {
    "schema": 1,
    "model": {"entry": "net.py:Net", "inputs": {"x": "float32[batch,4]"}},
    "data": {"calibrate": DATA, "evaluate": DATA},
    "variants": {"fp32": [], "int8": ["quantize.static"]},
    "targets": ["onnxruntime", "openvino"],
    "baseline": "fp32",
    "measure": {"metrics": ["top1"]},
    "gates": ["top1 drop <= 1pp"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.random((64, 4), dtype=np.float32), y=np.arange(64) % 2)
    return tmp_path


def planned(folder: Path, **changes: Any) -> Plan:
    return plan(parse({**BASE, **changes}, "test", folder))


def uses(found: Plan, candidate: str) -> list[str]:
    keys = next(c.steps for c in found.candidates if c.name == candidate)
    return [found.step(k).use for k in keys]


def test_what_a_recipe_need_not_say_is_inserted_where_it_is_needed(folder: Path) -> None:
    found = planned(folder)
    start = ["load", "export", "simplify"]
    assert uses(found, "fp32@onnxruntime") == [*start, "onnxruntime"]
    assert uses(found, "int8@onnxruntime") == [*start, "quantize.static", "onnxruntime"]
    assert uses(found, "int8@openvino") == [*start, "openvino", "quantize.static"]  # NNCF works on the IR
    assert uses(planned(folder, simplify=False), "fp32@openvino") == ["load", "export", "openvino"]


def test_a_step_that_exports_what_it_quantized_stands_for_the_export_and_suits_the_target(
    folder: Path,
) -> None:
    pytest.importorskip("neural_compressor")
    found = planned(folder, variants={"fp32": [], "int8": ["quantize.inc"]}, targets=["onnxruntime", "openvino"])
    assert uses(found, "int8@onnxruntime") == ["load", "quantize.inc", "onnxruntime"]
    assert uses(found, "int8@openvino") == ["load", "quantize.inc", "openvino"]
    schemes = {s.label: s.scheme for s in found.steps if s.use == "quantize.inc"}
    assert [schemes[f"int8@{t}: quantize.inc"].format for t in ("onnxruntime", "openvino")] == ["onnx", "onnx"]
    assert not any(scheme.activation_symmetric for scheme in schemes.values()), "as the runtimes want Q/DQ in ONNX"


def test_equal_ingredients_are_shared_and_the_scheme_parts_the_ways(folder: Path) -> None:
    found = planned(folder)
    assert sum(s.use == "export" for s in found.steps) == 1
    assert len({s.key for s in found.steps if s.use == "quantize.static"}) == 2
    assert [s.source is None for s in found.steps] == [s.use == "load" for s in found.steps]


def test_a_pair_that_cannot_be_is_skipped_with_the_reason(folder: Path) -> None:
    found = planned(folder, targets=["pytorch", "onnxruntime"])
    by_name = {c.name: c for c in found.candidates}
    assert "pytorch" in str(by_name["int8@pytorch"].skipped)
    assert by_name["fp32@pytorch"].skipped is None
    assert {e.candidate for e in found.evaluations} == {"fp32@pytorch", "fp32@onnxruntime", "int8@onnxruntime"}


def test_a_variant_that_fits_no_target_is_an_error(folder: Path) -> None:
    with pytest.raises(OptimizerError, match="'int8' fits none of the recipe's targets"):
        planned(folder, targets=["pytorch"])


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("fp32", {"int8@onnxruntime": "fp32@onnxruntime", "int8@openvino": "fp32@openvino"}),
        ("fp32@onnxruntime", {"int8@openvino": "fp32@onnxruntime", "fp32@openvino": "fp32@onnxruntime"}),
        (None, {"int8@openvino": "fp32@openvino", "fp32@openvino": None}),
    ],
)
def test_the_baseline_is_per_target_or_one_for_all(folder: Path, baseline: str | None, expected: dict) -> None:
    found = planned(folder, baseline=baseline).baselines
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {"fp32": [], "a": ["quantise.static"]}}, "did you mean 'quantize.static'"),
        ({"targets": ["onnxruntim"]}, "did you mean 'onnxruntime'"),
        ({"measure": {"metrics": ["top2"]}}, "unknown metric 'top2'"),
        ({"variants": {"fp32": [], "a": [{"quantize.static": {"sample": 3}}]}}, "did you mean 'samples'"),
        ({"targets": [{"openvino": {"stream": 1}}]}, "did you mean 'streams'"),
        ({"export": {"opsett": 18}}, "did you mean 'opset'"),
        ({"data": {"evaluate": DATA}}, "needs the data role 'calibrate'"),
        ({"data": {"calibrate": DATA}, "gates": []}, "need data to evaluate on"),
        ({"data": {"calibrate": DATA, "evaluate": "digitz/test"}}, "unknown card 'digitz'"),
        ({"gates": ["top5 drop <= 1pp"]}, "'top5' is not measured"),
        ({"gates": ["accuracy >= 5pp"]}, "'accuracy' is not measured by this recipe; available: top1"),
        ({"gates": ["top1 dorp <= 1pp"]}, "drop"),
        ({"gates": ["int9: top1 drop <= 1pp"]}, "unknown variant 'int9'"),
        ({"gates": ["@tensorrt: top1 drop <= 1pp"]}, "unknown target 'tensorrt'"),
        ({"gates": ["top1 drop >= 1pp"]}, "<="),
        ({"variants": {"a": ["simplify"]}, "baseline": None}, "the recipe has none"),
        ({"variants": {"fp32": []}}, "the baseline 'fp32', and nothing else is built"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_before_anything_runs(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        planned(folder, **change)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_a_search_that_was_made_is_pointed_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    asked = {"variants": {"fp32": [], "best": ["auto"]}, "gates": []}
    with pytest.raises(OptimizerError, match="'best' is a search") as caught:
        planned(folder, **asked)
    assert "optc build searches, and writes build/" in str(caught.value.hint)
    found = Path(str(caught.value.hint).partition("writes ")[2].partition(" with")[0])
    found.parent.mkdir(parents=True)
    found.touch()
    with pytest.raises(OptimizerError, match="'best' is a search") as caught:
        planned(folder, **asked)
    assert f"{found} holds what one has found" in str(caught.value.hint)


def test_a_target_that_is_not_usable_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("targets", "openvino"), "probe", lambda: "the moon is wrong; wait")
    with pytest.raises(OptimizerError, match="'openvino' is not usable here: the moon is wrong"):
        planned(folder)


def test_a_missing_tool_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimizer import machine

    real = machine.version_of
    monkeypatch.setattr(machine, "version_of", lambda name: None if name == "onnxslim" else real(name))
    with pytest.raises(OptimizerError, match=r"pip install 'optc\[torch\]'"):
        planned(folder)


def test_keys_depend_on_content_and_not_on_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    for name in ("net.py", "d.npz"):
        (other / name).write_bytes((folder / name).read_bytes())
    assert [s.key for s in planned(folder).steps] == [s.key for s in planned(other).steps]
    (other / "net.py").write_text(NET + "# changed\n")
    assert planned(folder).steps[0].key != planned(other).steps[0].key


@pytest.mark.parametrize(
    ("change", "same", "other"),
    [
        ({"seed": 1}, {"load", "export", "simplify"}, {"quantize.static"}),
        (
            {"name": "renamed", "gates": [], "description": "x"},
            {"load", "export", "quantize.static", "openvino"},
            set(),
        ),
        ({"measure": {"metrics": [], "latency": {"threads": 2}}, "gates": []}, {"openvino", "quantize.static"}, set()),
        ({"export": {"opset": 17}}, {"load"}, {"export", "simplify", "quantize.static"}),
        ({"model": {**BASE["model"], "license": "MIT"}}, {"load", "export"}, set()),
    ],
)
def test_what_changes_a_key(folder: Path, change: dict[str, Any], same: set[str], other: set[str]) -> None:
    def keys(found: Plan, names: set[str]) -> set[str]:
        return {s.key for s in found.steps if s.use in names}

    before, after = planned(folder), planned(folder, **change)
    assert keys(before, same) == keys(after, same)
    assert not keys(before, other) & keys(after, other)


def test_a_miss_says_which_ingredient_changed(folder: Path, store: Store) -> None:
    before = planned(folder)
    for step in before.steps:
        assert reason(before, step, store) == "to build: never built here"
        store.remember(before.slot(step), step.ingredients)
    after = planned(folder, export={"opset": 17})
    why = {s.use: reason(after, s, store) for s in after.steps}
    assert why["load"] == "to build: no longer in the store"
    assert "options.opset: 18 -> 17" in why["export"]
    assert why["simplify"] == "to build: its source changes"
    with store.stage(after.steps[0].key) as out:
        store.commit(out, after.steps[0].key, {})
    assert reason(after, after.steps[0], store) == "in the store"
    renamed = planned(folder, name="other", export={"opset": 17})
    assert reason(renamed, renamed.steps[1], store) == "to build: never built here"


def loaded(folder: Path, gate: str, **measure: Any) -> Plan:
    return planned(folder, measure={"metrics": ["top1"], **measure}, gates=[gate])


def test_gates_on_load_are_checked_against_the_scenarios_of_the_recipe(folder: Path) -> None:
    found = loaded(folder, "server.p99 <= 20ms", server={"rate": 60, "seconds": 5})
    assert found.recipe.measure.server is not None
    loaded(folder, "server.rate >= 10/s", server={"bound": "20ms"})
    loaded(folder, "offline.throughput ratio >= 1.1x at batch 8", offline={"batch": [1, 8]})
    with pytest.raises(OptimizerError, match=r"150 requests \(30/s for 5 s\) do not support p99, which needs 299"):
        loaded(folder, "server.p99 <= 20ms", server={"rate": 30, "seconds": 5})
    with pytest.raises(OptimizerError, match=r"give measure\.server a bound"):
        loaded(folder, "server.rate >= 10/s", server={"rate": 30})
    with pytest.raises(OptimizerError, match=r"add measure\.offline"):
        loaded(folder, "offline.throughput >= 10/s")


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"server": {"bound": 20}}, "write a number with its unit, for example 20ms"),
        ({"server": {"bound": "0ms"}}, "no answer takes no time"),
        ({"server": {"bound": "20 parsecs"}}, "write a number with its unit"),
        ({"server": {"rate": 0}}, "greater than 0"),
        ({"server": {}}, "give a rate .* a bound .* or both"),
        ({"server": {"rate": 1, "streams": 0}}, "greater than or equal to 1"),
        ({"server": {"bound": "1s", "percentile": 100}}, "less than or equal to 99"),
        ({"offline": {"seconds": 0}}, "greater than 0"),
        ({"offline": {"batch": []}}, "at least 1 item"),
        ({"sweep": {"thread": [1]}}, "did you mean 'threads'"),
    ],
)
def test_scenarios_that_cannot_be_meant_are_refused(folder: Path, measure: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        planned(folder, measure={"metrics": ["top1"], **measure})


def test_a_bound_is_a_duration(folder: Path) -> None:
    for text, expected in (("20ms", 20.0), ("0.5 s", 500.0), ("800us", 0.8), (".5ms", 0.5)):
        server = planned(folder, measure={"metrics": ["top1"], "server": {"bound": text}}).recipe.measure.server
        assert server is not None
        assert server.bound_ms == pytest.approx(expected)
    assert planned(folder, measure={"metrics": ["top1"], "server": False}).recipe.measure.server is None


def test_data_is_an_ingredient_only_for_options_that_read_it(folder: Path) -> None:
    variants = {"rtn": ["quantize.weights"], "gptq": [{"quantize.weights": {"algorithm": "gptq"}}]}
    found = planned(folder, variants={"fp32": [], **variants}, targets=["onnxruntime"])
    steps = {s.label.partition("@")[0]: s for s in found.steps if s.use == "quantize.weights"}
    assert "data" not in steps["rtn"].ingredients
    assert list(steps["gptq"].ingredients["data"]) == ["calibrate"]
    bare = {"data": {"evaluate": DATA}, "targets": ["onnxruntime"]}
    planned(folder, variants={"fp32": [], "rtn": variants["rtn"]}, **bare)
    with pytest.raises(OptimizerError, match="needs the data role 'calibrate'"):
        planned(folder, variants={"fp32": [], **variants}, **bare)


@pytest.mark.parametrize("kind", ["npz", "text", "parquet"])
def test_a_slice_column_that_is_not_there_is_refused_by_the_plan(folder: Path, kind: str) -> None:
    (folder / "d.csv").write_text("x,y,group\n1,0,a\n2,1,b\n")
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        pa.parquet.write_table(pa.table({"x": [1.0], "y": [0], "group": ["a"]}), folder / "d.parquet")
    np.savez(folder / "d.npz", x=np.zeros((4, 4), np.float32), y=np.zeros(4), group=np.array(list("abab")))
    path = "d.csv" if kind == "text" else f"d.{kind}"
    data = {"source": {kind: {"path": path}}, "label": "y"}
    planned(folder, data={"evaluate": {**data, "slices": ["group"]}}, variants={"fp32": []}, gates=[])
    with pytest.raises(OptimizerError, match=r"slice column 'gruop' in data 'evaluate'; available: group, x, y"):
        planned(folder, data={"evaluate": {**data, "slices": ["gruop"]}}, variants={"fp32": []}, gates=[])


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"latency": {"dims": {"foo": 3}}}, "measure.latency.dims: no free dimension 'foo'; available: length"),
        ({"offline": {"dims": {"lenght": 3}}}, "measure.offline.dims: no free dimension 'lenght'"),
        ({"latency": {"dims": {"batch": 3}}}, "measure.latency.dims: no free dimension 'batch'"),
    ],
)
def test_sizes_of_dimensions_that_the_stated_inputs_lack(folder: Path, measure: dict[str, Any], message: str) -> None:
    model = {"entry": "net.py:Net", "inputs": {"x": "float32[batch,length,4]"}}
    planned(folder, model=model, measure={"metrics": ["top1"], "latency": {"dims": {"length": 3}}})
    with pytest.raises(OptimizerError, match=re.escape(message)):
        planned(folder, model=model, measure={"metrics": ["top1"], **measure})


def test_sizes_of_dimensions_that_an_onnx_file_or_a_stored_model_lacks(
    folder: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(document: dict[str, Any]) -> tuple[int, str]:
        (folder / "r.yaml").write_text(yaml.safe_dump(document))
        code = main(["plan", str(folder / "r.yaml"), "--store", str(store.root)])
        return code, " ".join(capsys.readouterr().err.split())

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph), folder / "m.onnx")
    document: dict[str, Any] = {"schema": 1, "model": {"file": "m.onnx"}, "variants": {"fp32": []}}
    document |= {"targets": ["onnxruntime"], "measure": {"latency": {"dims": {"length": 3}}}}
    assert told(document) == (EXIT_OK, "")
    document["measure"] = {"latency": {"dims": {"foo": 3}}}
    code, text = told(document)
    assert code == EXIT_USAGE and "no free dimension 'foo'; available: length" in text

    (folder / "net.pt2").write_bytes(b"not read by a plan")
    document["model"] = {"file": "net.pt2"}
    assert told(document)[0] == EXIT_OK, "only the model itself knows"
    key = plan(parse(document, "r", folder)).steps[0].key
    signature = Signature((TensorSpec.parse("x", "float32[batch,time]"),), ())
    with store.stage(key) as out:
        store.commit(out, key, {"use": "load", "format": "torch", "signature": dataclasses.asdict(signature)})
    code, text = told(document)
    assert code == EXIT_USAGE and "no free dimension 'foo'; available: time" in text
