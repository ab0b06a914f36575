"""The inputs of a trial: whose they are, how big, and who may be given the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.errors import OptimizerError
from optimizer.measure.process import Subject
from optimizer.subjects import Opened
from optimizer.subjects.signatures import named
from optimizer.trial.inputs import Wanted, at_batch, batches_of, choose, groups
from optimizer.values import Artifact, Signature, TensorSpec


def opened(name: str, *, feeds: tuple[Any, ...] = (), **inputs: str) -> Opened:
    signature = Signature(tuple(TensorSpec.parse(n, t) for n, t in inputs.items()), ())
    artifact = Artifact("onnx", Path("/nowhere"), name, name, named(signature), 1)
    return Opened(Subject(f"{name}@onnxruntime", "onnxruntime", artifact), name, name, feeds)


WANTED = Wanted([2], {})


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"y": "float32[batch,4]"}, "no input 'x'; an input 'y' (float32[batch,4]) that the first lacks"),
        ({"x": "float16[batch,4]"}, "'x' is float16[batch,4] instead of float32[batch,4]"),
        ({"x": "float32[batch,4,1]"}, "'x' is float32[batch,4,1] instead of float32[batch,4]"),
        ({"x": "float32[batch,5]"}, "'x' is float32[batch,5] instead of float32[batch,4]"),
    ],
)
def test_other_signatures_are_refused_with_what_differs(inputs: dict[str, str], told: str) -> None:
    two = [opened("a", x="float32[batch,4]"), opened("b", **inputs)]
    with pytest.raises(OptimizerError) as caught:
        groups(two, each=False)
    assert told in caught.value.message
    assert "--each" in str(caught.value.hint)
    assert [[o.origin for o in g] for g in groups(two, each=True)] == [["a"], ["b"]]


def test_nameless_dimensions_take_the_names_that_another_has() -> None:
    ir = opened("ir", ids="int64[ids_0,ids_1]", mask="int64[mask_0,mask_1]")
    onnx = opened("onnx", mask="int64[batch,sequence]", ids="int64[batch,sequence]")
    [group] = groups([ir, onnx], each=False)
    assert {o.subject.artifact.signature.symbols() for o in group} == {("batch", "sequence")}
    made = choose(group, Wanted([2], {"sequence": 6}))
    assert {a.shape for a in made.feeds.values()} == {(2, 6)}


def test_made_inputs_are_seeded_and_say_so() -> None:
    one = [opened("a", x="float32[batch,4]")]
    first, second = choose(one, WANTED), choose(one, WANTED)
    assert first.synthetic
    assert "synthetic" in first.note
    assert np.array_equal(first.feeds["x"], second.feeds["x"])
    assert not np.array_equal(first.feeds["x"], choose(one, Wanted([2], {}, seed=1)).feeds["x"])


def test_a_free_dimension_needs_a_size_unless_another_has_it_fixed() -> None:
    free = opened("a", x="float32[batch,length]")
    with pytest.raises(OptimizerError) as caught:
        choose([free], WANTED)
    assert "--dim length=128" in str(caught.value.hint)
    assert choose([free], Wanted([2], {"length": 7})).feeds["x"].shape == (2, 7)
    assert choose([free, opened("b", x="float32[batch,9]")], WANTED).feeds["x"].shape == (2, 9)


def test_unknown_dimensions_are_refused() -> None:
    one = [opened("a", x="float32[batch,length]")]
    with pytest.raises(OptimizerError, match="unknown dimension 'lenght'"):
        choose(one, Wanted([2], {"lenght": 3}))
    with pytest.raises(OptimizerError, match="--dim batch: that is the batch size"):
        choose(one, Wanted([2], {"batch": 3}))


def test_a_file_of_inputs(tmp_path: Path) -> None:
    one = [opened("a", x="float32[batch,4]")]
    path = tmp_path / "in.npz"
    np.savez(path, x=np.arange(12.0).reshape(3, 4), other=np.zeros(3))
    found = choose(one, Wanted([2], {}, path))
    assert not found.synthetic
    assert at_batch(one[0], found.feeds, 5)["x"].shape == (5, 4), "repeated to the batch size"
    np.savez(path, y=np.zeros(3))
    with pytest.raises(OptimizerError, match=r"lacks the array 'x' \(float32\[batch,4\]\); it has y"):
        choose(one, Wanted([2], {}, path))
    path.write_bytes(b"PK no archive")
    with pytest.raises(OptimizerError, match="cannot be read"):
        choose(one, Wanted([2], {}, path))
    np.savez(path, x=np.zeros((0, 4)))
    with pytest.raises(OptimizerError, match="is empty"):
        choose(one, Wanted([2], {}, path))


def test_a_bundle_brings_its_own() -> None:
    own = opened("b", feeds=({"x": np.zeros((1, 4))}, {"x": np.ones((3, 4))}), x="float32[batch,4]")
    found = choose([opened("a", x="float32[batch,4]"), own], WANTED)
    assert not found.synthetic
    assert found.feeds["x"].shape == (3, 4), "the biggest of its samples"
    assert "the samples of b" in found.note


def test_batch_sizes_fit_or_are_refused() -> None:
    fixed, free = opened("f", x="float32[8,4]"), opened("a", x="float32[batch,4]")
    assert batches_of([free], []) == [1]
    assert batches_of([free, fixed], []) == [8]
    assert batches_of([free], [1, 8, 1]) == [1, 8]
    with pytest.raises(OptimizerError, match="'f@onnxruntime' takes 8 samples per call and no other number"):
        batches_of([free, fixed], [4])
