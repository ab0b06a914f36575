"""Built here, measured elsewhere: from the plan to the completed bundle, with a target that pretends to need a GPU.

ONNX Runtime stands in for TensorRT: where it is told that it cannot run, a build, a bundle and `optc measure` must
do without its sessions; once it can, `optc measure` must complete what waited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import quant_lab as lab
import yaml

from optimizer import bundle, choice, cli, gates, report
from optimizer.bundle.manifest import decode
from optimizer.inspection import read_run
from optimizer.targets import onnxruntime as target
from optimizer.values import Candidate, Measurement

WHY = "it runs on a machine that is not here"


@pytest.fixture
def elsewhere() -> Iterator[pytest.MonkeyPatch]:
    """ONNX Runtime as a target that builds here and runs elsewhere, until the patch is undone."""
    monkeypatch = pytest.MonkeyPatch()  # of its own: undoing the test's would give it the user's store

    def refuses(artifact: Any, options: Any) -> Any:
        assert options == target.Options(), "only the oracle may be opened"
        return opened(artifact, options)

    opened = target.open
    monkeypatch.setattr(target, "pending", lambda options: f"{WHY}; go there", raising=False)
    monkeypatch.setattr(target, "built_as", lambda artifact: "float32 (typed)", raising=False)
    monkeypatch.setattr(target, "oracle", lambda artifact: artifact, raising=False)
    monkeypatch.setattr(target, "limit", lambda source: 1e-3, raising=False)
    monkeypatch.setattr(target, "open", refuses)
    yield monkeypatch
    monkeypatch.undo()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A model as a file, labelled data, a baseline and an INT8 variant, gates of both kinds."""
    lab.write_labelled(tmp_path)
    document = {
        "schema": 1,
        "name": "wait",
        "model": {"file": "net.onnx"},
        "data": {
            "calibrate": {"source": {"npz": {"path": "data.npz"}}},
            "evaluate": {"source": {"npz": {"path": "data.npz"}}, "label": "label"},
        },
        "variants": {"fp32": [], "int8": ["quantize.static"]},
        "targets": [{"onnxruntime": {"spinning": False}}],
        "baseline": "fp32",
        "measure": {
            "metrics": ["top1", "agreement"],
            "latency": {"batch": [1], "seconds": 0.05, "restarts": 1, "most_restarts": 1, "precision": None},
        },
        "gates": ["top1 drop <= 50pp", "agreement >= 10%"],
        "bundle": "best",
    }
    path = tmp_path / "wait.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def build(recipe: Path, *flags: str) -> int:
    return cli.main(["build", str(recipe), "--out", str(recipe.parent / "out"), *flags])


def manifests(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = decode(path.read_bytes(), str(path))
        found[manifest.variant] = manifest
    return found


def test_a_build_marks_what_waits_and_prints_no_number_for_it(
    recipe: Path, elsewhere: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(recipe)]) == 0
    planned = capsys.readouterr().out
    assert f"pending  onnxruntime: {WHY}. It is built here" in planned
    assert build(recipe) == 4
    text = capsys.readouterr().out
    assert f"pending  onnxruntime: {WHY}\n" in text
    assert "Inconclusive: 2 of 2 gate checks cannot be decided" in text
    assert "2 candidates wait to be measured elsewhere." in text
    run, _ = read_run(recipe.parent / "out")
    assert {m.metric for m in run.measurements} == {"size"}
    assert {c.pending for c in run.candidates} == {WHY}
    assert [v.reason for v in run.verdicts] == [
        f"Pending: {WHY}. Measure it where it runs: optc measure BUNDLE, or optc build there."
    ] * 2
    assert build(recipe, "--inconclusive", "pass") == 0
    page = (recipe.parent / "out/report.html").read_text()
    assert "built and not measured" in page
    assert "⏳ pending" in (recipe.parent / "out/report.md").read_text()
    rows, header, _ = report.table(run)
    assert header[2:7] == ["top1", "agreement", "top1 drop", "p50 / p95 ms", "speed-up"]
    assert {cell for row in rows for cell in row[2:7]} == {"pending"}
    assert "| top1 | agreement | top1 drop |" in (recipe.parent / "out/report.md").read_text()


