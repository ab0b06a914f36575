"""Packing: what goes in, what is refused, and the same bytes for the same run."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import bundle_lab
import numpy as np
import pytest
from bundle_lab import SAMPLES, artifact, packed, run

from optimizer import bundle
from optimizer.bundle import samples
from optimizer.errors import OptimizerError
from optimizer.values import Verdict

CONTENT = [
    "LICENSES.txt",
    "README.md",
    "manifest.json",
    "model/model.onnx",
    "preprocessing.json",
    "preprocessing/vocab.txt",
    "run.py",
    "samples/0/expected.npz",
    "samples/0/inputs.npz",
    "samples/1/expected.npz",
    "samples/1/inputs.npz",
]


@pytest.fixture(autouse=True)
def _target(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target())


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_folder_and_archive_hold_the_same_files(tmp_path: Path) -> None:
    folder, archive = packed(tmp_path)
    assert folder == tmp_path / "out" / "tiny-fp32-onnxruntime"
    assert archive == tmp_path / "out" / "tiny-fp32-onnxruntime.tar.gz"
    assert _names(folder) == CONTENT
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        assert names == [f"{folder.name}/{n}" for n in ["manifest.json", *sorted(set(CONTENT) - {"manifest.json"})]]
        for name in names:
            content = tar.extractfile(name)
            assert content is not None
            assert content.read() == (folder.parent / name).read_bytes()
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name, archive.name], "nothing else is left"


def test_archive_metadata_is_fixed(tmp_path: Path) -> None:
    _, archive = packed(tmp_path)
    assert archive.read_bytes()[4:8] == b"\0\0\0\0", "no time in the gzip header"
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 315532800)}
    assert {m.name.partition("/")[2] for m in members if m.mode == 0o755} == {"run.py"}
    assert {m.mode for m in members} == {0o644, 0o755}


def test_two_packs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b" / "elsewhere"
    for folder in (first, second):
        folder.mkdir(parents=True)
    folder_a, archive_a = packed(first)
    before = os.umask(0o077)
    try:
        folder_b, archive_b = packed(second)
        os.utime(second / "store" / "model.onnx", (1, 1))
        shutil.rmtree(folder_b)
        folder_b, archive_b = packed(second)
    finally:
        os.umask(before)
    assert archive_a.read_bytes() == archive_b.read_bytes()
    for name in _names(folder_a):
        assert (folder_a / name).read_bytes() == (folder_b / name).read_bytes()
        assert (folder_a / name).stat().st_mode == (folder_b / name).stat().st_mode


def test_no_path_of_the_building_machine_is_inside(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    for name in _names(folder):
        data = (folder / name).read_bytes()
        assert b"/home/" not in data
        assert str(tmp_path).encode() not in data


def test_no_pickle_is_inside(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    for name in (n for n in _names(folder) if n.endswith(".npz")):
        with np.load(folder / name, allow_pickle=False) as arrays:
            assert {a.dtype.kind for a in arrays.values()} == {"f"}
    assert not [n for n in _names(folder) if n.endswith((".pkl", ".pt", ".pth", ".bin"))]


def test_expected_outputs_are_the_models_own(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    session = bundle_lab.OrtSession(tmp_path / "store")
    for number, inputs in enumerate(SAMPLES):
        assert np.array_equal(samples.read(folder / f"samples/{number}/inputs.npz")["image"], inputs["image"])
        expected = samples.read(folder / f"samples/{number}/expected.npz")["logits"]
        assert np.array_equal(expected, session(inputs)["logits"])


def test_the_model_is_a_copy_of_its_own(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    copied, source = folder / "model" / "model.onnx", tmp_path / "store" / "model.onnx"
    assert copied.read_bytes() == source.read_bytes()
    assert copied.stat().st_nlink == 1
    assert not copied.samefile(source)


def test_manifest_says_where_it_came_from_and_what_it_needs(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    manifest = bundle.verify(folder).manifest
    assert (manifest.candidate, manifest.format, manifest.model) == ("fp32@onnxruntime", "onnx", "model/model.onnx")
    assert manifest.created == "2026-01-02T03:04:05+00:00"
    assert manifest.signature == bundle_lab.SIGNATURE
    assert manifest.runtime.distribution == "onnxruntime"
    assert manifest.runtime.options == {"threads": 1}
    assert manifest.environment.isa == ("avx2",)
    assert [s["key"] for s in manifest.provenance.steps] == [bundle_lab.KEY]
    assert [m.metric for m in manifest.measurements] == ["latency.p50", "size"]
    assert [v.outcome for v in manifest.verdicts] == ["pass"]
    assert manifest.tolerance == 1e-3
    assert manifest.preprocessing["transforms"] == [{"tokenize": {"tokenizer": "vocab.txt"}}]
    assert manifest.preprocessing["files"] == ["preprocessing/vocab.txt"]


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("float32", 1e-3), ("f32", 1e-3), ("int8 (QDQ)", 5e-2), ("uint8", 5e-2), ("bf16", 5e-2), ("float16", 5e-2)],
)
def test_tolerance_follows_what_really_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, tolerance: float
) -> None:
    monkeypatch.setattr(bundle_lab.OrtSession, "precision", precision)
    folder, _ = packed(tmp_path)
    assert json.loads((folder / "manifest.json").read_bytes())["tolerance"] == tolerance


def test_licenses_as_stated_and_plain_words_where_not(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    text = (folder / "LICENSES.txt").read_text()
    assert "weights: MIT\n" in text
    assert "data 'digits/test' (evaluate): not stated by the recipe\n" in text


def test_readme_shows_numbers_with_interval_and_machine(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    text = (folder / "README.md").read_text()
    assert "| latency.p50 | batch 1, threads 1 | 1 ms | 0.9 ms to 1.1 ms | 50 |" in text
    assert "| input | image | float32 | [batch, 4] |" in text
    assert "A CPU, x86_64 (avx2)" in text


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_gate_that_did_not_pass_is_refused_unless_told_otherwise(tmp_path: Path, outcome: Any) -> None:
    record = run(artifact(tmp_path / "store"))
    bad = Verdict("top1 drop <= 0.5pp", "fp32@onnxruntime", outcome, "it dropped 3 pp")
    other = Verdict("size ratio <= 0.3", "int8@onnxruntime", "fail", "not ours")
    record = dataclasses.replace(record, verdicts=(bad, other))
    with pytest.raises(OptimizerError, match=f"top1 drop <= 0.5pp: {outcome}: it dropped 3 pp"):
        packed(tmp_path, run=record)
    assert not (tmp_path / "out").exists(), "nothing is written"
    folder, _ = packed(tmp_path, run=record, allow_failed=True)
    found = bundle.verify(folder)
    assert found.manifest.accepted == ("top1 drop <= 0.5pp",)
    assert "packed although these gates did not pass: top1 drop <= 0.5pp" in found.findings
    assert "did not pass" in (folder / "README.md").read_text()


def test_an_altered_artifact_is_refused(tmp_path: Path) -> None:
    made = artifact(tmp_path / "store")
    path = made.path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(OptimizerError, match="not those that were measured"):
        bundle.pack(run(made), "fp32@onnxruntime", made, SAMPLES, {}, {}, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pytorch_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    made = artifact(tmp_path / "store")
    record = run(made)
    chosen = dataclasses.replace(record.candidates[0], target="pytorch")
    record = dataclasses.replace(record, candidates=(chosen,))
    with pytest.raises(OptimizerError, match="needs the code it was written in"):
        bundle.pack(record, "fp32@pytorch", made, SAMPLES, {}, {}, tmp_path / "out")


def test_nan_outputs_are_refused(tmp_path: Path) -> None:
    bad = [{"image": np.full((1, 4), np.nan, np.float32)}]
    with pytest.raises(OptimizerError, match="the output 'logits' holds NaN"):
        packed(tmp_path, samples=bad)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    folder, archive = packed(tmp_path)
    (folder / "stale.txt").write_text("old")
    archive.write_bytes(b"old")
    again, again_archive = packed(tmp_path)
    assert (again, again_archive) == (folder, archive)
    assert _names(folder) == CONTENT
    bundle.verify(archive)
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name, archive.name]


def test_an_older_bundle_survives_a_pack_that_fails(tmp_path: Path) -> None:
    _, archive = packed(tmp_path)
    before = archive.read_bytes()
    with pytest.raises(OptimizerError):
        packed(tmp_path, samples=[{"image": np.full((1, 4), np.inf, np.float32)}])
    assert archive.read_bytes() == before


def test_names_that_no_file_system_likes_become_plain(tmp_path: Path) -> None:
    record = dataclasses.replace(run(artifact(tmp_path / "store")), name="../my model: v2")
    folder, _ = packed(tmp_path, run=record)
    assert folder == tmp_path / "out" / "my-model-v2-fp32-onnxruntime"


def test_preprocessing_folders_are_copied_whole(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tok"
    (tokenizer / "inner").mkdir(parents=True)
    (tokenizer / "inner" / "a.json").write_text("{}")
    made = artifact(tmp_path / "store")
    folder, archive = bundle.pack(
        run(made), "fp32@onnxruntime", made, SAMPLES, {}, {"tok": tokenizer}, tmp_path / "out"
    )
    assert (folder / "preprocessing" / "tok" / "inner" / "a.json").read_text() == "{}"
    bundle.verify(archive, run_samples=False)


def test_incompressible_weights_are_stored_and_texts_deflated(tmp_path: Path) -> None:
    _, archive = packed(tmp_path, padding=300_000)
    assert 300_000 < archive.stat().st_size < 312_000
    text = tmp_path / "text"
    text.write_text("word " * 100_000)
    made = artifact(tmp_path / "store")
    _, small = bundle.pack(run(made), "fp32@onnxruntime", made, SAMPLES, {}, {"t": text}, tmp_path / "out")
    assert small.stat().st_size < 20_000
    assert b"word word" in gzip.decompress(small.read_bytes())


def test_text_samples_need_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    samples.write(path, {"text": np.array(["a", "bcd"], dtype=object), "file": np.arange(3)})
    found = samples.read(path)
    assert found["text"].tolist() == ["a", "bcd"]
    assert found["file"].tolist() == [0, 1, 2]
