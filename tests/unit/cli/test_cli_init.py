"""optc init: the recipe that it writes is one that optc plan accepts once the data is there."""

from __future__ import annotations

from pathlib import Path

import bundle_lab
import models
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from optimizer import recipe, registry, sketch
from optimizer.cli import main
from optimizer.errors import EXIT_OK, EXIT_USAGE, OptimizerError

HERE = str(Path(models.__file__).parent)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of models."""
    torch.set_num_threads(1)
    names = "ConvNet, MLP, TwoInputs, TokenEncoder, Recurrent, Branching"
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {HERE!r})\nimport torch\nfrom models import {names}\n"
        "class Picky(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        raise ValueError('never')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, *arguments: str) -> dict[str, object]:
    assert main(["init", *arguments]) == EXIT_OK
    found: dict[str, object] = yaml.safe_load((folder / "recipe.yaml").read_text())
    return found


def plan_accepts(folder: Path, **arrays: np.ndarray) -> None:
    for name in ("calibration.npz", "evaluation.npz"):
        np.savez(folder / name, **arrays)
    assert main(["plan", "recipe.yaml"]) == EXIT_OK


def test_a_classifier_by_entry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = written(folder, "net.py:ConvNet")
    assert document["model"] == {"entry": "net.py:ConvNet", "inputs": {"image": "float32[batch,3,32,32]"}}
    assert document["measure"]["metrics"] == ["top1"]  # type: ignore[index]
    said = capsys.readouterr()
    assert "the inputs of net.py:ConvNet were guessed" in said.err
    assert "wrote recipe.yaml" in said.out
    text = (folder / "recipe.yaml").read_text()
    assert "# guessed, and accepted by the model: check it" in text
    assert "# returns  output float32[batch,4]" in text
    plan_accepts(folder, image=np.zeros((3, 3, 32, 32), np.float32), label=np.arange(3))


def test_before_the_data_is_there_plan_names_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, "net.py:ConvNet")
    assert main(["plan", "recipe.yaml"]) == EXIT_USAGE
    assert "calibration.npz" in capsys.readouterr().err


def test_targets_are_those_that_run_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = registry.load("targets", "tensorrt-rtx")
    monkeypatch.setattr(engines, "probe", lambda: None)
    monkeypatch.setattr(engines, "pending", lambda _: "builds here, runs on a GPU")
    assert "tensorrt-rtx" not in written(folder, "net.py:ConvNet")["targets"]  # type: ignore[operator]
    monkeypatch.setattr(engines, "pending", lambda _: None)
    assert "tensorrt-rtx" in written(folder, "net.py:ConvNet", "--force")["targets"]  # type: ignore[operator]


def test_stated_inputs_are_taken_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = written(folder, "net.py:ConvNet", "--input", "image=float32[n,3,48,40]")
    assert document["model"]["inputs"] == {"image": "float32[n,3,48,40]"}  # type: ignore[index]
    assert "guessed" not in capsys.readouterr().err + (folder / "recipe.yaml").read_text()


def test_weights_go_into_the_recipe(folder: Path) -> None:
    torch.save(models.ConvNet().state_dict(), folder / "w.pt")
    document = written(folder, "net.py:ConvNet", "--weights", "w.pt")
    assert document["model"]["weights"] == "w.pt"  # type: ignore[index]


def test_paths_are_seen_from_the_recipe(folder: Path) -> None:
    assert main(["init", "net.py:MLP", "--out", "sub/mine.yaml"]) == EXIT_OK
    assert recipe.load("sub/mine.yaml").model.entry == f"{folder}/net.py:MLP"
    assert 'entry: "../net.py:MLP"' in (folder / "sub" / "mine.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("MLP", {"x": "float32[batch,8]"}),
        ("TwoInputs", {"left": "float32[batch,4]", "right": "float32[batch,3]"}),
        ("TokenEncoder", {"input_ids": "int64[batch,sequence]", "attention_mask": "int64[batch,sequence]"}),
    ],
)
def test_inputs_are_guessed_from_names_and_layers(name: str, inputs: dict[str, str], folder: Path) -> None:
    assert written(folder, f"net.py:{name}")["model"]["inputs"] == inputs  # type: ignore[index]


def test_guesses_for_other_first_layers() -> None:
    first = {
        nn.Conv2d(3, 8, 7, stride=2): "float32[batch,3,224,224]",
        nn.Conv2d(4, 8, 3, groups=2): "float32[batch,4,32,32]",
        nn.Conv1d(2, 8, 3): "float32[batch,2,1024]",
        nn.LSTM(6, 4, batch_first=True): "float32[batch,sequence,6]",
        nn.GRU(6, 4): "float32[sequence,batch,6]",
        nn.Embedding(9, 4): "int64[batch,sequence]",
    }
    for layer, text in first.items():
        names = sketch._parameters(layer)
        assert next(iter(sketch._combinations(names[:1], layer))) == (text,)


def test_a_torchscript_archive(folder: Path) -> None:
    torch.jit.script(models.ConvNet().eval()).save(folder / "net.pt")
    document = written(folder, "net.pt")
    assert document["model"] == {"file": "net.pt", "inputs": {"image": "float32[batch,3,32,32]"}}
    plan_accepts(folder, image=np.zeros((3, 3, 32, 32), np.float32), label=np.arange(3))


def test_an_exported_program_says_its_inputs_itself(folder: Path) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(models.MLP().eval(), (torch.zeros(3, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    document = written(folder, "net.pt2")
    assert document["model"] == {"file": "net.pt2"}
    assert "# takes    x float32[batch,8]" in (folder / "recipe.yaml").read_text()


def test_an_onnx_file(folder: Path) -> None:
    bundle_lab.write_model(folder)
    document = written(folder, "model.onnx")
    assert document["model"] == {"file": "model.onnx"}
    plan_accepts(folder, image=np.zeros((3, 4), np.float32), label=np.arange(3))


def test_a_hugging_face_directory(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
    document = written(folder, "./bert")
    assert document["model"] == {"hf": "bert"}
    assert document["measure"]["metrics"] == ["top1"]  # type: ignore[index]
    assert document["measure"]["latency"]["dims"] == {"sequence": 128}  # type: ignore[index]
    data = document["data"]["evaluate"]  # type: ignore[index]
    assert data["transforms"][0]["tokenize"]["tokenizer"] == "bert"
    assert data["source"] == {"text": {"path": "evaluation.tsv"}}


def test_nothing_is_overwritten_without_being_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.yaml").write_text("mine")
    assert main(["init", "net.py:MLP"]) == EXIT_USAGE
    assert "recipe.yaml exists already" in capsys.readouterr().err
    assert (folder / "recipe.yaml").read_text() == "mine"
    assert main(["init", "net.py:MLP", "--force"]) == EXIT_OK
    assert (folder / "recipe.yaml").read_text() != "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files, whoever asks")
def test_a_place_that_takes_no_files_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py:MLP", "--out", "/proc/x.yaml"]) == EXIT_USAGE
    shown = capsys.readouterr().err
    assert "cannot write below /proc (its folder takes no files: /proc/x.yaml)" in shown
    assert "--out" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.py:Nett"], "no callable 'Nett' there"),
        (["net.py:Picky"], "cannot guess what forward(x) takes"),
        (["absent.py:Net"], "no such file"),
        (["absent.onnx"], "no such file"),
        (["net.py:MLP", "--out", "recipe.txt"], "a recipe ends in .yaml"),
        (["net.py:MLP", "--input", "x"], "--input x: cannot be read"),
        (["net.py:MLP", "--input", "x=float32[batch,9]"], "net.py:MLP"),
    ],
)
def test_mistakes_leave_no_file(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not list(folder.glob("recipe*"))


def test_a_guess_that_fails_says_what_was_tried(folder: Path) -> None:
    with pytest.raises(OptimizerError, match=r"the last try: .*never") as caught:
        sketch.specification("net.py:Picky", {}, None, None)
    assert caught.value.hint and "--input 'x=float32" in caught.value.hint


LOOKUP = """
import torch

class Lookup(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(11, 3)

    def forward(self, kinds, amounts):
        return self.head(torch.cat([self.table(kinds[:, 0]), amounts], -1))
"""


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "--input 'kinds=int64[batch,length]', and so for amounts"),
        ({"kinds": "int64[batch,3]"}, "name it among the inputs: --input 'amounts=dtype[dims]'"),
        ({"kinds": "float32[batch,3]", "amounts": "float32[batch,7]"}, "give that input as int64[...]; see"),
    ],
)
def test_inputs_that_forward_refuses_are_told_by_name_and_kind(
    inputs: dict[str, str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "lookup.py").write_text(LOOKUP)
    arguments = [part for name, text in inputs.items() for part in ("--input", f"{name}={text}")]
    assert main(["init", "lookup.py:Lookup", *arguments]) == EXIT_USAGE
    assert told in capsys.readouterr().err


def test_the_next_move_can_be_copied_whatever_the_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py:MLP", "--out", "my model.yaml"]) == EXIT_OK
    assert capsys.readouterr().out.endswith("optc plan 'my model.yaml'\n")
