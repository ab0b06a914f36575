"""Batches: columns bound to inputs, dtype and shape checked, ragged samples padded, views flattened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_lab import picture, png, signature, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from optimizer import dataset
from optimizer.dataset.stream import Stream
from optimizer.errors import OptimizerError
from optimizer.protocols import Dataset
from optimizer.recipe import DataSpec, Use
from optimizer.values import Signature

VECTOR = signature(x="float32[batch,3]")


def opened(folder: Path, model: Signature | None, arrays: dict[str, Any], seed: int = 0, **spec: Any) -> Stream:
    np.savez(folder / "d.npz", **arrays)
    return dataset.open(_spec(folder, {"npz": {"path": "d.npz"}}, **spec), "d", model, seed)


def listed(folder: Path, model: Signature | None, examples: str, **spec: Any) -> Stream:
    (folder / "d.py").write_text(f"import numpy as np\ndef f(): return {examples}\n")
    return dataset.open(_spec(folder, {"python": {"entry": "d.py:f"}}, **spec), "d", model, 0)


def _spec(folder: Path, source: Any, **spec: Any) -> DataSpec:
    return dataset.resolve(DataSpec.model_validate({"source": source, **spec}), folder)


def test_batches_in_order_with_labels(tmp_path: Path) -> None:
    x = np.arange(21, dtype=np.float32).reshape(7, 3)
    stream: Dataset = opened(tmp_path, VECTOR, {"x": x, "y": np.arange(7)}, label="y")
    assert len(stream) == 7 and stream.name == "d" and len(stream.digest) == 64
    found = list(stream.batches(3))
    assert [len(b.indices) for b in found] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([b.feeds["x"] for b in found]), x)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in found]), np.arange(7))
    assert sum(len(b.indices) for b in stream.batches(4, limit=5)) == 5
    assert found[0].feeds["x"].flags.c_contiguous


def test_skip_take_and_shuffle(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((50, 3), np.float32)}

    def drawn(limit: int | None = None, seed: int = 0, **spec: Any) -> list[int]:
        stream = opened(tmp_path, VECTOR, arrays, seed, **spec)
        return [int(i) for b in stream.batches(7, limit) for i in b.indices]

    assert drawn(skip=40, take=5) == [40, 41, 42, 43, 44]
    shuffled = drawn(skip=10, take=20, shuffle=True)
    assert shuffled == sorted(shuffled) and len(set(shuffled)) == 20 and min(shuffled) >= 10
    assert shuffled == drawn(skip=10, take=20, shuffle=True) != drawn(skip=10, take=20, shuffle=True, seed=1)
    part = drawn(limit=5, skip=10, take=20, shuffle=True)
    assert set(part) < set(shuffled) and part != shuffled[:5]


@pytest.mark.parametrize("spec", [{"skip": 50}, {"skip": 99}])
def test_empty_data_is_refused(tmp_path: Path, spec: dict[str, Any]) -> None:
    with pytest.raises(OptimizerError, match="is empty: its source has 50 examples"):
        opened(tmp_path, VECTOR, {"x": np.zeros((50, 3), np.float32)}, **spec)


def test_the_only_fitting_column_feeds_the_only_input(tmp_path: Path) -> None:
    arrays = {"pixels": np.zeros((4, 3), np.float32), "id": np.arange(4), "y": np.arange(4)}
    assert list(next(opened(tmp_path, VECTOR, arrays, label="y").batches(2)).feeds) == ["x"]
    arrays["other"] = arrays["pixels"]
    with pytest.raises(
        OptimizerError, match=r"no column is named like the model input 'x'.*columns: pixels, id, other"
    ):
        opened(tmp_path, VECTOR, arrays, label="y")
    chosen = opened(tmp_path, VECTOR, arrays, label="y", inputs={"x": "other"})
    assert next(chosen.batches(1)).feeds["x"].shape == (1, 3)


def test_several_inputs_go_by_name(tmp_path: Path) -> None:
    model = signature(a="float32[n,2]", b="int64[n]")
    arrays = {"b": np.arange(3), "a": np.zeros((3, 2), np.float32)}
    feeds = next(opened(tmp_path, model, arrays).batches(3)).feeds
    assert list(feeds) == ["a", "b"] and feeds["b"].shape == (3,)
    with pytest.raises(OptimizerError, match=r"model input 'b' \(int64\[n\]\)"):
        opened(tmp_path, model, {"a": arrays["a"]})


def test_inputs_and_pads_of_no_model_input_are_refused(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((3, 3), np.float32)}
    with pytest.raises(OptimizerError, match="unknown model input 'xx'"):
        opened(tmp_path, VECTOR, arrays, inputs={"xx": "x"})
    with pytest.raises(OptimizerError, match="unknown model input 'p'"):
        opened(tmp_path, VECTOR, arrays, pad={"p": 0})
    with pytest.raises(OptimizerError, match="unknown column 'q'"):
        opened(tmp_path, VECTOR, arrays, inputs={"x": "q"})


@pytest.mark.parametrize(
    ("model", "array", "expected", "found", "hint"),
    [
        ("float32[n,3]", np.zeros((2, 3)), "float32[n,3]", "float64[3]", "cast: {column: x, dtype: float32}"),
        ("float32[n,3]", np.zeros((2, 3), np.uint8), "float32[n,3]", "uint8[3]", "rescale"),
        ("int32[n,3]", np.zeros((2, 3), np.int64), "int32[n,3]", "int64[3]", "dtype: int32"),
        ("int64[n,3]", np.zeros((2, 3), np.float32), "int64[n,3]", "float32[3]", "dtype: int64"),
        ("bfloat16[n,3]", np.zeros((2, 3), np.float32), "bfloat16[n,3]", "float32", "bfloat16"),
        (
            "uint8[n,3,8,8]",
            np.zeros((2, 8, 8, 3), np.uint8),
            "[n,3,8,8]",
            "uint8[8,8,3]",
            "layout: {column: x, to: chw}",
        ),
        ("uint8[n,8,8,3]", np.zeros((2, 3, 8, 8), np.uint8), "[n,8,8,3]", "uint8[3,8,8]", "to: hwc"),
        ("uint8[n,1,8,8]", np.zeros((2, 8, 8), np.uint8), "[n,1,8,8]", "uint8[8,8]", "expand: {column: x, axis: 0}"),
        ("uint8[n,1,8,8]", np.zeros((2, 64), np.uint8), "[n,1,8,8]", "uint8[64]", "shape: [1, 8, 8]"),
        ("uint8[n,3,9,9]", np.zeros((2, 3, 8, 8), np.uint8), "[n,3,9,9]", "uint8[3,8,8]", "resize"),
        ("int64[n,9]", np.zeros((2, 8), np.int64), "[n,9]", "int64[8]", "length: 9"),
    ],
)
def test_a_mismatch_names_input_expected_found_and_cure(
    tmp_path: Path, model: str, array: np.ndarray, expected: str, found: str, hint: str
) -> None:
    with pytest.raises(OptimizerError) as caught:
        opened(tmp_path, signature(x=model), {"x": array})
    text = caught.value.message
    assert "input 'x'" in text and expected in text and found in text and hint in str(caught.value.hint)


def test_what_loses_nothing_is_cast(tmp_path: Path) -> None:
    for have, want in [("int32", "int64"), ("uint8", "int32"), ("float16", "float32"), ("bool", "int64")]:
        stream = opened(tmp_path, signature(x=f"{want}[n]"), {"x": np.ones(3, have)})
        assert next(stream.batches(3)).feeds["x"].dtype == want


def test_plain_python_numbers_take_the_models_dtype(tmp_path: Path) -> None:
    stream = listed(tmp_path, VECTOR, "[{'x': [1, 2.5, 3]}]")
    assert next(stream.batches(1)).feeds["x"].tolist() == [[1.0, 2.5, 3.0]]
    with pytest.raises(OptimizerError, match=r"expected one example of a model input uint8\[n\]"):
        listed(tmp_path, signature(x="uint8[n]"), "[{'x': 300}]")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("None", "nothing: the value is null"),
        ("b'1'", "undecoded bytes"),
        ("'a'", "found text"),
        ("[[1], [1, 2]]", "different lengths"),
    ],
)
def test_values_that_are_no_numbers(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        listed(tmp_path, VECTOR, f"[{{'x': {value}}}]")


def test_a_later_example_that_differs_is_named(tmp_path: Path) -> None:
    stream = listed(tmp_path, VECTOR, "[{'x': [1., 2., 3.]}, {'x': [1., 2.]}]")
    with pytest.raises(OptimizerError, match="data 'd', example 1: input 'x'"):
        list(stream.batches(2))


def test_ragged_tokens_are_padded_to_the_longest_of_the_batch(tmp_path: Path) -> None:
    model = signature(ids="int64[batch,seq]", mask="int64[batch,seq]")
    text = "[{'ids': np.arange(1, n + 1), 'mask': np.ones(n, np.int64)} for n in (2, 4, 1)]"
    stream = listed(tmp_path, model, text, pad={"ids": 9})
    batch = next(stream.batches(3))
    assert batch.feeds["ids"].tolist() == [[1, 2, 9, 9], [1, 2, 3, 4], [1, 9, 9, 9]]
    assert batch.feeds["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert next(stream.batches(1)).feeds["ids"].shape == (1, 2)


def test_the_same_free_dimension_has_one_size(tmp_path: Path) -> None:
    model = signature(ids="int64[batch,seq]", mask="int64[batch,seq]")
    with pytest.raises(OptimizerError, match="'seq' is 3 in input 'ids' and 2 in input 'mask'"):
        listed(tmp_path, model, "[{'ids': np.arange(3), 'mask': np.arange(2)}]")


def test_pictures_of_several_sizes_are_not_padded_unasked(tmp_path: Path) -> None:
    model = signature(x="float32[batch,1,h,w]")
    text = "[{'x': np.ones((1, n, 2), np.float32)} for n in (2, 3)]"
    with pytest.raises(OptimizerError, match="different shapes") as caught:
        list(listed(tmp_path, model, text).batches(2))
    assert "resize" in str(caught.value.hint)
    padded = next(listed(tmp_path, model, text, pad={"x": -1}).batches(2)).feeds["x"]
    assert padded.shape == (2, 1, 3, 2) and padded[0, 0, 2].tolist() == [-1, -1]


def test_views_become_samples(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, pad=1)
    (tmp_path / "d.tsv").write_text("a\tb\tscore\ncat\ta cat sat\t2\ndog ran\tdog\t3\n")
    spec = _spec(
        tmp_path,
        {"text": {"path": "d.tsv", "numeric": ["score"]}},
        transforms=[{"tokenize": {"tokenizer": "tokenizer.json", "columns": ["a", "b"], "views": True}}],
        views=2,
        label="score",
    )
    model = signature(input_ids="int64[batch,seq]", attention_mask="int64[batch,seq]")
    batch = next(dataset.open(spec, "d", model, 0).batches(2))
    assert batch.views == 2 and batch.labels is not None and batch.labels.tolist() == [2, 3]
    assert batch.feeds["input_ids"].tolist() == [[2, 5, 3, 1, 1], [2, 4, 5, 7, 3], [2, 6, 8, 3, 1], [2, 6, 3, 1, 1]]
    assert batch.feeds["attention_mask"].sum(axis=1).tolist() == [3, 5, 4, 3]
    with pytest.raises(OptimizerError, match="without a leading axis of 3 views") as caught:
        dataset.open(spec.model_copy(update={"views": 3}), "d", model, 0)
    assert "write views: 2," in str(caught.value.hint)


def test_arrays_without_an_axis_of_views_are_told_what_they_need(tmp_path: Path) -> None:
    with pytest.raises(OptimizerError, match="without a leading axis of 2 views") as caught:
        listed(tmp_path, signature(x="float32[batch,4]"), "[{'x': np.zeros(4)}]", views=2)
    assert "give arrays of [2, ...] per example; of columns of text" in str(caught.value.hint)


def test_without_a_model_every_column_of_numbers_is_fed(tmp_path: Path) -> None:
    stream = listed(tmp_path, None, "[{'a': np.zeros(2), 'name': 'n', 'y': 1, 'b': 4}]", label="y")
    assert list(next(stream.batches(1)).feeds) == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        (["a", "b"], "2", "2, out of range: there are 2 classes"),
        (["a", "b"], "-1", "out of range"),
        (["a", "b"], "0.5", "out of range"),
        (["a", "b"], "'c'", "unknown class 'c'"),
        ([], "'c'", "is the text 'c'"),
        ([], "None", "None, not a number"),
        ([], "float('nan')", "not a number"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: list[str], value: str, message: str) -> None:
    stream = listed(tmp_path, VECTOR, f"[{{'x': [1., 2., 3.], 'y': {value}}}]", label="y", labels=labels)
    batch = next(stream.batches(1))
    assert batch.feeds["x"].tolist() == [[1, 2, 3]], "who reads no label is not told of it"
    with pytest.raises(OptimizerError, match=f"data 'd', example 0: .*{message}"):
        _ = batch.labels


def test_labels_by_name_and_missing_label_column(tmp_path: Path) -> None:
    text = "[{'x': [1., 2., 3.], 'y': c} for c in ('no', 'yes')]"
    labels = next(listed(tmp_path, VECTOR, text, label="y", labels=["yes", "no"]).batches(2)).labels
    assert labels is not None and labels.tolist() == [1, 0]
    with pytest.raises(OptimizerError, match="unknown label column 'z'; available: x, y"):
        _ = next(listed(tmp_path, VECTOR, text, label="z").batches(2)).labels


def test_an_image_folder_end_to_end(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "p" / name).mkdir(parents=True)
        (tmp_path / "p" / name / "1.png").write_bytes(png(picture(len(name), 8, 9)))
    spec = _spec(
        tmp_path,
        {"images": {"path": "p"}},
        transforms=["image.decode", {"resize": {"size": 4}}, "rescale", "layout"],
        label="label",
        labels=["cat", "dog"],
    )
    batch = next(dataset.open(spec, "p", signature(input="float32[batch,3,4,4]"), 0).batches(8))
    assert batch.feeds["input"].shape == (2, 3, 4, 4) and batch.feeds["input"].max() <= 1
    (tmp_path / "p" / "dog" / "2.png").write_bytes(b"no picture")
    with pytest.raises(OptimizerError, match=r"data 'p', example 2: transform image\.decode"):
        list(dataset.open(spec, "p", signature(input="float32[batch,3,4,4]"), 0).batches(8))


@given(size=st.integers(1, 9), limit=st.none() | st.integers(1, 30), take=st.none() | st.integers(1, 30))
def test_however_batched_the_examples_are_the_same(
    tmp_path_factory: Any, size: int, limit: int | None, take: int | None
) -> None:
    stream = opened(
        tmp_path_factory.mktemp("d"), VECTOR, {"x": np.arange(60, dtype=np.float32).reshape(20, 3)}, take=take
    )
    seen = np.concatenate([b.feeds["x"] for b in stream.batches(size, limit)])
    count = min(20, limit or 20, take or 20)
    np.testing.assert_array_equal(seen, np.arange(60, dtype=np.float32).reshape(20, 3)[:count])


def _opened(folder: Path, arrays: dict[str, Any], **more: Any) -> Any:
    np.savez(folder / "d.npz", **arrays)
    spec = DataSpec(source=Use(name="npz", options={"path": str(folder / "d.npz")}), **more)
    return dataset.open(dataset.resolve(spec, folder), "d", signature(x="float32[batch,2]"), 0)


def test_slice_columns_are_the_raw_values(tmp_path: Path) -> None:
    x = np.zeros((5, 2), np.float32)
    arrays = {"x": x, "lang": np.array(["de", "en", "de", "fr", ""]), "age": np.arange(5)}
    steps = [Use(name="rename", options={"columns": {"lang": "language"}})]
    found = _opened(tmp_path, arrays, slices=["lang", "age"], transforms=steps)
    (batch,) = found.batches(5)
    assert batch.columns["lang"].tolist() == ["de", "en", "de", "fr", ""]
    assert batch.columns["age"].dtype == np.float64 and batch.columns["age"].tolist() == [0, 1, 2, 3, 4]


def test_a_slice_column_must_hold_single_values(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((5, 2), np.float32), "lang": np.array(["de"] * 5)}
    with pytest.raises(OptimizerError, match=r"unknown slice column 'lnag'.*lang"):
        _opened(tmp_path, arrays, slices=["lnag"])
    with pytest.raises(OptimizerError, match="the slice column 'x' holds no single number or text"):
        _opened(tmp_path, arrays, slices=["x"])


def test_labels_as_text_and_json(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((2, 2), np.float32), "said": np.array(["hello", "{}"]), "boxes": np.array(["[1]", "[2]"])}
    (batch,) = _opened(tmp_path, arrays, label="said", label_as="text").batches(2)
    assert batch.labels.tolist() == ["hello", "{}"]
    (batch,) = _opened(tmp_path, arrays, label="boxes", label_as="json").batches(2)
    assert batch.labels.dtype == object and list(batch.labels) == [[1], [2]]
    with pytest.raises(OptimizerError, match=r"the label .column 'said'. is not JSON"):
        _ = next(_opened(tmp_path, arrays, label="said", label_as="json").batches(2)).labels
    with pytest.raises(OptimizerError, match="is the text 'hello'") as caught:
        _ = next(_opened(tmp_path, arrays, label="said").batches(2)).labels
    assert "label_as: text (wer) or json (map) keeps it" in str(caught.value.hint)
    with pytest.raises(OptimizerError, match="is no text, but label_as: text asks for it"):
        _ = next(_opened(tmp_path, {**arrays, "n": np.arange(2)}, label="n", label_as="text").batches(2)).labels


def test_what_is_counted_without_being_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 2)))
    source = Use(name="npz", options={"path": str(tmp_path / "d.npz")})
    assert dataset.count(DataSpec(source=source)) == 9
    assert dataset.count(DataSpec(source=source, skip=4, take=3)) == 3
    assert dataset.count(DataSpec(source=source, skip=8, take=3)) == 1
    assert dataset.count(DataSpec(source=Use(name="python", options={}))) is None
