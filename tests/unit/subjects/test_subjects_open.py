"""Everything that can be measured is opened, whatever it is, and nothing is written beside it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import bundle_lab
import pytest

from optimizer import registry, schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.store import Store
from optimizer.subjects import Asked, Opened, open_all
from optimizer.values import Artifact, Run

Open = Callable[..., list[Opened]]


@pytest.fixture
def opened(tmp_path: Path, store: Store) -> Open:
    def run(*texts: object, **asked: object) -> list[Opened]:
        folder = tmp_path / "temporary"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return open_all([str(t) for t in texts], Asked(**asked), store, folder, Console(level=0))  # type: ignore[arg-type]

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bundle_lab.write_model(tmp_path / "mine")
    return tmp_path / "mine" / "model.onnx"


def stored(store: Store) -> tuple[Artifact, Run]:
    """The tiny model as a build would leave it in the store, and that build's record."""
    with store.stage("e" * 64) as out:
        bundle_lab.write_model(out)
        made = dataclasses.asdict(bundle_lab.SIGNATURE)
        size = (out / "model.onnx").stat().st_size
        entry = store.commit(out, "e" * 64, {"use": "load", "format": "onnx", "signature": made, "bytes": size})
    artifact = Artifact("onnx", entry.path, entry.key, entry.digest, bundle_lab.SIGNATURE, size)
    run = bundle_lab.run(artifact)
    own = dataclasses.replace(run.candidates[0], artifact=entry.key, options={"spinning": False, "threads": 2})
    return artifact, dataclasses.replace(run, candidates=(own,))


def test_an_onnx_file_is_copied_and_named_after_itself(opened: Open, model: Path) -> None:
    before = sorted(model.parent.iterdir())
    [found] = opened(model)
    assert found.subject.name == "model@onnxruntime"
    assert found.subject.artifact.path != model.parent
    assert found.subject.options["threads"] == 1
    assert found.subject.options["finish_quantization"] is True, "as anybody's ONNX Runtime opens it"
    assert [str(t) for t in found.subject.artifact.signature.inputs] == ["float32[batch,4]"]
    assert sorted(model.parent.iterdir()) == before


