"""optc explain: files, runs and recipes; what it writes; and what it says about bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from explain_lab import CULPRIT, fragile, labelled
from quant_lab import ORT, Bench, artifact, convnet

from optimizer import cli, schema
from optimizer.errors import EXIT_OK, EXIT_USAGE
from optimizer.explain import roofline

RECIPE = """schema: 1
model: {file: float.onnx}
data:
  calibrate: {source: {npz: {path: data.npz}}, label: y}
  evaluate: {source: {npz: {path: data.npz}}, label: y}
variants:
  fp32: []
  int8: [{quantize.static: {per_channel: false, model: cnn}}]
baseline: fp32
measure: {metrics: [top1], latency: false}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a float model, its ruined int8 form, data with labels, and a recipe; the working directory."""
    bench = Bench(tmp_path / "bench")
    source = artifact(fragile(), tmp_path / "bench" / "m")
    data = labelled(source, 200)
    onnx.save(fragile(), tmp_path / "float.onnx")
    found = bench.static(source, ORT, data, per_channel=False, model="cnn")  # type: ignore[arg-type]  # a data set
    onnx.save(onnx.load(found.path / "model.onnx"), tmp_path / "int8.onnx")
    np.savez(tmp_path / "data.npz", x=data.x, y=data.labels)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    peaks = {"peaks": {"f32": 50.0, "int8": 200.0, "memory": 20.0}, "methods": {}, "busy": False}
    monkeypatch.setattr(roofline, "_measured", lambda threads: peaks)
    return tmp_path


FILES = ["explain", "int8.onnx", "--against", "float.onnx", "--data", "data.npz", "--label", "y"]
QUICK = ["--samples", "16", "--examples", "50", "--budget", "20s"]


def test_two_files_without_a_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*FILES, "--metric", "top1", *QUICK]) == EXIT_OK
    said = capsys.readouterr().out
    assert said.startswith("int8.onnx against float.onnx, on data.npz")
    assert f"keep {CULPRIT}" in said and "one inference takes" in said
    assert said.rstrip().endswith(f"- {{quantize.static: {{keep: [{CULPRIT}]}}}}"), "the next step comes last"


def test_a_recipe_is_built_as_far_as_needed_and_json_is_the_explanation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["explain", "tiny.yaml", "int8@onnxruntime", "--wrong", "--json", "-o", "e.json", *QUICK]) == EXIT_OK
    )
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "e.json").read_text())
    assert told["keep"] == [CULPRIT] and told["against"] == "fp32@onnxruntime" and told["profile"] is None
    assert told["sensitivities"][0]["alone"]["n"] == 50


def test_a_run_keeps_the_explanation_in_its_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "tiny.yaml", "--no-measure", "--out", "out"]) == EXIT_OK
    for flag in ("--wrong", "--slow"):
        assert cli.main(["explain", "out", "int8@onnxruntime", flag, *QUICK]) == EXIT_OK
    assert cli.main(["explain", "out/run.json", "fp32@onnxruntime", "--slow", *QUICK]) == EXIT_OK
    run = schema.load_run((folder / "out" / "run.json").read_bytes(), "run.json")
    assert [e.subject for e in run.explanations] == ["int8@onnxruntime", "fp32@onnxruntime"]
    assert run.explanations[0].profile and not run.explanations[0].keep, "the last one replaces the one before"
    assert (folder / "out" / "report.html").is_file()
    assert "stored in out/run.json" in capsys.readouterr().err


def test_the_baseline_is_profiled_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "tiny.yaml", "fp32@onnxruntime", *QUICK]) == EXIT_OK
    said = capsys.readouterr().out
    assert "accuracy not explained: fp32@onnxruntime is the baseline itself" in said and "GMAC/s" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "tiny.yaml", "int9@onnxruntime"], "unknown candidate 'int9@onnxruntime'"),
        (["explain", "tiny.yaml"], "which candidate of the recipe 'tiny.yaml'? It has fp32@onnxruntime"),
        (["explain", "tiny.yaml", "fp32@onnxruntime", "--wrong"], "fp32@onnxruntime is the baseline itself"),
        (["explain", "tiny.yaml", "int8@onnxruntime", "--data", "d"], "--data belongs to a model file"),
        (
            ["explain", "int8.onnx", "--against", "float.onnx", "--wrong"],
            "--wrong compares int8.onnx with a float model",
        ),
        (["explain", "int8.onnx", "int8@onnxruntime"], "'int8@onnxruntime' has no meaning beside the model file"),
        (["explain", "none.onnx"], "no such model file: none.onnx"),
        (["explain", "out/run.json", "a@b"], "no such run record"),
        ([*FILES, "--wrong", "--metric", "topp1"], "unknown metric 'topp1'"),
        ([*FILES, "--slow", "--dim", "length=4"], "unknown dimension 'length'"),
        ([*FILES, "--dim", "batch=many"], "--dim batch=many: a size is a positive integer"),
        ([*FILES, "--budget", "soon"], "--budget soon: is no duration"),
        (["explain", "float.onnx", "--against", "float.onnx", "--data", "data.npz", "--wrong"], "has the same files"),
    ],
)
def test_bad_input(arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == EXIT_USAGE
    said = capsys.readouterr()
    assert message in said.err and "next:" in said.err and said.out == ""


def test_other_signatures_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(convnet(), folder / "other.onnx")
    assert cli.main(["explain", "int8.onnx", "--against", "other.onnx", "--data", "data.npz", "--wrong"]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "int8.onnx has the inputs x: float32[batch,6]; other.onnx has image: float32[batch,3,8,8]" in said


def test_a_run_whose_artifacts_are_gone_says_how_to_get_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "tiny.yaml", "--no-measure", "--out", "out"]) == EXIT_OK
    assert cli.main(["explain", "out", "int8@onnxruntime", "--store", str(folder / "empty")]) == EXIT_USAGE
    assert "int8@onnxruntime of the run 'tiny' is no longer in the store" in capsys.readouterr().err
