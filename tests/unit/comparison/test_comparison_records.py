"""Where the halves of a comparison come from: runs, bundles, stored baselines; and records of newer schemas."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import bundle_lab
import pytest
from comparison_lab import compared, published

from optimizer import schema
from optimizer.comparison import baselines, records
from optimizer.errors import OptimizerError


def test_a_run_is_read_from_its_file_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(schema.dump_run(published()))
    for text in (str(tmp_path), str(tmp_path / "run.json")):
        assert records.read(text, tmp_path).run == published()
    one = records.read(f"{tmp_path}#int8@openvino", tmp_path)
    assert [c.name for c in one.run.candidates] == ["int8@openvino"]
    with pytest.raises(OptimizerError, match="unknown candidate 'int9'"):
        records.read(f"{tmp_path}#int9", tmp_path)


def test_a_bundle_and_its_run_are_one_thing(tmp_path: Path) -> None:
    folder, archive = bundle_lab.packed(tmp_path / "made")
    run = bundle_lab.run(bundle_lab.artifact(tmp_path / "model"))
    for place in (folder, archive):
        found = records.read(str(place), tmp_path)
        assert found.kind == "bundle"
        result = compared(run, found.run)
        assert result.outcome == "pass", result.sentence
        assert [d for d in result.differences if d.kind in ("machine", "tool", "recipe", "step")] == []


def test_an_altered_bundle_is_not_compared(tmp_path: Path) -> None:
    folder, _ = bundle_lab.packed(tmp_path / "made")
    model = folder / "model" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(OptimizerError, match=r"model\.onnx' was altered"):
        records.read(str(folder), tmp_path)


def test_a_baseline_is_kept_and_read(tmp_path: Path) -> None:
    run = published()
    path = baselines.save("main", run, tmp_path)
    assert path == tmp_path / ".optc" / "baselines" / "main.json"
    assert records.read("main", tmp_path).run == run
    newer = dataclasses.replace(run, name="newer")
    baselines.save("main", newer, tmp_path)
    assert baselines.load("main", tmp_path).name == "newer"
    assert [p.name for p in path.parent.iterdir()] == ["main.json"], "no half-written file is left"


def test_an_unknown_baseline_names_those_there_are(tmp_path: Path) -> None:
    baselines.save("main", published(), tmp_path)
    with pytest.raises(OptimizerError) as caught:
        records.read("mian", tmp_path)
    assert "stored: main" in caught.value.message
    assert caught.value.hint == "did you mean 'main'?"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "x.json", "", "a b"])
def test_names_that_are_no_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptimizerError, match="is no name"):
        baselines.save(name, published(), tmp_path)
    assert not (tmp_path / ".optc").exists()


def test_a_word_that_is_both_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main").mkdir()
    baselines.save("main", published(), tmp_path)
    with pytest.raises(OptimizerError) as caught:
        records.read("main", tmp_path)
    assert "./main" in str(caught.value.hint)


def test_a_newer_run_record_names_who_wrote_it(tmp_path: Path) -> None:
    document = json.loads(schema.dump_run(published()))
    document |= {"schema": 9, "version": "7.0.0"}
    for more in ({}, {"measurements": {"shape": "of tomorrow"}}):
        (tmp_path / "run.json").write_text(json.dumps({**document, **more}))
        with pytest.raises(OptimizerError) as caught:
            records.read(str(tmp_path), tmp_path)
        assert "schema 9, written by optc 7.0.0" in caught.value.message
        assert "reads schema 1" in caught.value.message
        assert "7.0.0" in str(caught.value.hint)


def test_a_record_that_is_none_is_still_told_as_such(tmp_path: Path) -> None:
    for text in ('{"schema": 1}', "[]", "not json", '{"schema": true}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(OptimizerError, match="is not a run record"):
            records.read(str(tmp_path), tmp_path)


def test_a_newer_manifest_names_who_wrote_it(tmp_path: Path) -> None:
    folder, _ = bundle_lab.packed(tmp_path / "made")
    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**document, "schema": 5, "version": "7.0.0"}))
    with pytest.raises(OptimizerError) as caught:
        records.read(str(folder), tmp_path)
    assert "schema 5" in caught.value.message
    assert "reads 1" in caught.value.message
    assert "7.0.0" in str(caught.value.hint)


def test_what_is_a_record_is_decided_by_spelling(tmp_path: Path) -> None:
    baselines.save("main", published(), tmp_path)
    for record in ("run.json", "x.tar.gz", "run.json#int8", "main"):
        assert records.is_record(record, tmp_path)
    for model in ("x.onnx", "x.xml", "x.pt2", "net.py:Net", "a/b.onnx", "0123456789ab"):
        assert not records.is_record(model, tmp_path)
    (tmp_path / "model.onnx").touch()
    assert not records.is_record(str(tmp_path), tmp_path)
