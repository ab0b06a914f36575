"""Verifying: a good bundle passes with what differs here, a wrong output does not."""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import bundle_lab
import numpy as np
import pytest
from bundle_lab import artifact, packed, run

from optimizer import bundle, machine
from optimizer.bundle import samples
from optimizer.errors import OptimizerError


@pytest.fixture(autouse=True)
def _target(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target())


def _machine(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    here = dataclasses.replace(machine.here(), architecture="x86_64", isa=("avx2",), **changes)
    monkeypatch.setattr(machine, "here", lambda: here)


def test_folder_and_archive_pass_and_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch)
    for path in packed(tmp_path):
        found = bundle.verify(path)
        assert found.replayed is not None
        assert (found.replayed.count, found.replayed.max_error) == (2, 0.0)
        assert found.findings == ()
        assert found.manifest.candidate == "fp32@onnxruntime"


def test_samples_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = packed(tmp_path)
    bundle_lab.use_target(monkeypatch, None)
    for path in paths:
        assert bundle.verify(path, run_samples=False).replayed is None


def test_a_renamed_folder_and_archive_are_fine(tmp_path: Path) -> None:
    folder, archive = packed(tmp_path)
    bundle.verify(folder.rename(tmp_path / "deployed"))
    bundle.verify(archive.rename(tmp_path / "deployed.tgz"))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, archive = packed(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    bundle.verify(archive)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    _, archive = packed(tmp_path)
    seen: list[tuple[int, int]] = []
    found = bundle.verify(archive, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] >= found.manifest.size == seen[-1][1]


def test_other_outputs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = packed(tmp_path)
    honest = bundle_lab.OrtSession.__call__
    monkeypatch.setattr(
        bundle_lab.OrtSession, "__call__", lambda self, feeds: {"logits": honest(self, feeds)["logits"] * 1.01}
    )
    with pytest.raises(OptimizerError, match="samples do not give the packed outputs here"):
        bundle.verify(folder)


def test_a_missing_runtime_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = packed(tmp_path)
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target(probe="onnxruntime is not installed"))
    with pytest.raises(OptimizerError, match="onnxruntime is not installed") as caught:
        bundle.verify(folder)
    assert "pip install onnxruntime==" in str(caught.value.hint)
    bundle.verify(folder, run_samples=False)


def test_another_machine_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact(tmp_path / "store")
    there = dataclasses.replace(run(made).machine, isa=("avx2", "avx512_vnni"))
    folder, _ = packed(tmp_path, run=run(made, machine=there, tools={"onnxruntime": "1.2.3"}))
    _machine(monkeypatch)
    first, second = bundle.verify(folder).findings
    assert "this CPU lacks avx512_vnni" in first
    assert second.endswith("is installed here; measured with 1.2.3")


def test_another_architecture_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact(tmp_path / "store")
    there = dataclasses.replace(run(made).machine, architecture="aarch64", isa=("asimd",))
    folder, _ = packed(tmp_path, run=run(made, machine=there))
    _machine(monkeypatch)
    assert bundle.verify(folder).findings == ("measured on aarch64, this machine is x86_64: no number carries over",)


def test_another_precision_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = packed(tmp_path)
    _machine(monkeypatch)
    monkeypatch.setattr(bundle_lab.OrtSession, "precision", "bf16")
    assert bundle.verify(folder).findings == ("runs as bf16 here; measured as float32",)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(OptimizerError, match="no such bundle"):
        bundle.verify(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptimizerError, match=r"it has no manifest\.json"):
        bundle.verify(tmp_path / "empty")
    for data in (b"", b"\x1f", b"PK\x03\x04", b"hello"):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(OptimizerError, match="neither a bundle folder nor"):
            bundle.verify(tmp_path / "file")


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, archive = packed(tmp_path)
    usage = shutil_usage(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OptimizerError, match="no room to unpack"):
        bundle.verify(archive)
    bundle.verify(archive, run_samples=False)


def shutil_usage(free: int) -> Any:
    return type("Usage", (), {"free": free})()


@pytest.mark.parametrize("kind", ["pickle", "compressed", "overlapping", "garbage"])
def test_sample_files_that_are_more_than_plain_arrays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.npz"
    if kind == "pickle":
        np.savez(path, a=np.array([{"x": 1}], dtype=object))
    elif kind == "compressed":
        np.savez_compressed(path, a=np.zeros(1_000_000))
    elif kind == "overlapping":
        samples.write(path, {"a": np.zeros(100)})
        with zipfile.ZipFile(path, "a") as archive:
            archive.filelist.extend([archive.filelist[0]] * 3)
            archive._didModify = True
    else:
        path.write_bytes(b"garbage")
    with pytest.raises(OptimizerError, match="not a sample file"):
        samples.read(path)
