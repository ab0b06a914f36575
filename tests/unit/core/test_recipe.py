"""Recipes: parsed once, never half-valid; every fault says where it is and what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer import content, recipe, shorthand
from optimizer.errors import OptimizerError
from optimizer.relocation import located, origin, relocated

MODEL: dict[str, Any] = {"entry": "net.py:Net", "inputs": {"x": "float32[batch,4]"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text("Net = None\n")
    (tmp_path / "w.safetensors").write_bytes(b"")
    return tmp_path


def write(folder: Path, name: str = "r.yaml", **document: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump({"schema": 1, "model": MODEL, **document}))
    return str(path)


def test_a_step_is_a_name_or_a_name_with_options(folder: Path) -> None:
    found = recipe.load(write(folder, variants={"fp32": [], "int8": ["a", {"b": {"c": 1}}, {"d": None}]}))
    assert [(u.name, u.options) for u in found.variants["int8"]] == [("a", {}), ("b", {"c": 1}), ("d", {})]
    assert found.name == "r"


def test_paths_start_at_the_document(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    found = recipe.load(write(folder, model={**MODEL, "weights": "w.safetensors"}))
    assert found.model.entry == f"{folder / 'net.py'}:Net"
    assert found.model.weights == folder / "w.safetensors"
    assert found.document()["model"]["weights"] == "w.safetensors"


def test_an_environment_variable_in_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = write(folder, model={**MODEL, "weights": "${MY_WEIGHTS}/w.safetensors"})
    with pytest.raises(OptimizerError, match="MY_WEIGHTS, which is not set"):
        recipe.load(reference)
    monkeypatch.setenv("MY_WEIGHTS", str(folder))
    assert recipe.load(reference).model.weights == folder / "w.safetensors"


def test_extends_merges_mappings_and_moves_relative_paths(folder: Path) -> None:
    (folder / "sub").mkdir()
    write(
        folder,
        "parent.yaml",
        measure={"latency": {"seconds": 3, "batch": [1, 8]}},
        gates=["size ratio <= 0.5"],
        data={"calibrate": "./card.yaml#small", "evaluate": "digits/test"},
        variants={"fp32": [], "int8": ["a"]},
    )
    child = folder / "sub" / "child.yaml"
    child.write_text("extends: ../parent.yaml\nmeasure: {latency: {batch: [4]}}\ngates: []\nvariants: {int8: null}\n")
    found = recipe.load(str(child))
    assert found.model.entry == f"{folder / 'net.py'}:Net"
    assert found.measure.latency is not None
    assert list(found.variants) == ["fp32"]
    assert found.document()["data"] == {"calibrate": "../card.yaml#small", "evaluate": "digits/test"}
    assert (found.measure.latency.seconds, found.measure.latency.batch, found.gates) == (3, [4], [])


def test_a_circle_of_extends_is_named(folder: Path) -> None:
    (folder / "a.yaml").write_text("extends: b.yaml\n")
    (folder / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(OptimizerError, match=r"a.yaml -> b.yaml -> a.yaml"):
        recipe.load(str(folder / "a.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gatess": []}, "unknown key 'gatess'; did you mean 'gates'?"),
        ({"measure": {"latency": {"secs": 1}}}, "unknown key 'measure.latency.secs'; did you mean 'seconds'?"),
        ({"data": {"calibrate": {"sourc": "x"}}}, "unknown key 'data.calibrate.sourc'; did you mean 'source'?"),
        (
            {"data": {"evaluate": {"ref": "a/b", "labl": "y"}}},
            "unknown key 'data.evaluate.labl'; did you mean 'label'?",
        ),
        ({"bundle": "bset"}, "'bundle' = 'bset': .*; did you mean 'best'?"),
        ({"variants": {"int8": [{"a": {}, "b": {}}]}}, "one-key mapping"),
        ({"variants": {"in t8": []}}, "variant name 'in t8'"),
        ({"variants": {}}, "at least one variant"),
        ({"baseline": "fp23"}, "baseline 'fp23': no such variant; available: fp32"),
        ({"baseline": "fp32@tensorrt"}, "no such target; available: onnxruntime"),
        ({"targets": ["openvino", {"openvino": {}}]}, "listed twice"),
        ({"targets": []}, "'targets'"),
        ({"schema": 2}, "'schema'"),
        ({"model": {"entry": "net.py:Net"}}, "needs 'inputs'"),
        ({"model": {"entry": "gone.py:Net", "inputs": {}}}, "no such file"),
        ({"model": {"entry": "net.py", "inputs": {}}}, "names no callable"),
        ({"model": {**MODEL, "weights": "w.safetensor"}}, "did you mean .*w.safetensors"),
        ({"model": {**MODEL, "file": "net.py"}}, "exactly one of entry, file, hf"),
        ({"model": {"file": "python:no_such_package/x"}}, "pip install no-such-package"),
    ],
)
def test_a_fault_says_where_it_is_and_what_was_meant(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        recipe.load(write(folder, **change))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "a: [", "\x00", ""])
def test_what_is_no_mapping_is_refused(folder: Path, text: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(OptimizerError, match=r"bad.yaml"):
        recipe.load(str(folder / "bad.yaml"))


def test_references_are_decided_by_spelling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "vision").mkdir()
    (folder / "vision" / "mine").write_text("x")  # exists, but is spelt like a shipped recipe
    with pytest.raises(OptimizerError, match="unknown recipe 'vision/mine'"):
        recipe.load("vision/mine")
    with pytest.raises(OptimizerError, match="no such recipe file"):
        recipe.load("gone.yaml")


def test_flags_stand_for_a_recipe(folder: Path) -> None:
    flags = shorthand.Flags(
        "net.py:Net", inputs=["x=float32[batch,4]"], data="d.npz", label="y", precisions=["int8"],
        targets=["openvino"], max_drop="0.5pp", min_speedup="1.5x",
    )  # fmt: skip
    found = recipe.parse(shorthand.document(flags), "flags", folder)
    assert found.gates == ["top1 drop <= 0.5pp", "latency.p50 speedup >= 1.5x"]
    assert [u.name for u in found.variants["int8"]] == ["quantize.static"]
    assert [t.name for t in found.targets] == ["openvino"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (shorthand.Flags("m.onnx", max_drop="1pp"), "needs a metric"),
        (shorthand.Flags("m.onnx", precisions=["int3"]), "unknown precision 'int3'"),
        (shorthand.Flags("m.py:N", inputs=["x"]), "--input x"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: shorthand.Flags, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        shorthand.document(flags)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("vision/x", False), ("./r.yaml", False), ("m.py:Net", True), ("m.onnx", True), ("./dir", True), ("x.pt2", True)],
)
def test_a_model_is_told_from_a_recipe_by_spelling(reference: str, expected: bool) -> None:
    assert shorthand.is_model(reference) is expected


def test_narrowing_keeps_the_baseline_and_the_targets_options(folder: Path) -> None:
    found = recipe.load(
        write(
            folder,
            variants={"fp32": [], "a": ["x"], "b": ["y"]},
            baseline="fp32",
            targets=[{"openvino": {"streams": 2}}, "onnxruntime"],
        )
    )
    narrow = shorthand.narrowed(found, ["b"], ["openvino", "pytorch"])
    assert set(narrow.variants) == {"fp32", "b"}
    assert [(t.name, t.options) for t in narrow.targets] == [("openvino", {"streams": 2}), ("pytorch", {})]
    with pytest.raises(OptimizerError, match="unknown variant 'c'"):
        shorthand.narrowed(found, ["c"], [])
    fixed = recipe.parse({**found.document(), "baseline": "a@onnxruntime"}, "r", folder)
    with pytest.raises(OptimizerError, match="'a@onnxruntime' is on a target that --target leaves out") as caught:
        shorthand.narrowed(fixed, [], ["openvino"])
    assert str(caught.value.hint).startswith("add --target onnxruntime")


def test_a_saved_recipe_means_the_same_from_its_new_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    document = shorthand.document(shorthand.Flags("net.py:Net", weights="w.safetensors", inputs=["x=float32[4]"]))
    moved = relocated(document, folder / "sub")
    found = recipe.parse(moved, "moved", folder / "sub")
    assert found.model.weights == folder / "w.safetensors"
    assert found.model.entry == f"{folder / 'net.py'}:Net"


def test_a_record_names_the_folder_of_its_recipe(folder: Path) -> None:
    mine, out = folder / "recipes", folder / "build" / "mine"
    mine.mkdir()
    assert origin(mine, out) == "../../recipes"
    assert located("../../recipes", out) == mine.resolve()
    shipped = content.root("recipes") / "vision"
    assert origin(shipped, out) == "recipes:vision", "no path of the machine that it was made on"
    assert located("recipes:vision", folder) == shipped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml is empty"),
        ("model: {file: m.onnx}\nvariants: {fp32: [], fp32: [half]}", "the key 'fp32' stands twice"),
        ("model: {file: m.onnx}\nmodel: {file: n.onnx}", "the key 'model' stands twice"),
    ],
)
def test_what_yaml_would_take_without_a_word_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "r.yaml").write_text(text)
    with pytest.raises(OptimizerError, match=message):
        recipe.load(str(folder / "r.yaml"))


def test_merged_keys_may_be_replaced(folder: Path) -> None:
    data = "data:\n  calibrate: &d {source: {npz: {path: a.npz}}, take: 3}\n  evaluate: {<<: *d, take: 5}\n"
    for name in ("m.onnx", "a.npz"):
        (folder / name).touch()
    (folder / "r.yaml").write_text(f"model: {{file: m.onnx}}\n{data}")
    found = recipe.load(str(folder / "r.yaml"))
    assert [found.data[role].take for role in ("calibrate", "evaluate")] == [3, 5]


def test_the_folder_of_a_model_is_told_how_to_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "bert").mkdir()
    for reference in ("bert", "bert/"):
        with pytest.raises(OptimizerError, match="is a folder, and no recipe") as caught:
            recipe.load(reference)
        assert caught.value.hint and caught.value.hint.endswith("./bert")
