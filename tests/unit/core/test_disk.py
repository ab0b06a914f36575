"""Folders compared, and told apart without being read."""

from __future__ import annotations

from pathlib import Path

from optimizer import disk


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_folders_are_the_same_by_names_and_bytes(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a="x", b="y")
    assert disk.same_files(one, folder(tmp_path / "equal", a="x", b="y"))
    assert not disk.same_files(one, folder(tmp_path / "other", a="x", b="z"))
    assert not disk.same_files(one, folder(tmp_path / "fewer", a="x"))
    assert not disk.same_files(one, folder(tmp_path / "named", a="x", c="y"))
    linked = tmp_path / "linked"
    for name in ("a", "b"):
        disk.link_or_copy(one / name, linked / name)
    assert disk.same_files(one, linked)


def test_the_state_changes_when_a_file_does(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a="x")
    before = disk.state(one)
    assert disk.state(one) == before
    (one / "b").write_text("")
    assert disk.state(one) != before
