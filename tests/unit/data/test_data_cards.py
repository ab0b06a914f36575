"""References to data: decided by spelling, settled into one specification, digested by content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_lab import picture, png

from optimizer import dataset, fingerprint
from optimizer.dataset import cards
from optimizer.errors import OptimizerError
from optimizer.recipe import DataRef, DataSpec

CARD = """
description: numbers
license: mine
source: {npz: {path: a.npz}}
label: y
labels: [nay, yea]
transforms:
  - rescale: {column: x}
splits:
  all: {}
  few: {take: 2}
  other: {source: {npz: {path: b.npz}}, label: null}
  table: {source: {text: {path: t.tsv}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2)), y=np.zeros(5))
    np.savez(tmp_path / "b.npz", x=np.ones((5, 2)))
    (tmp_path / "t.tsv").write_text("x\ty\n1\t0\n")
    (tmp_path / "card.yaml").write_text(CARD)
    return tmp_path


def resolved(ref: str, base: Path) -> DataSpec:
    return dataset.resolve(DataRef(ref=ref), base)


def test_a_split_lies_over_the_card(folder: Path) -> None:
    few = resolved("card.yaml#few", folder)
    assert few.take == 2 and few.license == "mine" and few.labels == ["nay", "yea"]
    assert few.source.options == {"path": str(folder / "a.npz")}
    other = resolved("card.yaml#other", folder)
    assert other.label is None and other.source.options["path"].endswith("b.npz")
    assert resolved("card.yaml#table", folder).source.name == "text"


def test_resolving_twice_changes_nothing(folder: Path) -> None:
    spec = resolved("card.yaml#few", folder)
    assert dataset.resolve(spec, Path("/")) == spec


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("card.yaml", "say which split of card.yaml; available: all, few, other, table"),
        ("card.yaml#fwe", "unknown split 'fwe'"),
        ("cart.yaml#few", "no such card"),
        ("digitz/test", "unknown card 'digitz'"),
        ("nothing", "unknown card 'nothing'"),
        ("a.npz#few", "only a card"),
        ("lost.npz", "no such file"),
        ("./lost/", "no such file"),
    ],
)
def test_unknown_references_say_what_there_is(folder: Path, ref: str, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        resolved(ref, folder)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("- a\n", "expected a mapping"),
        ("source: npz\nsplits: [a]\n", "'splits' maps names"),
        ("sorce: {npz: {path: a.npz}}\n", "unknown key 'sorce'"),
        ("source: {nzp: {path: a.npz}}\n", "unknown data source 'nzp'"),
        ("source: {npz: {file: a.npz}}\n", "source npz: unknown key 'file'"),
        ("source: {npz: {path: a.npz}}\ntransforms: [{resize: {sise: 2}}]\n", "unknown key 'sise'"),
    ],
)
def test_faulty_cards(folder: Path, card: str, message: str) -> None:
    (folder / "bad.yaml").write_text(card)
    with pytest.raises(OptimizerError, match=message):
        resolved("bad.yaml", folder)


def test_bare_files_and_folders(folder: Path) -> None:
    npz = resolved("a.npz", folder)
    assert (npz.source.name, npz.label) == ("npz", "y")
    assert resolved("b.npz", folder).label is None
    (folder / "pictures" / "cat").mkdir(parents=True)
    (folder / "pictures" / "cat" / "1.png").write_bytes(png(picture(1)))
    for spelling in ("pictures/", "./pictures", str(folder / "pictures")):
        found = resolved(spelling, folder)
        assert (found.source.name, found.label, found.labels) == ("images", "label", ["cat"])
        assert [t.name for t in found.transforms] == ["image.decode"]
    pq.write_table(pa.table({"x": [1.0], "target": [1]}), folder / "d.parquet")
    assert resolved("d.parquet", folder).label == "target"
    assert resolved("t.tsv", folder).source.options["numeric"] == "auto"


