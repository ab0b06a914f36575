"""Transforms: what each makes of an example, and how each refuses what it cannot take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_lab import picture, png, write_tokenizer

from optimizer import transforms
from optimizer.errors import OptimizerError
from optimizer.recipe import DataSpec


def run(example: dict[str, Any], *uses: Any) -> Any:
    spec = DataSpec.model_validate({"source": "npz", "transforms": list(uses)})
    return transforms.apply(transforms.parse(spec.transforms, "data"), example)


def test_decode_gives_the_pixels_back_and_keeps_other_columns() -> None:
    pixels = picture(1)
    out = run({"image": png(pixels), "label": 3}, "image.decode")
    np.testing.assert_array_equal(out["image"], pixels)
    assert out["label"] == 3


def test_decode_grey_keeps_a_channel_axis() -> None:
    grey = picture(2)[..., 0]
    out = run({"image": png(grey)}, {"image.decode": {"mode": "L"}})
    np.testing.assert_array_equal(out["image"], grey[..., None])


def test_decode_turns_a_picture_as_its_camera_says() -> None:
    import io

    from PIL import Image

    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(picture(3, 4, 8)).save(stream, "PNG", exif=exif)
    assert run({"image": stream.getvalue()}, "image.decode")["image"].shape == (8, 4, 3)
    assert run({"image": stream.getvalue()}, {"image.decode": {"upright": False}})["image"].shape == (4, 8, 3)


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_decode_refuses_broken_files(cut: int) -> None:
    with pytest.raises(OptimizerError, match=r"transform image.decode.*no readable picture"):
        run({"image": png(picture(1, 64, 64))[:cut]}, "image.decode")


def test_decode_refuses_sixteen_bit_pictures_instead_of_clipping_them() -> None:
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    with pytest.raises(OptimizerError, match="more than 8 bits"):
        run({"image": png(deep)}, "image.decode")


@pytest.mark.parametrize(
    ("size", "mode", "shape"),
    [(4, "exact", (4, 4, 3)), ([2, 7], "exact", (2, 7, 3)), (3, "shortest", (3, 6, 3)), (20, "shortest", (20, 40, 3))],
)
def test_resize_shapes(size: Any, mode: str, shape: tuple[int, ...]) -> None:
    out = run({"image": picture(1, 10, 20)}, {"resize": {"size": size, "mode": mode}})["image"]
    assert out.shape == shape and out.dtype == np.uint8


def test_resize_keeps_a_constant_picture_constant() -> None:
    out = run({"image": np.full((9, 7, 1), 77, np.uint8)}, {"resize": {"size": 5, "interpolation": "bicubic"}})["image"]
    assert (out == 77).all() and out.shape == (5, 5, 1)


def test_crop_takes_the_middle() -> None:
    pixels = picture(1, 10, 8)
    out = run({"image": pixels}, {"crop.center": {"size": [4, 2]}})["image"]
    np.testing.assert_array_equal(out, pixels[3:7, 3:5])


def test_the_usual_picture_pipeline_matches_numpy() -> None:
    pixels = picture(5)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    out = run({"image": png(pixels)}, "image.decode", "rescale", {"normalize": {"mean": mean, "std": std}}, "layout")
    expected = ((pixels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)
    np.testing.assert_allclose(out["image"], expected, rtol=1e-6)
    assert out["image"].dtype == np.float32


def test_normalize_can_run_after_layout() -> None:
    pixels = picture(5)
    values = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0]}
    before = run({"image": pixels}, {"normalize": values}, "layout")["image"]
    after = run({"image": pixels}, "layout", {"normalize": {**values, "layout": "chw"}})["image"]
    np.testing.assert_allclose(before, after)


def test_layout_there_and_back() -> None:
    pixels = picture(6)
    np.testing.assert_array_equal(
        run({"image": pixels}, {"layout": {"to": "chw"}}, {"layout": {"to": "hwc"}})["image"], pixels
    )
    assert run({"image": pixels[..., 0]}, {"layout": {"to": "chw"}})["image"].shape == (1, 6, 5)


def test_small_tensor_transforms() -> None:
    out = run(
        {"x": np.arange(6)},
        {"cast": {"column": "x", "dtype": "float32"}},
        {"reshape": {"column": "x", "shape": [2, -1]}},
        {"expand": {"column": "x", "axis": 1}},
        {"rename": {"columns": {"x": "y"}}},
        {"constant": {"column": "one", "value": [1, 2], "dtype": "int64"}},
        {"rescale": {"column": "y", "factor": 2}},
    )
    np.testing.assert_array_equal(out["y"], 2 * np.arange(6, dtype=np.float32).reshape(2, 1, 3))
    assert out["one"].tolist() == [1, 2] and out["one"].dtype == np.int64 and "x" not in out


@pytest.mark.parametrize(
    ("example", "use", "message"),
    [
        ({"pixels": 1}, "image.decode", "unknown column 'image'; available: pixels"),
        ({"image": np.zeros((2, 2, 3))}, "image.decode", "not the bytes of a picture"),
        ({"image": b"x"}, "rescale", "undecoded bytes"),
        ({"image": "word"}, "rescale", "holds text"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, {"resize": {"size": 2}}, "resize takes uint8"),
        ({"image": np.zeros((4, 4, 3), np.uint8)}, {"crop.center": {"size": 5}}, "smaller than the crop"),
        ({"image": np.zeros((3, 4, 4))}, {"normalize": {"mean": [0, 0, 0], "std": [1, 1, 1]}}, "no 3 channels"),
        ({"image": np.zeros(4)}, "layout", "no picture"),
        ({"image": np.array([300])}, {"cast": {"dtype": "uint8"}}, "too wide for uint8"),
        ({"image": np.array([np.nan])}, {"cast": {"dtype": "int32"}}, "too wide for int32"),
        ({"image": np.zeros(5)}, {"reshape": {"shape": [2, 3]}}, "does not fit"),
        ({"image": np.zeros(5)}, {"expand": {"axis": 4}}, "out of range"),
        ({"a": 1, "b": 2}, {"rename": {"columns": {"a": "b"}}}, "two columns would be named 'b'"),
        ({"a": 1}, {"rename": {"columns": {"c": "b"}}}, "unknown column 'c'"),
        ({}, {"constant": {"column": "c", "value": [[1], [1, 2]]}}, "no float32 array"),
    ],
)
def test_a_transform_names_itself_and_the_fault(example: dict[str, Any], use: Any, message: str) -> None:
    name = use if isinstance(use, str) else next(iter(use))
    with pytest.raises(OptimizerError, match=message) as caught:
        run(example, use)
    assert caught.value.message.startswith(f"transform {name}: ") and caught.value.hint


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("resise", "unknown transform 'resise'.*resize"),
        ({"resize": {"sise": 3}}, r"transform 1 \(resize\): unknown key 'sise'"),
        ({"resize": {"size": [2, 3], "mode": "shortest"}}, "takes one number"),
        ({"rescale": {"factor": 2, "divide": 3}}, "not both"),
        ({"normalize": {"mean": [1, 2], "std": [1, 2, 3]}}, "different numbers of channels"),
        ({"normalize": {"mean": 0, "std": 0}}, "must not be 0"),
        ({"cast": {"dtype": "float31"}}, "float31"),
    ],
)
def test_bad_options_are_refused_before_any_data_is_read(use: Any, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        run({}, use)


def test_tokenize_one_column_a_pair_and_views(tmp_path: Path) -> None:
    path = str(write_tokenizer(tmp_path))
    example = {"a": "a cat sat", "b": "dog"}
    one = run(example, {"tokenize": {"tokenizer": path, "columns": ["a"]}})
    assert one["input_ids"].tolist() == [2, 4, 5, 7, 3] and one["input_ids"].dtype == np.int64
    pair = run(example, {"tokenize": {"tokenizer": path, "columns": ["a", "b"]}})
    assert pair["input_ids"].tolist() == [2, 4, 5, 7, 3, 6, 3]
    assert pair["token_type_ids"].tolist() == [0, 0, 0, 0, 0, 1, 1]
    views = run(example, {"tokenize": {"tokenizer": path, "columns": ["a", "b"], "views": True}})
    assert views["input_ids"].tolist() == [[2, 4, 5, 7, 3], [2, 6, 3, 0, 0]]
    assert views["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]


def test_tokenize_cuts_and_pads_to_a_length(tmp_path: Path) -> None:
    path = str(tmp_path)  # the folder stands for its tokenizer.json
    write_tokenizer(tmp_path, pad=1)
    out = run({"text": "cat"}, {"tokenize": {"tokenizer": path, "length": 5, "outputs": ["input_ids"]}})
    assert out["input_ids"].tolist() == [2, 5, 3, 1, 1] and "attention_mask" not in out
    assert run({"text": "a cat sat"}, {"tokenize": {"tokenizer": path, "max_length": 4}})["input_ids"].size == 4


@pytest.mark.parametrize("content", ["not json", "[]", "{}"])
def test_tokenize_refuses_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(OptimizerError, match="is no tokenizer file"):
        run({"text": "cat"}, {"tokenize": {"tokenizer": str(tmp_path)}})


def test_tokenize_refuses_three_columns_without_views_and_values_that_are_no_text(tmp_path: Path) -> None:
    path = str(write_tokenizer(tmp_path))
    with pytest.raises(OptimizerError, match="a sentence pair has two columns"):
        run({}, {"tokenize": {"tokenizer": path, "columns": ["a", "b", "c"]}})
    with pytest.raises(OptimizerError, match="holds int, not text"):
        run({"text": 4}, {"tokenize": {"tokenizer": path}})


def test_a_bundle_gets_portable_json_and_the_files(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    spec = DataSpec.model_validate(
        {"source": "npz", "transforms": [{"tokenize": {"tokenizer": str(path), "max_length": 8}}, "rescale"]}
    )
    described = transforms.describe(spec)
    assert json.loads(json.dumps(described)) == described
    assert described[0]["tokenize"]["tokenizer"] == "tokenizer.json" and described[0]["tokenize"]["max_length"] == 8
    assert described[1] == {"rescale": {"column": "image"}}
    assert transforms.files(spec) == [path]


def test_a_missing_tokenizer_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_tokenizer(tmp_path))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(OptimizerError, match="needs the package 'tokenizers'") as caught:
        run({"text": "cat"}, {"tokenize": {"tokenizer": path}})
    assert caught.value.hint == "pip install 'optc[hf]'"
