"""Sources: rows in file order, lazily, and clear words for files that are not what they should be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_lab import picture, png

from optimizer import registry, schema
from optimizer.errors import OptimizerError


def rows(source: str, base: Path, **options: Any) -> Any:
    plugin = registry.load("sources", source)
    return plugin.open(schema.parse(plugin.Options, options, source, base))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_rows(tmp_path: Path, save: Any) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([3, 1, 2, 0])
    save(tmp_path / "d.npz", x=x, y=y, f=np.asfortranarray(x), t=np.array(["a", "b", "c", "d"]))
    found = rows("npz", tmp_path, path="d.npz")
    assert len(found) == 4 and found[2]["t"] == "c" and isinstance(found[2]["t"], str)
    np.testing.assert_array_equal(found[-1]["x"], x[3])
    np.testing.assert_array_equal([r["f"] for r in found], x)
    assert found[1]["y"] == 1 and found[1]["y"].dtype == np.int64
    assert len(found[1:3]) == 2
    with pytest.raises(IndexError):
        found[4]


def test_npz_stored_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((10, 3)))
    base = rows("npz", tmp_path, path="d.npz")[0]["x"].base
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_npz_faults(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    np.savez(tmp_path / "scalar.npz", a=np.float32(1))
    np.savez(tmp_path / "pickled.npz", a=np.array([{"x": 1}], dtype=object))
    np.savez_compressed(tmp_path / "zipped.npz", a=np.array([{"x": 1}], dtype=object))
    for name, message in {
        "text": "is no .npz file",
        "none": "holds no array",
        "uneven": "differ in length: a 3, b 4",
        "scalar": "single value",
        "pickled": "cannot be read.*objects",
        "zipped": "cannot be read.*bject",
    }.items():
        with pytest.raises(OptimizerError, match=message):
            rows("npz", tmp_path, path=f"{name}.npz")
    with pytest.raises(OptimizerError, match=r"(?s)no such file.*did you mean .*none.npz"):
        rows("npz", tmp_path, path="nane.npz")


def test_parquet_cells_keep_their_meaning(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": bytes([i]), "path": None} for i in range(7)],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array(range(7), pa.int64()),
            "text": [str(i) for i in range(7)],
            "vector": pa.array([[i, 2.0] for i in range(7)], pa.list_(pa.float32())),
            "matrix": pa.array([[[i, 1], [2, 3]] for i in range(7)], pa.list_(pa.list_(pa.int16()))),
            "hole": pa.array([None] * 7, pa.int32()),
        }
    )
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=3)
    found = rows("parquet", tmp_path, path="d.parquet")
    assert len(found) == 7
    for i in (6, 0, 3, 2):  # across row groups, back and forth
        row = found[i]
        assert row["image"] == bytes([i]) and row["text"] == str(i) and row["hole"] is None
        assert row["label"] == i and row["label"].dtype == np.int64
        assert row["vector"].dtype == np.float32 and row["vector"].tolist() == [i, 2.0]
        assert row["matrix"].dtype == np.int16 and row["matrix"].shape == (2, 2)
    assert list(rows("parquet", tmp_path, path="d.parquet", columns=["text"])[0]) == ["text"]


def test_parquet_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(OptimizerError, match="no readable parquet"):
        rows("parquet", tmp_path, path="bad.parquet")
    pq.write_table(pa.table({"a": [1], "ragged": [[[1], [1, 2]]], "s": [{"path": "x.png"}]}), tmp_path / "d.parquet")
    with pytest.raises(OptimizerError, match="unknown column 'b'"):
        rows("parquet", tmp_path, path="d.parquet", columns=["b"])
    with pytest.raises(OptimizerError, match="different lengths"):
        rows("parquet", tmp_path, path="d.parquet", columns=["ragged"])[0]
    with pytest.raises(OptimizerError, match="without bytes"):
        rows("parquet", tmp_path, path="d.parquet", columns=["s"])[0]


def test_image_folders_by_class(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(2):
            (tmp_path / name / "deep" / f"{i}.png").write_bytes(png(picture(i)))
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    found = rows("images", tmp_path, path=".")
    assert [r["label"] for r in found] == [0, 0, 1, 1] and found[0]["image"] == png(picture(0))
    assert [r["label"] for r in rows("images", tmp_path, path=".", classes=["dog", "bird", "cat"])] == [0, 0, 2, 2]
    with pytest.raises(OptimizerError, match="unknown class folder 'dog'"):
        rows("images", tmp_path, path=".", classes=["cat"])
    (tmp_path / "loose.png").write_bytes(b"")
    with pytest.raises(OptimizerError, match="both class folders"):
        rows("images", tmp_path, path=".")


def test_image_folder_without_classes(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"2")
    (tmp_path / "a.JPG").write_bytes(b"1")
    assert list(rows("images", tmp_path, path=".")) == [{"image": b"1"}, {"image": b"2"}]
    with pytest.raises(OptimizerError, match="is a file"):
        rows("images", tmp_path, path="b.png")


def test_tsv_does_not_trip_over_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_bytes('﻿id\ttext\tscore\n1\t"half open\t3.5\n\n2\tünï\t4\n'.encode())
    found = rows("text", tmp_path, path="d.tsv", numeric=["score"])
    assert list(found) == [{"id": "1", "text": '"half open', "score": 3.5}, {"id": "2", "text": "ünï", "score": 4}]
    assert found[1]["text"] == "ünï" and found[0]["score"] == 3.5  # in any order


def test_csv_with_quoted_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('text,label\n"two\nlines, one field",1\nplain,0\n')
    found = rows("text", tmp_path, path="d.csv", numeric="auto")
    assert found[1] == {"text": "plain", "label": 0} and found[0] == {"text": "two\nlines, one field", "label": 1}


def test_text_without_header(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("good film\t1\nbad film\t0\n")
    found = rows("text", tmp_path, path="d.txt", header=False, columns=["text", "label"], numeric=["label"])
    assert [r["label"] for r in found] == [1, 0]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a\tb\n1\n", {}, "row 0 has 1 fields where 2"),
        (b"a\ta\n1\t2\n", {}, "empty or repeated"),
        (b"a\n\xff\n", {}, "not UTF-8"),
        (b"a\nx\n", {"numeric": ["b"]}, "unknown column 'b'"),
        (b'a,b\n"x,1\n', {"delimiter": "comma"}, "cannot be read as text"),
        (b"a\n", {"header": False}, "must name the columns"),
        (b"a\n", {"columns": ["a"]}, "without a header"),
    ],
)
def test_text_faults(tmp_path: Path, content: bytes, options: dict[str, Any], message: str) -> None:
    (tmp_path / "d.tsv").write_bytes(content)
    with pytest.raises(OptimizerError, match=message):
        rows("text", tmp_path, path="d.tsv", **options)


def test_text_that_should_be_a_number_names_row_and_column(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text("x\n1\noops\n")
    found = rows("text", tmp_path, path="d.tsv", numeric=["x"])
    with pytest.raises(OptimizerError, match="row 1: column 'x' holds 'oops'"):
        found[1]


CODE = """
import beside
def listed(n=3): return [{"x": i + beside.ONE} for i in range(n)]
def streamed():
    yield {"x": 1}
    raise RuntimeError("dry")
