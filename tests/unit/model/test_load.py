"""Every way in: what is read from a model, and how a model that does not work is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from models import MLP, ConvNet, Detector, TwoInputs, seeded
from torch import nn

from optimizer import formats, samples
from optimizer.anatomy import torch as anatomy_torch
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.execute import execute
from optimizer.formats import torch as torch_format
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.torch import open_model
from optimizer.passes import load
from optimizer.plan import plan
from optimizer.recipe import ModelSpec, parse
from optimizer.values import Signature, TensorSpec

IMAGE = {"image": "float32[batch,3,16,16]"}
VECTOR = {"x": "float32[batch,8]"}
USER = """
import torch
from torch import nn
import sizes

class Raises(nn.Module):
    def forward(self, x):
        return x.view(2, -1, sizes.WIDTH)

class Bad(nn.Module):
    def forward(self, x):
        return x / 0

class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(2, 8)

class Number(nn.Module):
    def forward(self, x):
        return {"a": x, "n": 3}

class Identity(nn.Module):
    def forward(self, x):
        return {"x": x, "y": x + 1}

class Trains(nn.Module):
    def train(self, mode=True):
        self.training = True
        return self
    def forward(self, x):
        return x

def number():
    return 3

def explodes():
    raise KeyError("no such thing")
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "sizes.py").write_text("WIDTH = 7\n")
    return tmp_path / "user.py"


def test_entry_learns_outputs_and_their_free_dimensions(bench):
    found = bench.model("Detector", inputs={"image": "float32[batch,3,height,width]"}).signature
    assert [(s.name, str(s)) for s in found.outputs] == [
        ("scores", "float32[batch,2]"),
        ("features.0", "float32[batch,4,features_0_2,features_0_3]"),
        ("features.1", "float32[batch,4,features_1_2,features_1_3]"),
        ("box.center", "float32[batch,2]"),
        ("box.size", "float32[batch,2]"),
    ]
    assert bench.notes["parameters"] == sum(p.numel() for p in seeded(Detector).parameters())


def test_free_output_dimensions_follow_the_right_input_dimension(bench):
    found = bench.model("UNet", inputs={"image": "float32[batch,1,height,width]"}).signature
    assert str(found.outputs[0]) == "float32[batch,2,height,width]"


def test_given_output_names_replace_those_of_the_structure(bench):
    found = bench.model("MLP", inputs=VECTOR, outputs=["logits"]).signature
    assert [s.name for s in found.outputs] == ["logits"]
    with pytest.raises(OptimizerError, match=r"gives 1 names, the model returns 5: scores, features\.0"):
        bench.model("Detector", inputs=IMAGE, outputs=["logits"])


def test_named_inputs_go_in_by_name_and_others_by_position(bench):
    by_name = bench.model("TwoInputs", inputs={"right": "float32[batch,3]", "left": "float32[batch,4]"})
    by_place = bench.model("TwoInputs", inputs={"a": "float32[batch,4]", "b": "float32[batch,3]"})
    feeds = synthetic_feeds(by_place.signature, {"batch": 2}, 0)
    swapped = {"right": feeds["b"], "left": feeds["a"]}
    expected = open_model(by_place.path)(feeds)["output"]
    np.testing.assert_array_equal(open_model(by_name.path)(swapped)["output"], expected)