def test_two_of_one_name_are_told_apart(opened: Open, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model.onnx"
    other.parent.mkdir()
    shutil.copy(model, other)
    names = [o.subject.name for o in opened(model, other, f"x={model}", model)]
    assert names == ["mine-model@onnxruntime", "other-model@onnxruntime", "x@onnxruntime", "mine-model-2@onnxruntime"]


def test_one_file_on_two_targets(opened: Open, model: Path) -> None:
    pytest.importorskip("openvino")
    found = opened(model, targets=["onnxruntime", "openvino"], threads=2)
    assert [o.subject.name for o in found] == ["model@onnxruntime", "model@openvino"]
    assert found[1].subject.artifact.format == "openvino"
    assert found[1].subject.artifact.signature.symbols() == ("batch",), "names survive the conversion"
    assert [o.subject.options["threads"] for o in found] == [2, 2]
    assert [o.subject.name for o in opened(f"{model}@openvino")] == ["model@openvino"]


def test_an_ir_runs_and_is_not_turned_back(opened: Open, model: Path) -> None:
    ov = pytest.importorskip("openvino")
    file = model.with_name("net.xml")
    ov.save_model(ov.convert_model(str(model)), str(file), compress_to_fp16=False)
    [found] = opened(file)
    assert found.subject.name == "net@openvino"
    assert found.subject.artifact.signature.symbols() == ("batch",)
    with pytest.raises(OptimizerError, match="cannot run on onnxruntime: that takes onnx, this is openvino"):
        opened(f"{file}@onnxruntime")
    file.with_suffix(".bin").unlink()
    with pytest.raises(OptimizerError, match=r"no such model file: .*net\.bin"):
        opened(file)


def test_a_bundle_is_opened_with_its_recorded_options_and_samples(opened: Open, tmp_path: Path) -> None:
    folder, archive = bundle_lab.packed(tmp_path / "made")
    for place in (folder, archive):
        [found] = opened(place)
        assert found.subject.target == "onnxruntime"
        assert found.candidate == "fp32@onnxruntime"
        assert found.subject.options["threads"] == 1
        assert sorted(len(feeds["image"]) for feeds in found.feeds) == [2, 5]
    assert not list(folder.rglob("__pycache__"))


def test_an_altered_bundle_is_refused(opened: Open, tmp_path: Path) -> None:
    folder, archive = bundle_lab.packed(tmp_path / "made")
    (folder / "run.py").write_text("print('hello')")
    with pytest.raises(OptimizerError, match=r"run\.py"):
        opened(folder)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(OptimizerError):
        opened(archive)


def test_candidates_of_a_run_come_from_the_store(opened: Open, store: Store, tmp_path: Path) -> None:
    artifact, run = stored(store)
    (tmp_path / "run.json").write_bytes(schema.dump_run(run))
    for text in (tmp_path, tmp_path / "run.json", f"{tmp_path}#fp32", f"{tmp_path}#fp32@onnxruntime"):
        [found] = opened(text)
        assert found.subject.name == "fp32@onnxruntime"
        assert found.subject.artifact.path == artifact.path
        assert found.subject.options["spinning"] is False, "as recorded"
        assert found.subject.options["finish_quantization"] is False
        assert found.subject.options["threads"] == 2
    assert opened(tmp_path, threads=1)[0].subject.options["threads"] == 1
    assert opened(f"now={tmp_path}")[0].subject.name == "now@onnxruntime"


def test_a_trimmed_artifact_is_named(opened: Open, store: Store, tmp_path: Path) -> None:
    _, run = stored(store)
    (tmp_path / "run.json").write_bytes(schema.dump_run(run))
    store.clear()
    with pytest.raises(OptimizerError) as caught:
        opened(tmp_path)
    assert "fp32@onnxruntime" in caught.value.message
    assert "is not in the store" in caught.value.message
    assert "trimmed" in str(caught.value.hint)


def test_a_stored_artifact_is_opened_by_key_and_by_folder(opened: Open, store: Store) -> None:
    artifact, _ = stored(store)
    for text in ("e" * 12, artifact.path, artifact.path.parent):
        [found] = opened(text)
        assert found.subject.artifact.signature == bundle_lab.SIGNATURE
    with pytest.raises(OptimizerError, match="no stored artifact has a key"):
        opened("f" * 12)


@pytest.mark.parametrize(
    "text", ["nothing", "nothing.onnx", "nothing.xml", "nothing.pt2", "nothing.tar.gz", "nothing.json"]
)
def test_what_is_not_there_is_refused(opened: Open, text: str) -> None:
    with pytest.raises(OptimizerError):
        opened(text)


def test_a_folder_without_a_model_says_what_it_holds(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").touch()
    with pytest.raises(OptimizerError, match=r"found: todo\.txt"):
        opened(tmp_path / "notes")


WIDE = """
import torch

class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = torch.nn.Conv1d(1, 2, 40)

    def forward(self, audio):
        return self.filter(audio[:, None]).mean(-1)
"""


def test_a_model_is_built_for_the_sizes_that_are_measured(opened: Open, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "wide.py").write_text(WIDE)
    entry, inputs = f"{tmp_path / 'wide.py'}:Wide", {"audio": "float32[batch,samples]"}
    with pytest.raises(OptimizerError, match="greater than actual input size"):
        opened(entry, inputs=inputs, targets=["onnxruntime"])
    [found] = opened(entry, inputs=inputs, targets=["onnxruntime"], dims={"samples": 80, "of_another": 9})
    assert found.subject.artifact.signature.symbols() == ("batch", "samples")
    assert found.notes == ("built for samples from 78 to 80, by --dim",)


def test_a_target_that_is_not_installed_says_so(opened: Open, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("targets", "openvino"), "probe", lambda: "OpenVINO is not installed")
    with pytest.raises(OptimizerError, match="not usable here: OpenVINO is not installed"):
        opened(model, targets=["openvino"])
