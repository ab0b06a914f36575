"""Training batches in a random order that is a function of seed and step alone, read one step ahead of the model."""

from __future__ import annotations

import concurrent.futures
import functools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.protocols import Batch
from optimizer.training.augment import augment
from optimizer.training.settings import Settings
from optimizer.training.values import Examples, TensorBatch, numbers

if TYPE_CHECKING:
    import torch

AHEAD = 2  # batches that are made while the model works
POOL = 50  # batches that are sorted by length together: random enough, and almost without padding
CHANGES, ORDER = 1, 2  # what a random number is for, so that no two draws share a stream


class Feeder:
    """The batches of one training: `places` of `examples`, shuffled anew in each epoch, the remainder left out.

    Nothing here has a state that a checkpoint would have to hold: step s of seed r always gives the same batch.
    """

    def __init__(
        self, examples: Examples, places: np.ndarray, settings: Settings, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.examples, self.places, self.settings, self.seed = examples, places, settings, seed
        self.batch = min(settings.batch, len(places))
        self.per_epoch = len(places) // self.batch
        self._rank, self._world = share
        if self.batch % self._world:
            raise OptimizerError(
                f"a batch of {self.batch} examples cannot be shared evenly by {self._world} processes",
                f"set batch to a multiple of {self._world}",
            )
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.steps or max(1, round(self.settings.epochs * self.per_epoch))

    def batches(self, start: int, stop: int, device: torch.device) -> Iterator[TensorBatch]:
        """The batches of the steps from `start` to `stop`, of which this process takes its share."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="feeder") as pool:
            waiting: deque[concurrent.futures.Future[Batch]] = deque()
            try:
                for step in range(start, stop):
                    while len(waiting) <= AHEAD and step + len(waiting) < stop:
                        waiting.append(pool.submit(self._made, step + len(waiting)))
                    yield to_tensors(waiting.popleft().result(), device)
            finally:
                for future in waiting:
                    future.cancel()

    def _made(self, step: int) -> Batch:
        epoch, nth = divmod(step, self.per_epoch)
        chosen = self._order(epoch)[nth * self.batch : (nth + 1) * self.batch][self._rank :: self._world]
        found = self.examples.at(self.places[chosen])
        if self.settings.augment.flip or self.settings.augment.crop:
            rng = np.random.default_rng([self.seed, step, self._rank, CHANGES])
            feeds = augment(found.feeds, self.settings.augment, rng)
            return Batch(feeds, lambda: found.labels, found.indices, found.views)
        return found

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The order of an epoch; of examples of different lengths, neighbours are of like length."""
        rng = np.random.default_rng([self.seed, epoch, ORDER])
        order = rng.permutation(len(self.places))
        lengths = getattr(self.examples, "lengths", None)
        if lengths is None:
            return order
        own, pool = lengths[self.places], POOL * self.batch
        order = order[: self.per_epoch * self.batch]  # what is left out is left out by chance, not for its length
        pools = np.split(order, range(pool, len(order), pool))
        alike = np.concatenate([part[np.argsort(own[part], kind="stable")] for part in pools])
        return rng.permutation(alike.reshape(self.per_epoch, self.batch)).reshape(-1)


def in_order(examples: Examples, places: np.ndarray, size: int, device: torch.device) -> Iterator[TensorBatch]:
    """All examples at `places`, batch by batch, unchanged."""
    for start in range(0, len(places), size):
        yield to_tensors(examples.at(places[start : start + size]), device)


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """The batch's arrays as tensors on a device."""
    import torch

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device, non_blocking=True)

    known = numbers(batch.labels)
    labels = None if known is None else tensor(known)
    return TensorBatch({n: tensor(a) for n, a in batch.feeds.items()}, labels, batch.indices, batch.views)


def split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places to train on and places held back, drawn by seed; both sorted."""
    held = round(count * share)
    drawn = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(drawn[held:]), np.sort(drawn[:held])
