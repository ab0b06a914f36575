"""Fits columns to model inputs: which column feeds which input, of what dtype and shape, padded to what length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.errors import OptimizerError, unknown
from optimizer.protocols import Example
from optimizer.recipe import DataSpec
from optimizer.values import Signature, TensorSpec

WHOLE = "biu"  # numpy dtype kinds of whole numbers


@dataclass(frozen=True)
class Feed:
    """One model input and the column that feeds it; `expected` is None where no model is known."""

    name: str
    column: str
    expected: TensorSpec | None
    views: int
    pad: float | None  # None: shapes that differ are an error unless the samples are sequences

    def sample(self, example: Example) -> np.ndarray:
        """The column's value in the input's dtype, shape checked; a leading axis of `views` when above 1."""
        value = example[self.column]
        array = self._numbers(value)
        if self.views > 1 and (array.ndim == 0 or array.shape[0] != self.views):
            raise self._error(f"{_shown(array)} without a leading axis of {self.views} views", self._right_views(array))
        if self.expected is not None:
            self._check_shape(array)
            return self._cast(array, untyped=not hasattr(value, "dtype"))
        return array

    def _right_views(self, array: np.ndarray) -> str:
        if self.expected is not None and array.ndim == len(self.expected.shape):  # an axis in place of the batch
            return f"write views: {array.shape[0]}, or give {self.views} views per example"
        return (
            f"give arrays of [{self.views}, ...] per example; of columns of text, tokenize with views: true makes them"
        )

    def stack(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """Samples -> one array, ragged ones padded to the longest, views flattened into the first axis."""
        shapes = {s.shape for s in samples}
        if len(shapes) > 1:
            samples = self._padded(samples, shapes)
        stacked = np.ascontiguousarray(np.stack(samples))
        return stacked.reshape(-1, *stacked.shape[2:]) if self.views > 1 else stacked

    def _numbers(self, value: Any) -> np.ndarray:
        if value is None:
            raise self._error("nothing: the value is null", "fill or remove the row")
        if isinstance(value, bytes):
            raise self._error("undecoded bytes", f"add the transform image.decode: {{column: {self.column}}}")
        if isinstance(value, str):
            raise self._error("text", f"add the transform tokenize: {{tokenizer: ..., columns: [{self.column}]}}")
        try:
            array = np.asarray(value)
        except ValueError:
            raise self._error("nested lists of different lengths", "give a regular array") from None
        if array.dtype.kind not in "biuf":
            raise self._error(f"{array.dtype} values", "store it as an array of numbers")
        return array

    def _cast(self, array: np.ndarray, untyped: bool) -> np.ndarray:
        """Only what loses nothing and means the same: a wider dtype of the same kind, or plain Python numbers."""
        assert self.expected is not None
        wanted = self.expected.dtype
        if wanted in ("bfloat16", "string"):
            raise self._error(
                str(array.dtype), f"a {wanted} input cannot be fed from numpy; export the model with another"
            )
        target = np.dtype(wanted)
        whole = array.dtype.kind in WHOLE and target.kind in WHOLE
        alike = (whole or array.dtype.kind == target.kind) and np.can_cast(array.dtype, target, "safe")
        if array.dtype == target or alike:
            return array.astype(target, copy=False)
        if untyped and (target.kind == "f" or (whole and _in_range(array, target))):
            return array.astype(target)
        scale = f"rescale: {{column: {self.column}}} (0..255 -> 0..1), or "
        raise self._error(
            _shown(array),
            f"add the transform {scale if array.dtype == np.uint8 and target.kind == 'f' else ''}"
            f"cast: {{column: {self.column}, dtype: {wanted}}}",
        )

    def _check_shape(self, array: np.ndarray) -> None:
        assert self.expected is not None
        wanted = self.expected.shape[1:]
        found = array.shape[1:] if self.views > 1 else array.shape
        same_rank = len(found) == len(wanted)
        if same_rank and all(isinstance(w, str) or w == f for w, f in zip(wanted, found, strict=True)):
            return
        raise self._error(_shown(array), _shape_hint(self.column, found, wanted))

    def _padded(self, samples: Sequence[np.ndarray], shapes: set[tuple[int, ...]]) -> list[np.ndarray]:
        ranks = {len(s) for s in shapes}
        rank = max(ranks) - (self.views > 1)
        if len(ranks) > 1 or (rank > 2 and self.pad is None):
            sizes = ", ".join(str(list(s)) for s in sorted(shapes)[:3])
            raise self._error(
                f"examples of different shapes ({sizes}, ...)",
                f"add resize and crop.center for pictures, or state pad: {{{self.name}: 0}} if padding is meant",
            )
        longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        fill = self.pad or 0
        return [
            np.pad(s, [(0, long - size) for long, size in zip(longest, s.shape, strict=True)], constant_values=fill)
            for s in samples
        ]

    def _error(self, found: str, hint: str) -> OptimizerError:
        wanted = f" of a model input {self.expected}" if self.expected else ""
        return OptimizerError(
            f"input '{self.name}': expected one example{wanted}, found {found} in column '{self.column}'", hint
        )


def bind(spec: DataSpec, signature: Signature | None, example: Example, pads: Mapping[str, float]) -> tuple[Feed, ...]:
    """Which column feeds which input, tried on one example; raises OptimizerError where that is not clear."""

    def feed(name: str, column: str, expected: TensorSpec | None) -> Feed:
        return Feed(name, column, expected, spec.views, spec.pad.get(name, pads.get(column)))

    for column in spec.inputs.values():
        if column not in example:
            raise unknown("column", column, example, where="'inputs'")
    if signature is None:
        numbers = [c for c, v in example.items() if c != spec.label and _is_numbers(v)]
        columns = spec.inputs or {c: c for c in numbers}
        return tuple(feed(name, column, None) for name, column in columns.items())
    known = [t.name for t in signature.inputs]
    for name in (*spec.inputs, *spec.pad):
        if name not in known:
            raise unknown("model input", name, known, where="the data's 'inputs' or 'pad'")
    by_name = {n: spec.inputs.get(n, n) for n in known}
    missing = [n for n, column in by_name.items() if column not in example]
    if len(known) == 1 and missing:
        by_name[known[0]] = _eliminated(spec, signature.inputs[0], example)
    elif missing:
        raise _no_column(signature.inputs[known.index(missing[0])], [c for c in example if c != spec.label])
    return tuple(feed(t.name, by_name[t.name], t) for t in signature.inputs)


def agree(feeds: Mapping[str, np.ndarray], signature: Signature | None) -> None:
    """Free dimensions of one name must have one size in all inputs of a batch."""
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in signature.inputs if signature else ():
        for dim, size in zip(tensor.shape, feeds[tensor.name].shape, strict=True):
            seen, first = sizes.setdefault(dim, (size, tensor.name)) if isinstance(dim, str) else (size, "")
            if seen != size:
                raise OptimizerError(
                    f"the dimension '{dim}' is {seen} in input '{first}' and {size} in input '{tensor.name}'",
                    "feed both from columns of equal length",
                )


def _eliminated(spec: DataSpec, tensor: TensorSpec, example: Example) -> str:
    """The only column that can feed a model's only input."""
    candidates = [c for c in example if c != spec.label]
    numbers = [c for c in candidates if _is_numbers(example[c])]
    fitting = [c for c in numbers if _fits(Feed(tensor.name, c, tensor, spec.views, None), example)]
    for found in (fitting, numbers, candidates):
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise _no_column(tensor, candidates)


