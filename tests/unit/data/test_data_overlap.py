"""Examples that training and evaluation share are found by content, in whatever file, column or place they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer import dataset
from optimizer.dataset import overlap
from optimizer.dataset.stream import Stream
from optimizer.errors import OptimizerError
from optimizer.recipe import DataSpec

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5)).astype(np.float32)


def opened(path: Path, arrays: dict[str, np.ndarray], **more: Any) -> Stream:
    np.savez(path, **arrays)
    spec = dataset.resolve(DataSpec.model_validate({"source": {"npz": {"path": str(path)}}, **more}), path.parent)
    return dataset.open(spec, path.stem, None, 0)


def test_shared_examples_are_found_across_files_names_and_labels(tmp_path: Path) -> None:
    train = opened(tmp_path / "a.npz", {"x": X[:30], "y": np.arange(30)}, inputs={"image": "x"}, label="y")
    mixed = np.concatenate([X[30:], X[[7, 3]]])
    test = opened(tmp_path / "b.npz", {"pixels": mixed, "id": np.arange(12)}, inputs={"image": "pixels"})
    assert overlap.made_of(train) == ("x",) and overlap.made_of(test) == ("pixels",)
    assert overlap.shared(train, test).tolist() == [3, 7]


def test_places_count_in_the_subset_that_is_used(tmp_path: Path) -> None:
    train = opened(tmp_path / "a.npz", {"x": X}, skip=10, take=20)
    test = opened(tmp_path / "b.npz", {"x": X[[5, 12, 35]]})
    assert overlap.shared(train, test).tolist() == [2]


def test_pairs_are_the_same_in_either_order_and_a_half_is_not_the_whole(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"source": {"text": {"path": "", "delimiter": "tab"}}, "inputs": {"a": "n"}}

    def pairs(name: str, rows: list[tuple[str, str]]) -> Stream:
        path = tmp_path / name
        path.write_text("left\tright\tid\n" + "".join(f"{a}\t{b}\t{i}\n" for i, (a, b) in enumerate(rows)))
        tokenizer = _tokenizer(tmp_path)
        steps = [{"tokenize": {"tokenizer": str(tokenizer), "columns": ["left", "right"], "views": True}}]
        made = {**spec, "source": {"text": {"path": str(path), "delimiter": "tab"}}, "transforms": steps, "views": 2}
        made["inputs"] = {"input_ids": "input_ids"}
        return dataset.open(dataset.resolve(DataSpec.model_validate(made), tmp_path), name, None, 0)

    train = pairs("train.tsv", [("a dog", "a cat"), ("a bird", "a cat"), ("a fish", "a dog ")])
    test = pairs("test.tsv", [("a dog", "a fish"), ("a bird", "a dog")])
    assert overlap.made_of(train) == ("left", "right")
    assert overlap.shared(train, test).tolist() == [2]


def _tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["[UNK]", "a", "dog", "cat", "bird", "fish"])}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_training_on_them_is_refused_or_they_are_left_out(tmp_path: Path) -> None:
    train = opened(tmp_path / "a.npz", {"x": X[:30]})
    evaluate, select = opened(tmp_path / "b.npz", {"x": X[25:]}), opened(tmp_path / "c.npz", {"x": X[[0, 1, 26]]})
    with pytest.raises(
        OptimizerError, match=r"5 of 30 examples .* 'evaluate' \(b\) as well \(rows 25, 26, 27, ...\)"
    ) as caught:
        dataset.apart(train, {"evaluate": evaluate, "select": select}, drop=False)
    assert "overlap: drop" in str(caught.value.hint)
    left, counts = dataset.apart(train, {"evaluate": evaluate, "select": select}, drop=True)
    assert counts == {"evaluate": 5, "select": 3}
    assert np.array_equal(next(iter(left.batches(99))).feeds["x"], X[2:25])
    assert len(train) == 30


def test_data_without_shared_examples_is_left_alone(tmp_path: Path) -> None:
    train, test = opened(tmp_path / "a.npz", {"x": X[:30]}), opened(tmp_path / "b.npz", {"x": X[30:]})
    left, counts = dataset.apart(train, {"evaluate": test}, drop=False)
    assert len(left) == 30 and counts == {"evaluate": 0}


def test_nothing_is_left_to_train_on(tmp_path: Path) -> None:
    train, test = opened(tmp_path / "a.npz", {"x": X[:3]}), opened(tmp_path / "b.npz", {"x": X})
    with pytest.raises(OptimizerError, match="every example of the training data 'a' is in evaluate as well"):
        dataset.apart(train, {"evaluate": test}, drop=True)
