"""The data check: what makes calibration meaningless is refused, what makes it doubtful is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from optimizer import dataset
from optimizer.errors import OptimizerError
from optimizer.protocols import Batch

GOOD = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


@dataclass(frozen=True)
class Fake:
    feeds: dict[str, np.ndarray]
    name: str = "calib"
    digest: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        for start in range(0, min(len(self), limit or len(self)), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield Batch({n: a[rows] for n, a in self.feeds.items()}, None, rows)


def check(x: np.ndarray, evaluate: np.ndarray | None = None, samples: int = 512) -> list[str]:
    return dataset.check(Fake({"x": x}), None if evaluate is None else Fake({"x": evaluate}, "test"), samples)


def test_good_data_has_no_finding() -> None:
    assert check(GOOD, np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)) == []


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_nonfinite_values_are_refused_with_the_example(value: float, what: str) -> None:
    spoilt = GOOD.copy()
    spoilt[17, 1] = value
    with pytest.raises(OptimizerError, match=f"data 'calib', example 17: input 'x' holds {what}") as caught:
        check(spoilt)
    assert "calibration" in str(caught.value.hint)
    with pytest.raises(OptimizerError, match=f"data 'test', example 17: input 'x' holds {what}") as caught:
        check(GOOD, spoilt)
    assert "cannot be scored" in str(caught.value.hint)


def test_meaningless_data_is_refused() -> None:
    with pytest.raises(OptimizerError, match="is empty"):
        check(GOOD[:0])
    with pytest.raises(OptimizerError, match=r"is constant: every value of all 64 samples is the same \(x 0\)"):
        check(np.zeros_like(GOOD))
    with pytest.raises(OptimizerError, match="all 40 samples are identical"):
        check(np.repeat(GOOD[:1], 40, axis=0))


def test_constant_token_inputs_are_fine_beside_real_ones() -> None:
    ids = np.arange(120).reshape(40, 3)
    data = Fake({"ids": ids, "mask": np.ones_like(ids), "gain": np.ones((40, 1), np.float32)})
    assert dataset.check(data, None, 512) == ["input 'gain' is 1 in every calibration sample"]


def test_few_and_duplicated_samples_are_said() -> None:
    findings = check(np.concatenate([GOOD[:10], GOOD[:3]]))
    assert "only 13 calibration samples" in findings[0]
    assert "3 of 13 calibration samples repeat another one" in findings[1]


def test_overlap_with_the_evaluation_set_is_said() -> None:
    other = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    other[5], other[60] = GOOD[2], GOOD[3]
    (finding,) = check(GOOD, other)
    assert finding.startswith("2 of 64 calibration samples are also among the first 64 of the evaluation set 'test'")


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x / 255, lambda x: x + 100])
def test_another_range_than_the_evaluation_set_is_said(change: object) -> None:
    (finding,) = check(GOOD, change(np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)))  # type: ignore[operator]
    assert "ranges from" in finding and "'test'" in finding


def test_only_so_many_samples_are_looked_at() -> None:
    spoilt = GOOD.copy()
    spoilt[50] = np.nan
    assert check(spoilt, samples=40) == []
