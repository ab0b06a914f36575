"""Shared fixtures: a store of its own for every test, and where the real data lies, if anywhere."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports numpy or torch: the threads of their libraries spin while they wait for cores that other
# tests work on.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from optimizer.store import Store

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "OPTC_DATA" not in os.environ and BESIDE.is_dir():
    os.environ["OPTC_DATA"] = str(BESIDE)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's store."""
    monkeypatch.setenv("OPTC_STORE", str(tmp_path / "store"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def real_data() -> Path:
    """The folder of real data (see the slow tests), or skip."""
    found = os.environ.get("OPTC_DATA")
    if not found or not Path(found).is_dir():
        pytest.skip("OPTC_DATA does not name a folder with the real data sets")
    return Path(found)
