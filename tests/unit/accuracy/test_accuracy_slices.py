"""Parts of the data: how they are cut, measured, and which one is named the worst."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from optimizer import registry, report, schema
from optimizer.measure import accuracy, slices
from optimizer.protocols import Batch
from optimizer.values import Candidate, Machine, Measurement, Run

N = 400
GROUP = np.array(["a"] * 200 + ["b"] * 190 + ["c"] * 10)
RIGHT = np.ones((N, 1))
WORSE = RIGHT.copy()
WORSE[200:240] = 0  # 40 of the 190 in b


def metrics(*names: str) -> dict[str, tuple[Any, Any]]:
    plugins = {name: registry.load("metrics", name) for name in names}
    return {name: (p, schema.parse(p.Options, {}, name)) for name, p in plugins.items()}


def shapes(columns: dict[str, np.ndarray], names: list[str] | None = None) -> list[tuple[str, str, int]]:
    return [(p.column, p.value, len(p.indices)) for p in slices.cut(columns, names or [])]


def test_text_by_value_numbers_in_quartiles_classes_by_name() -> None:
    assert shapes({"g": GROUP}) == [("g", "a", 200), ("g", "b", 190), ("g", "c", 10)]
    quartiles = shapes({"n": np.arange(100.0)})
    assert [count for _, _, count in quartiles] == [25, 25, 25, 25]
    assert [value for _, value, _ in quartiles][0::3] == ["[0, 24.75)", "[74.25, 99]"]
    assert shapes({"label": np.array([0, 1, 1])}, ["cat", "dog"]) == [("label", "cat", 1), ("label", "dog", 2)]
    assert shapes({"few": np.array([1.0, 2.0, 2.0])}) == [("few", "1", 1), ("few", "2", 2)]


def test_every_example_is_in_one_part_of_a_column() -> None:
    heavy = np.concatenate([np.zeros(80), np.random.default_rng(0).normal(size=20), [np.nan]])
    parts = slices.cut({"n": heavy}, [])
    np.testing.assert_array_equal(np.sort(np.concatenate([p.indices for p in parts])), np.arange(101))
    assert parts[-1].value == "(none)" and all(len(p.indices) for p in parts)


def test_a_constant_column_is_no_slice_and_of_many_values_the_frequent_ones_are_taken() -> None:
    assert shapes({"g": np.array(["x"] * 9), "n": np.zeros(9)}) == []
    many = np.array([f"v{i:03}" for i in range(60)] + ["v059", "v058"])
    found = shapes({"g": many})
    assert len(found) == slices.MOST and ("g", "v059", 2) in found and ("g", "v055", 1) not in found


def test_classes_are_sliced_only_for_classification() -> None:
    labels = np.array([0, 1, 2])
    batch = Batch({}, labels, np.arange(len(labels)))
    assert slices.classes(batch, metrics("top1")) is not None
    assert slices.classes(batch, metrics("spearman")) is None
    assert slices.classes(Batch({}, None, batch.indices), metrics("top1")) is None


def taken(rows: np.ndarray, comparisons: int = 2) -> list[Measurement]:
    parts = slices.cut({"g": GROUP}, [])
    wanted = metrics("top1")
    before = ("fp32@x", {"top1": RIGHT})
    return accuracy.sliced("int8@x", {"top1": rows}, parts, wanted, before, "m", 0, {}, comparisons)


def test_slices_hold_value_drop_interval_and_count() -> None:
    found = {(m.at["value"], m.metric, m.relation): m for m in taken(WORSE)}
    drop = found["b", "top1", "drop"]
    assert drop.value == pytest.approx(100 * 40 / 190) and drop.n == 190 and drop.at == {"column": "g", "value": "b"}
    low, high = drop.protocol["simultaneous"]
    assert drop.low is not None and drop.high is not None and 0 < low < drop.low < drop.high < high
    assert found["a", "top1", "absolute"].value == 100 and found["a", "top1", "drop"].value == 0


def test_a_small_slice_is_counted_and_nothing_more() -> None:
    (small,) = [m for m in taken(WORSE) if m.at["value"] == "c"]
    assert (small.metric, small.value, small.low, small.n) == ("examples", 10, None, 10)


def run(found: list[Measurement]) -> Run:
    machine = Machine("c", "a", 1, (), 1, "o", "p")
    candidates = (Candidate("fp32", "x", (), {}), Candidate("int8", "x", (), {}))
    return Run(
        1, "0", "n", "t", {}, "fp32", machine, {}, (), (), candidates, (), (), (), 1.0, "not gated", tuple(found)
    )


def test_the_worst_slice_is_the_surest_loss_and_says_its_correction() -> None:
    line = report.worst_slice(run(taken(WORSE)))
    assert line is not None
    assert line.startswith("Worst slice: g = b, where top1 of int8@x drops by 21.05 pp [")
    assert "n = 190; the 95 % interval is Bonferroni's for all 2 drops compared" in line and line.endswith(".")
    assert "no slice is certain" not in line


def test_noise_is_not_called_a_loss_and_a_run_without_slices_says_nothing() -> None:
    line = report.worst_slice(run(taken(RIGHT)))
    assert line is not None and line.endswith("so no slice is certain to drop.")
    assert report.worst_slice(run([])) is None


def test_slices_survive_run_json() -> None:
    before = run(taken(WORSE))
    after = schema.load_run(schema.dump_run(before), "test")
    assert report.worst_slice(after) == report.worst_slice(before)
    assert dataclasses.replace(after.slices[0], protocol={}) == dataclasses.replace(before.slices[0], protocol={})