def test_an_entry_without_weights_is_the_same_model_every_time(bench):
    source = bench.model("MLP", inputs=VECTOR)
    feeds = synthetic_feeds(source.signature, {"batch": 3}, 1)
    before = torch.get_rng_state()
    first, second = (open_model(source.path)(feeds)["output"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("form", ["plain.pt", "nested.pth", "prefixed.pth", "weights.safetensors"])
def test_weights_in_every_form_give_the_same_model(bench, tmp_path, form):
    model = seeded(ConvNet, seed=7)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    path = tmp_path / form
    if form.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(state, path)
    elif form.startswith("nested"):
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save(state if form.startswith("plain") else {f"module.{k}": v for k, v in state.items()}, path)
    source = bench.model("ConvNet", inputs=IMAGE, weights=str(path))
    feeds = synthetic_feeds(source.signature, {"batch": 2}, 0)
    with torch.inference_mode():
        expected = model(torch.from_numpy(feeds["image"])).numpy()
    np.testing.assert_allclose(open_model(source.path)(feeds)["output"], expected, rtol=1e-6)
    assert source.size == sum(v.numel() * v.element_size() for v in state.values())


def test_weights_of_another_model_list_every_fault(bench, tmp_path):
    state = dict(seeded(ConvNet).state_dict())
    state["linear.weight"] = torch.zeros(9, 16)
    state["extra.bias"] = state.pop("conv2.weight")
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(OptimizerError) as caught:
        bench.model("ConvNet", inputs=IMAGE, weights=str(tmp_path / "other.pt"))
    for part in ("missing (conv2.weight)", "unexpected (extra.bias)", "linear.weight [9, 16] instead of [4, 16]"):
        assert part in caught.value.message


def test_tied_weights_may_be_stored_under_one_name(tmp_path):
    from optimizer.formats import weights

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    torch.save({"embed.weight": torch.ones(5, 4)}, tmp_path / "tied.pt")
    model = Tied()
    weights.load_into(model, tmp_path / "tied.pt")
    assert model.head.weight.sum() == 20


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt", "pickled.pt", "empty.pt"])
def test_damaged_and_pickled_weights_are_refused(bench, tmp_path, name):
    from safetensors.torch import save

    model, path = seeded(ConvNet), tmp_path / name
    if name == "pickled.pt":
        torch.save(model, path)
    elif name == "empty.pt":
        torch.save({"epoch": 1}, path)
    elif name == "cut.safetensors":
        path.write_bytes(save(dict(model.state_dict()))[:900])
    else:
        torch.save(model.state_dict(), path)
        path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OptimizerError, match=name) as caught:
        bench.model("ConvNet", inputs=IMAGE, weights=str(path))
    if name == "pickled.pt":
        assert caught.value.message.endswith("(Unsupported global: GLOBAL models.ConvNet)")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", r"forward raised RuntimeError on x \[2, 8\].*\n.*user.py, line 8: return x.view"),
        ("Bad", "'output' holds Inf"),
        ("FixedBatch", "'batch' is declared free, but the model works at 2 only"),
        ("Number", "'n' of the model is of type int"),
        ("Trains", "stays in training mode"),
        ("number", "returned a int, not a torch.nn.Module"),
        ("explodes", "KeyError: 'no such thing'\n.*user.py, line 37"),
        ("Identiti", "(?s)no callable 'Identiti'.*did you mean 'Identity'"),
    ],
)
def test_user_code_that_does_not_work(bench, user, name, said):
    with pytest.raises(OptimizerError) as caught:
        bench.load(entry=f"{user}:{name}", inputs=VECTOR)
    assert re.search(said, str(caught.value)), str(caught.value)


def test_an_output_never_has_the_name_of_an_input(bench, user):
    found = bench.load(entry=f"{user}:Identity", inputs=VECTOR).signature
    assert [s.name for s in found.outputs] == ["x_out", "y"]


def test_unknown_free_dimension(bench):
    with pytest.raises(OptimizerError, match="no input has a free dimension 'bach'; available: batch"):
        bench.model("MLP", inputs=VECTOR, dims={"bach": [1, 4]})


def test_samples_that_do_not_fit_the_signature(bench):
    with pytest.raises(OptimizerError, match=r"'x' is float64\[2, 8\], the model takes float32\[batch,8\]"):
        bench.model("MLP", inputs=VECTOR, feeds=[{"x": np.zeros((2, 8))}])
    with pytest.raises(OptimizerError, match="'x' was not given; given: y"):
        bench.model("MLP", inputs=VECTOR, feeds=[{"y": np.zeros((2, 8), np.float32)}])


def test_changed_code_and_weights_are_noticed(bench, tmp_path, user):
    weights = tmp_path / "w.pt"
    torch.save(seeded(MLP).state_dict(), weights)
    by_weights = bench.model("MLP", inputs=VECTOR, weights=str(weights))
    by_code = bench.load(entry=f"{user}:Identity", inputs=VECTOR)
    torch.save(seeded(MLP, seed=1).state_dict(), weights)
    (tmp_path / "sizes.py").write_text("WIDTH = 8\n")
    for source in (by_weights, by_code):
        with pytest.raises(OptimizerError, match="has changed since it was loaded"):
            open_model(source.path)
    weights.unlink()
    with pytest.raises(OptimizerError, match="is gone"):
        formats.read("torch", by_weights.path)


