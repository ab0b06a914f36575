"""optc cache: list, trim, verify, clear on a store of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cli import main
from optimizer.commands.cache import parse_size
from optimizer.errors import EXIT_OK, EXIT_USAGE, OptimizerError
from optimizer.store import Store


@pytest.fixture
def filled(store: Store) -> Store:
    """Three entries of 1000 bytes, `a` the least recently used."""
    for age, letter in enumerate("cba"):
        key = letter * 64
        with store.stage(key) as staged:
            (staged / "model.onnx").write_bytes(letter.encode() * 1000)
            store.commit(staged, key, {"use": f"step-{letter}", "format": "onnx"})
        os.utime(store.root / "objects" / key[:2] / key / "entry.json", (1e9 - age, 1e9 - age))
    return store


def run(*arguments: str) -> int:
    return main(["cache", *arguments])


def test_list(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--store", str(filled.root)) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == [letter * 12 for letter in "cba"]
    assert "step-c" in lines[2] and "1 kB" in lines[2]
    assert lines[-1] == f"3 entries, 3 kB in {filled.root}"


def test_list_as_json(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json", "--store", str(filled.root)) == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == 3000
    assert [e["use"] for e in found["entries"]] == ["step-c", "step-b", "step-a"]
    assert Path(found["entries"][0]["path"]).is_dir()


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--store", str(tmp_path / "new")) == EXIT_OK
    assert "0 entries, 0 B" in capsys.readouterr().out


def test_trim_takes_the_least_recently_used(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trim", "--max-size", "2kB", "--store", str(filled.root)) == EXIT_OK
    assert "removed 1 entries, 1 kB" in capsys.readouterr().out
    assert [e.key[0] for e in filled.entries()] == ["c", "b"]


def test_verify_removes_what_is_damaged(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "--store", str(filled.root)) == EXIT_OK
    assert "3 entries are whole, 0 were damaged" in capsys.readouterr().out
    entry = filled.get("b" * 64)
    assert entry
    (entry.path / "model.onnx").write_bytes(b"x" * 1000)
    assert run("verify", "--store", str(filled.root)) == EXIT_USAGE
    said = capsys.readouterr()
    assert "2 entries are whole, 1 were damaged" in said.out
    assert "bbbbbbbbbbbb was damaged and is removed: model.onnx was altered" in said.err
    assert run("verify", "--store", str(filled.root)) == EXIT_OK


def test_clear_names_the_folder_that_it_emptied(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clear", "--store", str(filled.root)) == EXIT_OK
    assert capsys.readouterr().out == f"freed 3 kB in {filled.root}\n"
    assert filled.entries() == []


def test_a_store_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("list", "--store", str(tmp_path / "file")) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "Not a directory" in said and str(tmp_path / "file") in said


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("1000", 1000), ("2GB", 2_000_000_000), ("500 MB", 500_000_000), ("1.5GiB", 3 << 29), ("3k", 3000)],
)  # fmt: skip
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2XB", "1,5GB", "2 G B", "nan", "2iB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptimizerError, match="is no size"):
        parse_size(text)


@given(st.integers(0, 10**6), st.sampled_from(["kB", "MB", "GB", "KiB", "MiB"]))
def test_sizes_scale_with_their_unit(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == count * parse_size(f"1{unit}")


def test_what_unfinished_steps_keep_is_shown_and_cleared(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    work = filled.work("d" * 64)
    work.mkdir()
    (work / "checkpoint.pt").write_bytes(b"x" * 2000)
    assert run("list", "--store", str(filled.root)) == EXIT_OK
    assert "1 unfinished steps (dddddddddddd) keep 2 kB" in capsys.readouterr().out.splitlines()[-1]
    with filled.stage("d" * 64) as staged:
        (staged / "model.onnx").write_bytes(b"m")
        filled.commit(staged, "d" * 64, {"use": "finetune", "format": "torch"})
    assert not work.exists(), "a finished step keeps nothing"
    work.mkdir()
    assert run("clear", "--store", str(filled.root)) == EXIT_OK
    assert not work.exists()