def wrong(): return 4
def tuples(): return [(1, 2)]
class Lazy:
    def __len__(self): return 10**9
    def __getitem__(self, i): return {"x": i}
NUMBER = 3
"""


def test_python_source(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    (tmp_path / "data.py").write_text(CODE)
    assert list(rows("python", tmp_path, entry="data.py:listed", args={"n": 2})) == [{"x": 1}, {"x": 2}]
    assert rows("python", tmp_path, entry="data.py:Lazy")[10**8] == {"x": 10**8}
    for entry, message in {
        "streamed": "RuntimeError: dry",
        "wrong": "returned int",
        "lost": "no callable 'lost'.*listed",
        "NUMBER": "no callable 'NUMBER'",
    }.items():
        with pytest.raises(OptimizerError, match=message):
            rows("python", tmp_path, entry=f"data.py:{entry}")
    with pytest.raises(OptimizerError, match="example 0 is a tuple"):
        rows("python", tmp_path, entry="data.py:tuples")[0]


def test_python_source_names_the_line_that_failed(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def f():\n    return 1 / 0\n")
    with pytest.raises(OptimizerError, match="ZeroDivisionError") as caught:
        rows("python", tmp_path, entry="data.py:f")
    assert "data.py, line 2: return 1 / 0" in str(caught.value.hint)
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(OptimizerError, match="SyntaxError") as caught:
        rows("python", tmp_path, entry="broken.py:f")
    assert "broken.py, line 1" in str(caught.value.hint)


def test_edited_user_code_is_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def f(): return [{'x': 1}]\n")
    assert rows("python", tmp_path, entry="data.py:f")[0] == {"x": 1}
    (tmp_path / "data.py").write_text("def f(): return [{'x': 22}]\n")
    assert rows("python", tmp_path, entry="data.py:f")[0] == {"x": 22}


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptimizerError, match="needs the package 'pyarrow'") as caught:
        rows("parquet", tmp_path, path="d.parquet")
    assert caught.value.hint == "pip install 'optc[data]'"
