"""One small loop for every step that trains: fine-tuning, distillation, recovery after pruning, fake quantization.

    history = train(module, loss, examples, settings, seed=0, work=folder)

The module is changed in place and left in its best (or last) state, in eval mode, on the CPU. Killed at any moment and
called again with the same arguments, it goes on from its last checkpoint to the very same weights (on the CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimizer import fingerprint
from optimizer.errors import OptimizerError
from optimizer.training import checkpoint, descent, devices
from optimizer.training.checkpoint import State
from optimizer.training.feeder import Feeder, in_order, split
from optimizer.training.guard import Guard
from optimizer.training.settings import Settings
from optimizer.training.values import POINTS, Examples, History, Loss, TensorBatch, Validation

if TYPE_CHECKING:
    import torch
    from torch import nn

PERIOD = 60.0  # seconds between checkpoints where the settings name no number of steps
LOOKS = 16  # steps between two looks at the loss on CUDA
JUDGED = 256  # examples per batch of a validation, at most


def train(
    module: nn.Module,
    loss: Loss,
    examples: Examples,
    settings: Settings,
    *,
    seed: int = 0,
    work: Path | None = None,
    validation: Validation | None = None,
    rates: descent.Rates = descent.even,
    identity: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
) -> History:
    """Train every parameter of `module` that requires a gradient; returns the curves.

    `work`: where checkpoints are kept (None: none are), one folder per training. `identity`: what else decides the
    result; a checkpoint of another identity is ignored. `rates`: parameter name -> factor on its learning rate.
    Raises OptimizerError when the loss becomes NaN or diverges, and where there is nothing to train or to train on.
    """
    where = devices.device(settings)
    with devices.reproducible(settings, where), descent.dropout(module, settings.dropout):
        run = _Training(module, loss, examples, settings, seed, validation or Validation(), rates, where)
        run.identity = fingerprint.of_value([identity, seed, len(examples), settings.model_dump(mode="json")])
        run.progress, run.work = progress, work
        history = run.whole()
    for text in _doubts(history):
        warn(text)
    return history


class _Training:
    """One training from its first step, or from its checkpoint, to its last."""

    progress: Callable[[int, int], None]
    work: Path | None
    identity: str

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        examples: Examples,
        settings: Settings,
        seed: int,
        validation: Validation,
        rates: descent.Rates,
        where: torch.device,
    ) -> None:
        self.module, self.loss, self.settings, self.seed, self.where = module, loss, settings, seed, where
        self.validation, self.rates = validation, rates
        apart = validation.examples is not None
        share = 0.0 if apart or settings.validation == "select" else settings.validation
        places, held = split(len(examples), share, seed)
        _refuse_few(examples, places)
        self.share = devices.share()
        self.feeder = Feeder(examples, places, settings, seed, self.share)
        self.judged = validation.examples or examples
        self.held = _by_length(self.judged, np.arange(len(self.judged)) if apart else held)

    def whole(self) -> History:
        """Train, and leave the module in the state that is kept."""
        self.module.to(self.where)
        state = self._begun()
        resumed = self.work is not None and checkpoint.resume(self.work, state)
        devices.wait()  # the first process writes checkpoints, which the others must not read as those of before
        if resumed:
            self.progress(state.step, state.history.total)
        elif len(self.held):
            self._validate(state)
        if state.history.stopped is None and state.step < state.history.total:
            self._descend(state)
        self._keep(state)
        self.module.to("cpu")
        self.module.eval()
        return state.history

    def _begun(self) -> State:
        optimizer = descent.build(self.module, self.settings, self.rates)
        average = descent.Average(self.module, self.settings.ema) if self.settings.ema else None
        history = History(
            total=self.feeder.steps(),
            per_epoch=self.feeder.per_epoch,
            examples=len(self.feeder.places),
            held_back=len(self.held),
            better=self.validation.better,
            device=str(self.where),
        )
        return State(self.module, optimizer, average, history, self.where, self.identity)

    def _descend(self, state: State) -> None:
        """The steps that are left."""
        history, total = state.history, state.history.total
        guard = Guard(self.settings, LOOKS if self.where.type == "cuda" else 1)
        curve = _Curve(state)
        due = _due(total, self.settings.validations) if len(self.held) else set()
        saver = _Saver(self.work, self.settings.checkpoint, self.share[0] == 0)
        self.module.train()
        for batch in self.feeder.batches(state.step, total, self.where):
            lr = descent.rate(state.step, total, self.settings)
            value, parts = self._step(state, batch, lr)
            state.read += guard.add(state.step, lr, value, parts)
            state.step += 1
            saves = saver.due(state.step) and state.step < total
            if curve.ends(state.step) or state.step in due or saves:
                state.read += guard.flush()  # nothing is validated or kept that the guard has not seen
            curve.close(state.step, lr)
            if state.step in due:
                self._validate(state)
                if self._hopeless(state):
                    history.stopped = state.step
                self.module.train()
            if saves:
                saver.save(state)
            self.progress(state.step, total)
            if history.stopped is not None:
                return

    def _step(
        self, state: State, batch: TensorBatch, lr: float
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]:
        """One step down the gradient."""
        import torch

        devices.seed_step(self.seed, state.step, self.share[0])
        descent.set_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        with devices.autocast(self.settings, self.where):
            value, parts = self.loss(self.module, batch)
        value.backward()
        devices.average_gradients(self.module.parameters())
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        state.optimizer.step()
        if state.average:
            state.average.update(self.module, state.step)
        return value, parts

    def _validate(self, state: State) -> None:
        """Judge the state (with an average: the averaged one), and remember the best."""
        import torch

        devices.share_buffers(self.module)
        current = descent.copied(self.module) if state.average else None
        if state.average:
            descent.restore(self.module, state.average.state)
        self.module.eval()
        batches = in_order(self.judged, self.held, min(self.settings.batch, JUDGED), self.where)
        with torch.no_grad(), devices.autocast(self.settings, self.where):
            scores = dict((self.validation.score or self._losses)(self.module, batches))
        history = state.history
        history.judged_by = history.judged_by or next(iter(scores))
        history.validated.append(state.step)
        for name, value in scores.items():
            history.scores.setdefault(name, []).append(float(value))
        self._remember(state, [float(scores[history.judged_by]), float(scores.get("loss", 0.0))])
        if current is not None:
            descent.restore(self.module, current)

    def _remember(self, state: State, value: list[float]) -> None:
        """Keep the state if its score is the best so far; of equal scores the lower loss decides."""
        if state.best is not None and not self._beats(value, state.best["value"]):
            state.stale += 1
            return
        state.stale = 0
        kept = descent.copied(self.module) if self.settings.keep == "best" else None
        state.best = {"value": value, "step": state.step, "state": kept}

    def _beats(self, value: list[float], best: list[float]) -> bool:
        if math.isnan(value[0]) or math.isnan(best[0]):
            return not math.isnan(value[0])
        if value[0] == best[0]:
            return value[1] < best[1]
        return value[0] < best[0] if self.validation.better == "lower" else value[0] > best[0]

    def _losses(self, module: nn.Module, batches: Iterator[TensorBatch]) -> dict[str, float]:
        """The mean of the loss and its parts."""
        sums: dict[str, float] = {}
        count = 0
        for batch in batches:
            value, parts = self.loss(module, batch)
            for name, part in {"loss": value, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(part) * len(batch.indices)
            count += len(batch.indices)
        return {name: total / count for name, total in sums.items()}

    def _hopeless(self, state: State) -> bool:
        patience = self.settings.patience
        return devices.agreed(patience is not None and state.stale >= patience)

    def _keep(self, state: State) -> None:
        """Leave the module in the state that the settings ask for."""
        if self.settings.keep == "best" and state.best is not None:
            descent.restore(self.module, state.best["state"])
            state.history.best = state.best["step"]
        elif state.average:
            descent.restore(self.module, state.average.state)


class _Curve:
    """Means of the loss between two points of a curve."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._every = max(1, -(-state.history.total // POINTS))

    def ends(self, step: int) -> bool:
        """Whether a point belongs after this many steps."""
        return step % self._every == 0 or step == self._state.history.total

    def close(self, step: int, lr: float) -> None:
        """Put a point where one belongs, out of the losses that were read since the last."""
        read, history = self._state.read, self._state.history
        if not self.ends(step) or not read:
            return
        history.steps.append(step)
        history.rates.append(lr)
        history.loss.append(float(np.mean([value for value, _ in read])))
        for name in read[0][1]:
            history.parts.setdefault(name, []).append(float(np.mean([parts[name] for _, parts in read])))
        self._state.read = []