def test_an_artifact_of_a_moved_model_is_stale(bench, user, tmp_path):
    source = bench.load(entry=f"{user}:Identity", inputs=VECTOR)
    options = ModelSpec(entry=f"{user}:Identity", inputs=VECTOR)
    assert not load.stale(source.path, options)
    (tmp_path / "copy").mkdir()
    moved = tmp_path / "copy" / "user.py"
    moved.write_text(USER)
    assert load.stale(source.path, options.model_copy(update={"entry": f"{moved}:Identity"}))
    (source.path / "module.json").write_text("{")
    assert load.stale(source.path, options)


def test_a_record_holds_no_pickle_and_reads_back(bench):
    source = bench.model("MLP", inputs=VECTOR)
    assert [p.name for p in source.path.iterdir()] == ["module.json"]
    assert json.loads((source.path / "module.json").read_text())["signature"]["outputs"][0]["name"] == "output"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    batch = torch.export.Dim("batch")
    arguments = {"left": torch.randn(2, 4), "right": torch.randn(2, 3)}
    found = torch.export.export(
        seeded(TwoInputs), (), arguments, dynamic_shapes={"left": {0: batch}, "right": {0: batch}}
    )
    torch.export.save(found, tmp_path / "two.pt2")
    return tmp_path / "two.pt2"


def test_exported_program_declares_its_own_inputs(bench, program):
    source = bench.load(file=str(program))
    assert {s.name: str(s) for s in source.signature.inputs} == {
        "left": "float32[batch,4]",
        "right": "float32[batch,3]",
    }
    feeds = synthetic_feeds(source.signature, {"batch": 3}, 0)
    expected = seeded(TwoInputs)(*(torch.from_numpy(v) for v in feeds.values())).detach().numpy()
    np.testing.assert_allclose(open_model(source.path)(feeds)["output"], expected, rtol=1e-6)


WIDE = """
import torch
from torch import nn

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 40)
    def forward(self, x):
        return self.conv(x)
"""


def test_a_made_sample_is_as_long_as_the_model_needs(bench, tmp_path):
    (tmp_path / "wide.py").write_text(WIDE)
    source = bench.load(entry=f"{tmp_path / 'wide.py'}:Wide", inputs={"x": "float32[batch,2,time]"})
    assert [str(s) for s in source.signature.outputs] == ["float32[batch,3,output_2]"]


def test_made_samples_keep_to_the_sizes_that_the_model_supports(tmp_path, store):
    signature = Signature((TensorSpec("x", "float32", ("batch", 2, "time")),), ())
    made = samples.made(signature, 0, {"time": (40, 41)}).feeds
    assert [feeds["x"].shape for feeds in made] == [(2, 2, 40), (1, 2, 41), (3, 2, 41)]
    assert samples.made(signature, 0).feeds[0]["x"].shape == (2, 2, 8)
    (tmp_path / "wide.py").write_text(WIDE)
    model = {"entry": "wide.py:Wide", "inputs": {"x": "float32[batch,2,time]"}, "dims": {"time": [40, 99]}}
    recipe = parse({"model": model, "targets": ["pytorch"], "measure": {"latency": False}}, "test", tmp_path)
    run = execute(plan(recipe), store, Console(level=0), measure=False).run  # without data
    assert [step.use for step in run.steps] == ["load", "pytorch"]


def test_an_exported_program_says_its_ranges_itself(bench, tmp_path):
    dims = ({0: torch.export.Dim("n", max=64), 2: torch.export.Dim("t", min=40, max=512)},)
    found = torch.export.export(torch.nn.Conv1d(2, 3, 30).eval(), (torch.randn(2, 2, 64),), dynamic_shapes=dims)
    torch.export.save(found, tmp_path / "p.pt2")
    source = bench.load(file=str(tmp_path / "p.pt2"))
    record = torch_format.load_record(source.path)
    assert record.dims["dim1"] == (40, 512) and record.dims["batch"][1] == 64
    assert anatomy_torch.dissect(source.path, {}).sizes == {"batch": 1, "dim1": 40}