def test_a_folder_named_like_a_card_is_still_a_card_reference(folder: Path) -> None:
    (folder / "pictures" / "test").mkdir(parents=True)
    with pytest.raises(OptimizerError, match="unknown card 'pictures'") as caught:
        resolved("pictures/test", folder)
    assert caught.value.hint == "a folder is written ./pictures/test/"


def test_the_digest_follows_content_and_not_place(folder: Path, tmp_path_factory: Any) -> None:
    first = dataset.digest(resolved("card.yaml#few", folder))
    elsewhere = tmp_path_factory.mktemp("copy")
    for name in ("a.npz", "card.yaml"):
        (elsewhere / name).write_bytes((folder / name).read_bytes())
    assert dataset.digest(resolved("card.yaml#few", elsewhere)) == first
    assert dataset.digest(resolved("card.yaml#all", folder)) != first
    np.savez(elsewhere / "a.npz", x=np.ones((5, 2)), y=np.zeros(5))
    assert dataset.digest(resolved("card.yaml#few", elsewhere)) != first


def test_the_digest_ignores_words_about_the_data(folder: Path) -> None:
    spec = resolved("card.yaml#few", folder)
    changed = spec.model_copy(update={"license": "other", "description": "other", "sha256": None})
    assert dataset.digest(changed) == dataset.digest(spec)


def test_the_digest_follows_user_code_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text("def f(): return [{'x': 1}]\n")
    (tmp_path / "rows.bin").write_bytes(b"1")
    spec = dataset.resolve(
        DataSpec.model_validate({"source": {"python": {"entry": "d.py:f", "files": ["rows.bin"]}}}), tmp_path
    )
    seen = {dataset.digest(spec)}
    (tmp_path / "rows.bin").write_bytes(b"2")
    seen.add(dataset.digest(spec))
    (tmp_path / "d.py").write_text("def f(): return [{'x': 2}]\n")
    seen.add(dataset.digest(spec))
    assert len(seen) == 3


def test_the_stated_sha256_is_checked_per_split(folder: Path) -> None:
    right = fingerprint.of_file(folder / "a.npz")
    (folder / "card.yaml").write_text(
        f"source: {{npz: {{path: a.npz}}}}\nsha256: {{good: {right}, bad: {'f' * 64}}}\n"
        "splits: {good: , bad: , free: }\n"
    )
    for split in ("good", "free"):
        assert dataset.digest(resolved(f"card.yaml#{split}", folder))
    with pytest.raises(OptimizerError, match=r"is not what its card describes: sha256 " + right):
        dataset.digest(resolved("card.yaml#bad", folder))


def test_shipped_cards_parse_and_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTC_DATA", raising=False)
    assert {"cifar10", "sick", "sst2"} <= set(cards.shipped())
    with pytest.raises(OptimizerError, match="environment variable OPTC_DATA"):
        resolved("cifar10/test", Path.cwd())
    with pytest.raises(OptimizerError, match=r"unknown split 'tset'.*test"):
        resolved("cifar10/tset", Path.cwd())


def test_planning_loads_no_heavy_library(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from optimizer import dataset; from optimizer.recipe import DataRef\n"
        "dataset.digest(dataset.resolve(DataRef(ref='card.yaml#few'), Path.cwd()))\n"
        "print([m for m in ('numpy', 'pyarrow', 'PIL', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=folder, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["cifar10/test-1000", "sick/test-1000", "sst2/dev"])
def test_shipped_cards_match_the_real_files(real_data: Path, ref: str) -> None:
    spec = resolved(ref, Path.cwd())
    assert dataset.digest(spec)
    stream = dataset.open(spec, ref, None, 0)
    batch = next(stream.batches(8))
    assert batch.labels is not None and len(batch.labels) == 8


def test_a_reference_may_name_the_label_column(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 1), np.float32), answer=np.array([0, 1]))
    spec = dataset.resolve(DataRef(ref="d.npz", label="answer"), tmp_path)
    assert spec.label == "answer"
    assert dataset.digest(spec) != dataset.digest(dataset.resolve(DataRef(ref="d.npz"), tmp_path))
