"""The wheel and the sdist hold exactly what they should, and the metadata says what the package is."""

from __future__ import annotations

import email
import tarfile
import zipfile
from pathlib import Path

import pytest

import optimizer

wheel_builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the distributions")
sdist_builder = pytest.importorskip("hatchling.builders.sdist")

ROOT = Path(__file__).resolve().parents[3]
CONTENT = ("recipes", "calibration", "reports", "examples")
INFO = f"optc-{optimizer.__version__}.dist-info"
SOURCES = ("optimizer", "recipes", "calibration", "reports", "examples", "tests", "bench", "docs")
TOP = ("Makefile", "LICENSE", "constraints.txt", "pyproject.toml", ".gitignore")


def files(folder: str) -> set[str]:
    """Everything below a folder of the checkout but caches."""
    found = (p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file())
    return {p.as_posix() for p in found if not any(part.startswith((".", "__pycache__")) for part in p.parts)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = str(tmp_path_factory.mktemp("wheel"))
    return Path(next(wheel_builder.WheelBuilder(str(ROOT)).build(directory=out, versions=["standard"])))


def test_wheel_holds_the_package_its_content_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    content = {f"optimizer/_content/{name}" for folder in CONTENT for name in files(folder)}
    info = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert names == files("optimizer") | content | info


def test_wheel_holds_what_the_program_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "optimizer/py.typed",
        "optimizer/_content/recipes/vision/digits-int8.yaml",
        "optimizer/_content/calibration/digits.yaml",
        "optimizer/_content/examples/digits/weights.safetensors",
        "optimizer/_content/reports/templates/report.html.j2",
    } <= names
    assert not [name for name in names if "test" in Path(name).parts[0] or name.endswith(".pyc")]


def test_wheel_is_pure_and_small(wheel: Path) -> None:
    assert wheel.name == f"optc-{optimizer.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 5_000_000


def test_sdist_holds_what_is_needed_to_build_test_and_document(tmp_path: Path) -> None:
    built = Path(next(sdist_builder.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pages = {p.name for p in ROOT.glob("*.md")}
    assert names == {name for folder in SOURCES for name in files(folder)} | pages | {*TOP, "PKG-INFO"}


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = email.message_from_bytes(archive.read(f"{INFO}/METADATA"))
        scripts = archive.read(f"{INFO}/entry_points.txt").decode()
    assert found["Name"] == "optc"
    assert found["License-Expression"] == "Apache-2.0"
    assert {part.strip() for part in found["Requires-Python"].split(",")} == {">=3.11", "<3.14"}
    assert set(found.get_all("Provides-Extra", [])) == {
        "torch", "openvino", "tensorrt", "tensorrt-rtx", "inc", "hf", "data", "metrics", "prune", "all", "dev",
    }  # fmt: skip
    assert "optc = optimizer.cli:main" in scripts
    needs = [text for text in found.get_all("Requires-Dist", []) if "extra ==" not in text]
    heavy = [text for text in needs if text.startswith(("torch", "openvino", "nncf", "transformers"))]
    assert heavy == [], "pip install optc alone brings no training framework"


def test_license_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text


def test_constraints_pin_every_requirement_exactly() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert len(pinned) == len(pins), "a package is pinned twice"
    project = __import__("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    groups = [
        project["dependencies"],
        *(optional[n] for n in ("torch", "openvino", "tensorrt-rtx", "hf", "data", "dev")),
    ]
    groups.append([text for text in optional["tensorrt"] if not text.startswith("tensorrt")])  # never run so far
    for text in (text for group in groups for text in group):
        need = Requirement(text)
        if need.name != "optc":
            version = pinned.get(canonicalize_name(need.name))
            assert version is not None, f"{need.name} is not pinned in constraints.txt"
            assert need.specifier.contains(version), f"{need}, but constraints.txt pins {version}"
