"""Accuracy is paired when the results per example of both evaluations are in the store."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from comparison_lab import compared, measured, published

from optimizer.comparison import paired
from optimizer.comparison.pairing import pair
from optimizer.store import Store
from optimizer.values import Measurement, Run

N = 1007
TOP1 = {"top1": ["optimizer.metrics.top1", {"output": None}]}


def keep(store: Store, key: str, rows: dict[str, np.ndarray], data: str = "d", metrics: Any = None) -> None:
    with store.stage(key) as out:
        np.savez(out / "rows.npz", **rows)
        ingredients = {"data": data, "metrics": metrics or TOP1}
        store.commit(out, key, {"use": "evaluate", "format": "evaluation", "ingredients": ingredients})


def entered(run: Run, key: str, value: float) -> Run:
    """The run with another evaluation behind int8@onnxruntime."""

    def change(m: Measurement) -> Measurement:
        if (m.subject, m.metric, m.relation) != ("int8@onnxruntime", "top1", "absolute"):
            return m
        return dataclasses.replace(m, value=value, protocol={**m.protocol, "entry": key})

    return measured(run, change)


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong per example: the later one loses 12 and gains 2."""
    before = np.ones((N, 1))
    before[:20] = 0
    after = before.copy()
    after[:2], after[30:42] = 1, 0
    return before, after


def test_lost_and_gained_examples_decide(store: Store, rows: tuple[np.ndarray, np.ndarray]) -> None:
    keep(store, "a" * 64, {"top1": rows[0]})
    keep(store, "b" * 64, {"top1": rows[1]})
    before, after = entered(published(), "a" * 64, 98.0), entered(published(), "b" * 64, 97.0)
    pairs = pair(before, after, {})
    drops = paired.drops(before, after, pairs, store)
    assert list(drops) == [("int8@onnxruntime", "top1")]
    found = compared(before, after, drops=drops)
    change = next(c for c in found.changes if (c.subject, c.metric) == ("int8@onnxruntime", "top1"))
    assert change.value == pytest.approx(100 * 10 / N)
    assert change.low is not None
    assert change.low > 0, "paired, ten lost examples of a thousand are beyond doubt"
    assert change.method.startswith("paired on 1,007 examples: ")


@pytest.mark.parametrize(
    "other", [{"data": "other"}, {"metrics": {"top1": ["someone.elses", {}]}}, {"metrics": {"f1": []}}]
)
def test_what_is_not_comparable_is_not_paired(
    store: Store, rows: tuple[np.ndarray, np.ndarray], other: dict[str, Any]
) -> None:
    keep(store, "a" * 64, {"top1": rows[0]})
    keep(store, "b" * 64, {"top1": rows[1]}, **other)
    before, after = entered(published(), "a" * 64, 98.0), entered(published(), "b" * 64, 97.0)
    assert paired.drops(before, after, pair(before, after, {}), store) == {}


def test_without_the_store_nothing_is_paired(store: Store) -> None:
    run = published()
    assert paired.drops(run, run, pair(run, run, {}), store) == {}


def test_rows_of_other_lengths_are_not_paired(store: Store, rows: tuple[np.ndarray, np.ndarray]) -> None:
    keep(store, "a" * 64, {"top1": rows[0]})
    keep(store, "b" * 64, {"top1": rows[1][:-1]})
    before, after = entered(published(), "a" * 64, 98.0), entered(published(), "b" * 64, 97.0)
    assert paired.drops(before, after, pair(before, after, {}), store) == {}
