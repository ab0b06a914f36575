"""optc bench, eval and compare through the command line, on the tiny model and real ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bundle_lab
import numpy as np
import pytest

from optimizer import schema
from optimizer.cli import main
from optimizer.errors import EXIT_GATE_FAILED, EXIT_OK, EXIT_USAGE
from optimizer.values import Run

QUICK = ["--seconds", "0.02", "--restarts", "2"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the tiny model and the data for it, labelled by the model itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    bundle_lab.write_model(tmp_path / "m")
    (tmp_path / "m" / "model.onnx").rename(tmp_path / "tiny.onnx")
    import onnxruntime

    image = np.random.default_rng(1).standard_normal((40, 4), dtype=np.float32)
    session = onnxruntime.InferenceSession("tiny.onnx", providers=["CPUExecutionProvider"])
    label = session.run(None, {"image": image})[0].argmax(1)
    label[:2] = (label[:2] + 1) % 3
    np.savez(tmp_path / "data.npz", image=image, label=label)
    return tmp_path


def run_of(folder: Path) -> Run:
    return schema.load_run((folder / "run.json").read_bytes(), "run.json")


def test_bench_measures_writes_a_record_and_judges(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "tiny.onnx", "again=tiny.onnx", *QUICK, "--batch", "3", "--min-speedup", "1000x"]
    assert main([*arguments, "--out", "out"]) == EXIT_GATE_FAILED
    shown = capsys.readouterr().out
    for text in ("speed-up", "peak memory", "inputs are synthetic", "again", "report.html", "none of it >= 1000x"):
        assert text in shown
    run = run_of(here / "out")
    assert [c.name for c in run.candidates] == ["tiny@onnxruntime", "again@onnxruntime"]
    assert run.baseline == "tiny@onnxruntime"
    assert {m.at["batch"] for m in run.measurements if m.metric == "latency.p50"} == {3}
    assert {m.against for m in run.measurements if m.relation == "speedup"} >= {"tiny@onnxruntime"}
    assert [(v.subject, v.outcome) for v in run.verdicts] == [("again@onnxruntime", "fail")]
    assert {p.name for p in (here / "out").iterdir()} == {"run.json", "report.html", "report.md", "junit.xml"}
    assert str(here) not in (here / "out" / "run.json").read_text(), "no place of this machine"
    assert main(["compare", "out", "out"]) == EXIT_OK


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "0"], "--seconds 0: measures nothing"),
        (["--restarts", "0"], "--restarts 0: measures nothing"),
        (["--batch", "0"], "--batch 0: measures nothing"),
        (["--budget", "soon"], "--budget soon: is no duration"),
        (["--dim", "length=3"], "unknown dimension 'length'"),
        (["--baseline", "nobody"], "unknown baseline 'nobody'"),
        (["--input", "none.npz"], "no such file"),
        (["--min-speedup", "fast"], "gate 'latency.p50 speedup >= fast"),
        (["--inconclusive", "maybe"], "--inconclusive maybe: unknown"),
        (["--target", "tensort"], "unknown target 'tensort'"),
    ],
)
def test_bench_refuses_before_it_measures(
    here: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "tiny.onnx", *arguments]) == EXIT_USAGE
    assert told in capsys.readouterr().err


def test_eval_pairs_what_it_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "tiny.onnx", "again=tiny.onnx", "--data", "data.npz", "--max-drop", "20pp", "--out", "out"]
    assert main(arguments) == EXIT_OK
    run = run_of(here / "out")
    found = {(m.subject, m.metric, m.relation): m for m in run.measurements}
    assert found["tiny@onnxruntime", "top1", "absolute"].value == pytest.approx(95.0), "two labels of forty are wrong"
    drop = found["again@onnxruntime", "top1", "drop"]
    assert (drop.value, drop.against) == (0.0, "tiny@onnxruntime")
    assert run.data[0].examples == 40
    assert main(["eval", "tiny.onnx", "again=tiny.onnx", "--data", "data.npz", "--out", "second"]) == EXIT_OK
    keys = [{m.protocol["entry"] for m in r.measurements if m.metric == "top1"} for r in (run, run_of(here / "second"))]
    assert keys[0] == keys[1], "results per example are stored, not made again"


def test_eval_fails_by_its_gate_and_refuses_what_it_cannot(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shuffled = dict(np.load("data.npz"))
    shuffled["label"] = (shuffled["label"] + 1) % 3
    np.savez("wrong.npz", **shuffled)
    assert main(["eval", "tiny.onnx", "--data", "wrong.npz", "--metric", "nope"]) == EXIT_USAGE
    assert "unknown metric 'nope'" in capsys.readouterr().err
    assert main(["eval", "tiny.onnx", "--data", "data.npz", "--max-drop", "3ms"]) == EXIT_USAGE
    assert main(["eval", "tiny.onnx", "--data", "data.npz", "--batch", "0"]) == EXIT_USAGE
    assert "the least allowed is 1" in capsys.readouterr().err


def test_a_failing_subject_is_named_and_the_others_are_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load("tiny.onnx")
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), "b"))
    onnx.save(model, "nan.onnx")
    for command in (["bench", *QUICK], ["eval", "--data", "data.npz"]):
        assert main([command[0], "nan.onnx", "tiny.onnx", *command[1:]]) == EXIT_USAGE
        shown = capsys.readouterr()
        assert "nan@onnxruntime is left out" in shown.err
        assert "the baseline failed; the others are compared with tiny@onnxruntime" in shown.out
        assert "failed   nan@onnxruntime" in shown.out


def saved(folder: Path, **changes: Any) -> Path:
    """A run record of the tiny model; size is its only judged metric."""
    folder.mkdir()
    made = bundle_lab.artifact(folder / "model")
    (folder / "run.json").write_bytes(schema.dump_run(bundle_lab.run(made, **changes)))
    return folder


def test_baselines_are_kept_and_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(here / "old")
    assert main(["compare", "--save-baseline", "main", "old"]) == EXIT_OK
    assert "main.json" in capsys.readouterr().out
    assert (here / ".optc" / "baselines" / "main.json").is_file()
    for arguments in (["main", "old"], ["--baseline", "main", "old"], ["old", "main"]):
        assert main(["compare", *arguments, "--json"]) == EXIT_OK
        assert json.loads(capsys.readouterr().out)["outcome"] == "pass"
    assert main(["compare", "--baseline", "mian", "old"]) == EXIT_USAGE
    assert "did you mean 'main'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["old"], "compare takes two things"),
        (["old", "old", "old"], "compare takes two things"),
        (["--save-baseline", "x", "old", "old"], "keeps one run"),
        (["old", "old", "--restarts", "3"], "add --rerun"),
        (["old", "tiny.onnx"], "measure both anew: --rerun"),
        (["old", "gone.json"], "no such run record"),
        (["old", "old", "--max-slowdown", "fast"], "--max-slowdown fast: is no tolerance"),
        (["old", "old", "--map", "x=y"], "unknown candidate 'x'"),
    ],
)
def test_compare_refuses(here: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    saved(here / "old")
    assert main(["compare", *arguments]) == EXIT_USAGE
    shown = capsys.readouterr()
    assert told in shown.err


def test_two_models_are_measured_anew(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "tiny.onnx", "other=tiny.onnx", "--rerun", *QUICK, "--inconclusive", "pass", "--json"]
    assert main([*arguments, "--max-slowdown", "10x", "--tolerance", "memory.peak=50%"]) == EXIT_OK
    document = json.loads(capsys.readouterr().out)
    methods = {c["metric"]: c["method"] for c in document["changes"]}
    assert methods["latency.p50"] == "one interleaved session"
    assert methods["size"] == "the very same measurement"


def test_what_all_subjects_fail_by_is_told_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "tiny.onnx", "again=tiny.onnx", "--data", "data.npz", "--label", "lable"]) == EXIT_USAGE
    shown = capsys.readouterr().err
    assert shown.count("unknown label column 'lable'") == 1
    assert "did you mean 'label'?" in shown


def test_a_target_that_cannot_convert_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    pytest.importorskip("openvino")
    model = onnx.load("tiny.onnx")
    model.graph.node[0].op_type, model.graph.node[0].domain = "TransposeMatMul", "com.microsoft"  # ONNX Runtime's own
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, "own.onnx")
    both = ["--target", "openvino", "--target", "onnxruntime"]
    for command in (["bench", *QUICK], ["eval", "--data", "data.npz"]):
        assert main([command[0], "own.onnx", *command[1:], *both, "--out", command[0]]) == EXIT_USAGE
        shown = capsys.readouterr()
        assert "own@openvino is left out" in shown.err
        assert "failed   own@openvino" in shown.out
        assert "the baseline failed; the others are compared with own@onnxruntime" in shown.out
        skipped, built = run_of(here / command[0]).candidates
        assert (skipped.name, built.skipped) == ("own@openvino", None)
        assert "failed: own@openvino" in str(skipped.skipped)
        assert main([command[0], "own.onnx@openvino", *command[1:]]) == EXIT_USAGE
        assert "is left out" not in capsys.readouterr().err
        assert main([command[0], "own.onnx", *command[1:], *both, "--baseline", "nobody"]) == EXIT_USAGE
        shown = capsys.readouterr()
        assert "unknown baseline 'nobody' in the artifacts; available: own@onnxruntime, own@openvino" in shown.err