def test_all_that_waits_is_bundled_with_its_baseline(recipe: Path, elsewhere: Any) -> None:
    build(recipe)
    found = manifests(recipe.parent / "out/bundles")
    assert set(found) == {"fp32", "int8"}
    for manifest in found.values():
        assert manifest.pending == WHY
        assert manifest.accepted == ()
        assert [m.metric for m in manifest.measurements] == ["size"] * len(manifest.measurements)
        assert manifest.tolerance == 1e-3
    folder = recipe.parent / "out/bundles/wait-int8-onnxruntime"
    assert "It has not been measured yet" in (folder / "README.md").read_text()
    assert any("not measured yet" in text for text in bundle.verify(folder, run_samples=False).findings)


def test_a_waiting_bundle_is_not_measured_where_it_does_not_run(
    recipe: Path, elsewhere: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    build(recipe)
    folder = recipe.parent / "out/bundles/wait-int8-onnxruntime"
    for command in (["measure", str(folder)], ["verify", str(folder)]):
        assert cli.main(command) == 2
        told = capsys.readouterr().err
        assert f"the samples cannot run here: {WHY}" in told
    assert cli.main(["verify", "--no-run", str(folder)]) == 0


def test_measure_completes_bundles_where_they_run(
    recipe: Path, elsewhere: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(recipe)
    place = recipe.parent / "out/bundles"
    before = {path.name: path.read_bytes() for path in place.glob("*.tar.gz")}
    elsewhere.undo()
    out = recipe.parent / "measured"
    data = ["--data", str(recipe.parent / "data.npz"), "--label", "label"]
    names = [str(place / name) for name in sorted(before)]
    assert cli.main(["measure", *names, *data, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "pass  int8@onnxruntime  top1 drop <= 50pp" in text
    assert {path.name: path.read_bytes() for path in place.glob("*.tar.gz")} == before
    run, _ = read_run(out)
    assert {"top1", "agreement", "latency.p50", "size"} <= {m.metric for m in run.measurements}
    assert {v.outcome for v in run.verdicts} == {"pass"}
    found = manifests(out / "bundles")
    assert {m.pending for m in found.values()} == {None}
    assert {m.metric for m in found["int8"].measurements} >= {"top1", "agreement", "latency.p50"}
    assert found["int8"].runtime.precision.startswith("int8")
    assert found["int8"].runtime.options["spinning"] is False
    assert '"pending"' not in (out / "bundles/wait-int8-onnxruntime/manifest.json").read_text()
    assert bundle.verify(out / "bundles/wait-int8-onnxruntime").replayed is not None


def test_measure_asks_for_data_that_has_no_name_here_and_for_bundles_of_one_build(
    recipe: Path, elsewhere: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(recipe)
    place = recipe.parent / "out/bundles"
    elsewhere.undo()
    names = [str(path) for path in sorted(place.glob("*.tar.gz"))]
    assert cli.main(["measure", *names, "--out", str(tmp_path / "m")]) == 2
    assert "--data card/split or a data file" in capsys.readouterr().err
    assert cli.main(["measure", names[0], names[0]]) == 2
    assert "fp32@onnxruntime was given twice" in capsys.readouterr().err
    document = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**document, "name": "other"}))
    assert build(recipe, "--bundle", "all") == 0
    other = str(place / "other-int8-onnxruntime.tar.gz")
    assert cli.main(["measure", names[0], other]) == 2
    assert "is of another build than" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_bundles_for_any_machine_are_not_rebuilt(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(recipe, "--bundle", "all") == 0
    folder = recipe.parent / "out/bundles/wait-int8-onnxruntime"
    assert cli.main(["rebuild", str(folder)]) == 2
    assert "is built for no machine in particular" in capsys.readouterr().err


def test_a_size_that_is_known_is_judged_and_a_number_that_is_not_is_not() -> None:
    waiting = Candidate("int8", "t", (), {}, pending=WHY)
    size = Measurement("int8@t", "size", "ratio", 2.0, None, None, 1, "x", "lower", against="fp32@t")
    asked = [gates.parse("size ratio <= 0.4"), gates.parse("latency.p50 speedup >= 2x")]
    outcomes = [v.outcome for v in gates.judge(asked, [size], [waiting], "fp32")]
    assert outcomes == ["fail", "inconclusive"]


def test_what_waits_is_chosen_whole_and_what_failed_is_not(recipe: Path, elsewhere: Any) -> None:
    document = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**document, "gates": ["size ratio <= 0.01"]}))
    assert build(recipe) == 1
    run, _ = read_run(recipe.parent / "out")
    assert choice.chosen(run, "best", allow_failed=False) == []
    assert json.loads((recipe.parent / "out/run.json").read_text())["candidates"][0]["pending"] == WHY