class _Saver:
    """When a checkpoint is due, and its writing."""

    def __init__(self, folder: Path | None, every: int | None, first: bool) -> None:
        self._folder, self._every = folder if first else None, every
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        if self._folder is None:
            return False
        return step % self._every == 0 if self._every else time.monotonic() - self._last > PERIOD

    def save(self, state: State) -> None:
        assert self._folder is not None
        checkpoint.write(self._folder, state)
        self._last = time.monotonic()


def _due(total: int, count: int) -> set[int]:
    """The steps after which the state is validated: spread evenly, the last one among them."""
    return {round(total * (i + 1) / count) for i in range(count)} - {0}


def _by_length(examples: Examples, places: np.ndarray) -> np.ndarray:
    """Places in an order that wastes no time on padding."""
    lengths = getattr(examples, "lengths", None)
    return places if lengths is None else places[np.argsort(lengths[places], kind="stable")]


def _refuse_few(examples: Examples, places: np.ndarray) -> None:
    if not len(places):
        raise OptimizerError(
            f"data '{examples.name}': no example is left to train on, of {len(examples)}",
            "give more training data, or set validation: 0",
        )


def _doubts(history: History) -> Iterator[str]:
    """What a reader of the curves would notice."""
    if len(history.loss) >= 10 and np.mean(history.loss[-3:]) > 1.5 * np.mean(history.loss[:3]) > 0:
        yield (
            f"the training loss rose from {np.mean(history.loss[:3]):.4g} to {np.mean(history.loss[-3:]):.4g}; "
            "a lower lr may do better"
        )
    if history.best == 0:
        yield "no state in training was better than the one before it, which was kept; try a lower lr"
