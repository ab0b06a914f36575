"""Random changes of a batch of pictures: mirrored, shifted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.training.settings import Augment

CHANNELS = (1, 3, 4)


def augment(feeds: Mapping[str, np.ndarray], settings: Augment, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The feeds with every picture in them changed by chance: float batches of (n, c, h, w) or (n, h, w, c).

    Shifted pictures are filled up by mirroring, which needs no colour for the border and so holds before and after
    normalization. Raises OptimizerError where no input holds pictures.
    """
    found = dict(feeds)
    pictures = [name for name, array in feeds.items() if array.ndim == 4 and _first_side(array) is not None]
    if not pictures:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        raise OptimizerError(f"augment changes pictures, and no input holds any ({shapes})", "leave augment out")
    for name in pictures:
        axis = _first_side(found[name])
        assert axis is not None
        if settings.crop:
            found[name] = _shifted(found[name], axis, settings.crop, rng)
        if settings.flip:
            found[name] = _mirrored(found[name], axis + 1, rng)
    return found


def _first_side(array: np.ndarray) -> int | None:
    """The axis of the height: channels come before or after height and width."""
    if array.dtype.kind != "f":
        return None
    return 2 if array.shape[1] in CHANNELS else 1 if array.shape[3] in CHANNELS else None


def _shifted(pictures: np.ndarray, axis: int, most: int, rng: np.random.Generator) -> np.ndarray:
    height, width = pictures.shape[axis : axis + 2]
    most = min(most, height - 1, width - 1)
    sides = [(most, most) if axis <= i <= axis + 1 else (0, 0) for i in range(4)]
    padded = np.pad(pictures, sides, mode="reflect")
    starts = rng.integers(0, 2 * most + 1, (len(pictures), 2))
    found = np.empty_like(pictures)
    before = (slice(None),) * (axis - 1)
    for row, source, (top, left) in zip(found, padded, starts.tolist(), strict=True):
        row[...] = source[(*before, slice(top, top + height), slice(left, left + width))]
    return found


def _mirrored(pictures: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    chosen = rng.random(len(pictures)) < 0.5
    found = pictures.copy()
    found[chosen] = np.flip(pictures[chosen], axis)
    return found
