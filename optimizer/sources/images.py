"""Picture files of a folder: one sub-folder per class, or all in one folder without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from optimizer.errors import OptimizerError, unknown
from optimizer.protocols import Example
from optimizer.rows import Rows
from optimizer.schema import File, Strict

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class Options(Strict):
    path: File = Field(description="a folder of pictures, or a folder with one sub-folder per class")
    classes: list[str] = Field([], description="class folders in the order of their index; default: sorted by name")


def columns(options: Options) -> list[str]:
    """`image`, and `label` when there are class folders."""
    return ["image", "label"] if class_names(options) else ["image"]


def class_names(options: Options) -> list[str]:
    """The class names by index; empty for a flat folder."""
    if not options.path.is_dir():
        raise OptimizerError(f"{options.path} is a file, not a folder of pictures", "give the folder")
    found = sorted(p.name for p in options.path.iterdir() if p.is_dir() and not p.name.startswith("."))
    for name in found:
        if options.classes and name not in options.classes:
            raise unknown("class folder", name, options.classes, where=str(options.path))
    return options.classes or found


def open(options: Options) -> Sequence[Example]:
    """Examples {image: bytes of the file, label: index of its class}, sorted by class and file name."""
    names = class_names(options)
    loose = _pictures(options.path)
    if names and loose:
        raise OptimizerError(
            f"{options.path} holds both class folders ({', '.join(names[:5])}) and pictures ({loose[0].name})",
            "move the pictures into class folders, or the folders away",
        )
    if not names:
        return Rows(len(loose), lambda i: {"image": loose[i].read_bytes()})
    labelled = [(p, index) for index, name in enumerate(names) for p in _pictures(options.path / name, deep=True)]
    return Rows(len(labelled), lambda i: {"image": labelled[i][0].read_bytes(), "label": labelled[i][1]})


def _pictures(folder: Path, deep: bool = False) -> list[Path]:
    found = (folder.rglob("*") if deep else folder.iterdir()) if folder.is_dir() else ()
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