def test_an_exported_program_may_bound_a_size_below_alone(bench, store, tmp_path):
    dims = ({0: torch.export.Dim("n"), 2: torch.export.Dim("t", min=40)},)
    found = torch.export.export(torch.nn.Conv1d(2, 3, 30).eval(), (torch.randn(2, 2, 64),), dynamic_shapes=dims)
    torch.export.save(found, tmp_path / "p.pt2")
    assert torch_format.load_record(bench.load(file=str(tmp_path / "p.pt2")).path).dims == {"dim1": (40, 1 << 30)}
    asked = {"model": {"file": "p.pt2"}, "targets": ["onnxruntime"], "measure": {"latency": False}}
    run = execute(plan(parse(asked, "test", tmp_path)), store, Console(level=0), measure=False).run  # without data
    assert [step.use for step in run.steps][:2] == ["load", "export"]


def test_an_exported_program_without_bounds_has_none(bench, program):
    assert torch_format.load_record(bench.load(file=str(program)).path).dims == {}


def test_inspection_at_sizes_that_do_not_fit_asks_for_others(bench, tmp_path):
    (tmp_path / "wide.py").write_text(WIDE)
    source = bench.load(entry=f"{tmp_path / 'wide.py'}:Wide", inputs={"x": "float32[batch,2,time]"})
    with pytest.raises(OptimizerError) as caught:
        anatomy_torch.dissect(source.path, {"batch": 1})
    assert caught.value.hint == "say sizes that the model takes: --dim time=SIZE"
    assert anatomy_torch.dissect(source.path, {"time": 40}).macs == 2 * 3 * 40


def test_exported_program_in_training_mode_is_refused(bench, tmp_path):
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train()
    torch.export.save(torch.export.export(net, (torch.randn(2, 8),)), tmp_path / "t.pt2")
    with pytest.raises(OptimizerError, match="exported in training mode"):
        bench.load(file=str(tmp_path / "t.pt2"))


def test_exported_program_with_a_pickle_inside_is_not_executed(bench, program, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    with zipfile.ZipFile(program) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    sample = next(n for n in content if n.endswith("sample_inputs/model.pt"))
    content[sample] = pickle.dumps(Evil())
    with zipfile.ZipFile(tmp_path / "evil.pt2", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(OptimizerError, match=r"evil\.pt2"):
        bench.load(file=str(tmp_path / "evil.pt2"))
    assert not (tmp_path / "executed").exists()


def test_torchscript_archive(bench, tmp_path):
    torch.jit.script(seeded(MLP)).save(tmp_path / "m.pt")
    source = bench.load(file=str(tmp_path / "m.pt"), inputs=VECTOR)
    feeds = synthetic_feeds(source.signature, {"batch": 3}, 0)
    expected = seeded(MLP)(torch.from_numpy(feeds["x"])).detach().numpy()
    np.testing.assert_allclose(open_model(source.path)(feeds)["output"], expected, rtol=1e-6)
    with pytest.raises(OptimizerError, match="does not say what it takes"):
        bench.load(file=str(tmp_path / "m.pt"))
    torch.save(seeded(MLP).state_dict(), tmp_path / "w.pt")
    with pytest.raises(OptimizerError, match=r"no TorchScript archive(.|\n)*model\.weights"):
        bench.load(file=str(tmp_path / "w.pt"), inputs=VECTOR)


def test_synthetic_feeds_are_seeded_and_shaped(bench):
    signature = bench.model(
        "TokenEncoder",
        inputs={"input_ids": "int64[batch,sequence]", "attention_mask": "int64[batch,sequence]"},
        dims={"sequence": [1, 64]},
    ).signature
    one, two = (synthetic_feeds(signature, {"batch": 2, "sequence": 5}, 3) for _ in range(2))
    assert one["input_ids"].shape == (2, 5) and one["input_ids"].dtype == np.int64
    assert (one["attention_mask"] == 1).all()
    np.testing.assert_array_equal(one["input_ids"], two["input_ids"])


def test_load_starts_a_chain(bench):
    source = bench.model("MLP", inputs=VECTOR)
    with pytest.raises(AssertionError, match="BUG"):
        load.run(source, ModelSpec(entry="a.b:c", inputs=VECTOR), bench.context(), bench.folder())
    assert dataclasses.is_dataclass(source)