def _fits(feed: Feed, example: Example) -> bool:
    try:
        feed.sample(example)
    except OptimizerError:
        return False
    return True


def _no_column(tensor: TensorSpec, columns: list[str]) -> OptimizerError:
    return OptimizerError(
        f"no column is named like the model input '{tensor.name}' ({tensor}); columns: {', '.join(columns) or 'none'}",
        f"say which one feeds it, inputs: {{{tensor.name}: COLUMN}}, or add a transform that makes it",
    )


def _is_numbers(value: Any) -> bool:
    return not isinstance(value, bytes | str | None) and np.asarray(value).dtype.kind in "biuf"


def _in_range(array: np.ndarray, target: np.dtype[Any]) -> bool:
    if target.kind == "b" or not array.size:
        return array.size == 0
    return bool(np.iinfo(target).min <= array.min() and array.max() <= np.iinfo(target).max)


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _shape_hint(column: str, found: tuple[int, ...], wanted: tuple[int | str, ...]) -> str:
    """The transform that most likely repairs a shape."""

    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == len(wanted) and all(
            isinstance(w, str) or w == s for w, s in zip(wanted, shape, strict=True)
        )

    if len(found) == 3 and fits((found[2], found[0], found[1])):
        return f"add the transform layout: {{column: {column}, to: chw}}"
    if len(found) == 3 and fits((found[1], found[2], found[0])):
        return f"add the transform layout: {{column: {column}, to: hwc}}"
    for axis in range(len(found) + 1):
        if fits((*found[:axis], 1, *found[axis:])):
            return f"add the transform expand: {{column: {column}, axis: {axis}}}"
    fixed = [w for w in wanted if isinstance(w, int)]
    if len(fixed) == len(wanted) and np.prod(fixed) == np.prod(found):
        return f"add the transform reshape: {{column: {column}, shape: {fixed}}}"
    if len(found) == len(wanted) == 1:
        return f"the length is fixed: tokenize with length: {wanted[0]}, or pad column '{column}' to it"
    if len(found) == len(wanted) == 3 and {found[0], found[-1]} & {wanted[0], wanted[-1]}:
        first = found[-1] == wanted[0] and found[0] != wanted[0]  # channels still last, wanted first
        sides = wanted[1:] if found[0] == wanted[0] or first else wanted[:2]
        size = f"size: [{', '.join(map(str, sides))}]"
        after = f" and layout: {{column: {column}, to: chw}}" if first else ", before layout"
        return f"add the transform resize: {{column: {column}, {size}}}{after}"
    return f"reshape column '{column}', or say in 'inputs' which column feeds the input"
