"""Two processes that share each batch end where one does, but for rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_training_steps import CODE, QUICK, built, opened
from training_lab import blobs, settings

from optimizer.errors import OptimizerError
from optimizer.store import Store
from optimizer.training.feeder import Feeder

SHARED = {**QUICK, "epochs": 2, "optimizer": "sgd", "ema": 0.9, "amp": False}  # bfloat16 would round differently


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(CODE)
    for name, data in {"train": blobs(240, 1), "test": blobs(90, 2), "select": blobs(60, 3)}.items():
        np.savez(tmp_path / f"{name}.npz", x=data.feeds["x"], y=data.labels)
    return tmp_path


@pytest.mark.slow
def test_two_processes_end_where_one_does(folder: Path, store: Store) -> None:
    teacher = [{"finetune": {**QUICK, "epochs": 2}}]
    variants = {
        "teacher": teacher,
        "alone": [{"distill": {**SHARED, "teacher": "teacher"}}],
        "shared": [{"distill": {**SHARED, "teacher": "teacher", "processes": 2}}],
    }
    found = built(folder, store, variants)
    x = {"x": blobs(90, 2).feeds["x"]}
    alone, shared = (opened(found, name)(x)["out"] for name in ("alone", "shared"))
    before = opened(found, "fp32")(x)["out"]
    assert np.abs(alone - shared).max() < 1e-4 < 0.1 < np.abs(alone - before).max()
    curves = [step.notes["training"] for step in found.run.steps if step.use == "distill"]
    assert curves[0]["scores"]["loss"] == pytest.approx(curves[1]["scores"]["loss"], abs=1e-4)
    assert not store.unfinished()


@pytest.mark.slow
def test_a_mistake_is_told_as_by_one_process(folder: Path, store: Store) -> None:
    with pytest.raises(OptimizerError, match="labels go from 0 to 2"):
        built(folder, store, {"s": [{"finetune": {**QUICK, "processes": 2}}]}, model={"args": {"outputs": 2}})
    assert not [e for e in store.entries() if e.use == "finetune"]


def test_each_process_takes_its_own_part_of_the_same_batch() -> None:
    examples, places = blobs(), np.arange(200)
    whole = Feeder(examples, places, settings(), 0)._made(3).indices
    parts = [Feeder(examples, places, settings(), 0, (rank, 2))._made(3).indices for rank in (0, 1)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(OptimizerError, match="16 examples cannot be shared evenly by 3 processes"):
        Feeder(blobs(), np.arange(200), settings(), 0, (0, 3))
