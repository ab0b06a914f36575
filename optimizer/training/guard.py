"""Watches the loss: a training that has gone wrong is stopped with its reason, instead of being finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimizer.errors import OptimizerError
from optimizer.training.settings import Settings

if TYPE_CHECKING:
    import torch

FIRST = 20  # steps whose mean is where the loss began
LIMIT = 1000.0  # times that: no schedule recovers from it
SMOOTH = 0.95
USUAL = 3e-4  # a learning rate to go back to from one above 1, of which a tenth is no better


class Guard:
    """Losses as they come; on CUDA read in groups, since every look at a number waits for the device."""

    def __init__(self, settings: Settings, every: int) -> None:
        self._settings, self._every = settings, every
        self._pending: list[tuple[int, float, torch.Tensor, Mapping[str, torch.Tensor | float]]] = []
        self._first: list[float] = []
        self._smooth: float | None = None

    def add(
        self, step: int, lr: float, loss: torch.Tensor, parts: Mapping[str, torch.Tensor | float]
    ) -> list[tuple[float, dict[str, float]]]:
        """Note the loss of a step; returns those (loss, parts) that have been read and found sound."""
        self._pending.append((step, lr, loss.detach(), parts))
        return self.flush() if len(self._pending) >= self._every else []

    def flush(self) -> list[tuple[float, dict[str, float]]]:
        """Read what is pending. Raises OptimizerError at the first loss that is NaN, infinite or out of all bounds."""
        pending, self._pending = self._pending, []
        found = []
        for step, lr, loss, parts in pending:
            value = float(loss)
            self._judge(step, lr, value)
            found.append((value, {name: float(part) for name, part in parts.items()}))
        return found

    def _judge(self, step: int, lr: float, value: float) -> None:
        if not math.isfinite(value):
            what = "NaN" if math.isnan(value) else "infinite"
            raise OptimizerError(
                f"the loss became {what} at step {step + 1}, at a learning rate of {lr:.3g}"
                + (f" (it was {self._smooth:.4g} before)" if self._smooth is not None else ""),
                self._advice(lr) if self._smooth is not None else "check data, labels and loss: it began like that",
            )
        self._smooth = value if self._smooth is None else SMOOTH * self._smooth + (1 - SMOOTH) * value
        if len(self._first) < FIRST:
            self._first.append(abs(value))
        elif abs(self._smooth) > LIMIT * max(sum(self._first) / FIRST, 1e-6):
            raise OptimizerError(
                f"training diverges: the loss is {self._smooth:.4g} at step {step + 1}, it began at "
                f"{sum(self._first) / FIRST:.4g}, the learning rate is {lr:.3g}",
                self._advice(lr),
            )

    def _advice(self, lr: float) -> str:
        clip = "" if self._settings.clip else ", or bound the gradient with clip: 1"
        lower = lr / 10 if lr <= 1 else USUAL
        return f"lower the learning rate (lr: {lower:.1g}){clip}; nothing was written"
