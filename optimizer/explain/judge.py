"""Whether a choice of layers restores the task metric: asked on some examples, confirmed on others."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

from optimizer.explain.proxy import Proxy
from optimizer.explain.subject import Part
from optimizer.explain.task import Task
from optimizer.explain.tensors import FLOOR
from optimizer.explain.variants import Variants
from optimizer.protocols import Dataset
from optimizer.values import Measurement

AIM = 0.95  # share of the loss that a choice must give back on the examples that it is chosen by
RESTORED = 0.9  # ... and on others: a choice fits the examples that chose it better than any others
LIKELY = 0.25  # part of the loss by which its interval may reach below 0
FEWEST = 64  # examples that can confirm anything


@dataclass(frozen=True)
class Confirmed:
    """A choice on examples that took no part in it."""

    drop: Measurement
    share: float  # of the loss on these examples that it gives back
    examples: int


@dataclass
class Judge:
    """Judges by the metric; a choice that others do not confirm is judged on all of them from then on."""

    task: Task
    variants: Variants
    whole: Dataset
    name: str
    every: frozenset[str] = field(init=False)
    confirmed: Confirmed | None = None

    def __post_init__(self) -> None:
        self.every = frozenset(layer.name for layer in self.variants.layers)

    @property
    def loss(self) -> float:
        """How much worse the candidate is than the float model."""
        return self._loss(self.task, frozenset())

    def drop(self, kept: Set[str], what: str) -> Measurement:
        """The paired measurement of a variant."""
        return self._drop(self.task, kept, what)

    def share(self, kept: Set[str]) -> float:
        """The share of the loss that leaving these layers in float gives back."""
        return self._share(self.task, kept)

    def content(self, kept: frozenset[str]) -> bool:
        """Whether the choice restores the metric here, and on examples that it was not chosen by."""
        if self.share(kept) < AIM:
            return False
        fresh = self._fresh()
        if fresh is None:
            self.confirmed = None
            return True
        share = self._share(fresh, kept)
        if share >= RESTORED:
            self.confirmed = Confirmed(self._drop(fresh, kept, self.name), share, len(fresh.data))
            return True
        self.enlarge(len(self.task.data) + len(fresh.data))
        return False

    def enlarge(self, examples: int) -> None:
        """Judge on so many examples from now on."""
        self.task = replace(self.task, data=Part(self.whole, 0, examples), known={})

    def certain(self) -> bool:
        """Whether the candidate's loss is more than these examples would show by chance."""
        return self._lowest() > 0

    def likely(self) -> bool:
        """Whether it is probably more than chance; what is then chosen must still be confirmed on other examples."""
        return self._lowest() > -LIKELY * self.loss

    def _lowest(self) -> float:
        """The lower end of the loss's interval; the loss itself for a metric that compares with the baseline."""
        told = self.drop(frozenset(), self.name)
        return self.loss if told.relation != "drop" or told.low is None else min(told.low, self.loss)

    def _fresh(self) -> Task | None:
        """The task on as many of the examples that follow; None where they are too few, or show no loss."""
        used = len(self.task.data)
        part = Part(self.whole, used, used)
        if len(part) < FEWEST:
            return None
        fresh = replace(self.task, data=part, known={})
        return fresh if self._loss(fresh, frozenset()) > 0 else None

    def _loss(self, task: Task, kept: Set[str]) -> float:
        return task.loss(task.rows(self.variants, kept), task.rows(self.variants, self.every))

    def _share(self, task: Task, kept: Set[str]) -> float:
        return 1 - self._loss(task, kept) / self._loss(task, frozenset())

    def _drop(self, task: Task, kept: Set[str], what: str) -> Measurement:
        return task.measurement(what, task.rows(self.variants, kept), task.rows(self.variants, self.every))


@dataclass(frozen=True)
class Errors:
    """Judges by the error of the outputs, where there is no task metric."""

    proxy: Proxy

    def content(self, kept: frozenset[str]) -> bool:
        """Whether a tenth of the noise is left, or no more than 8-bit rounding of a well-scaled tensor costs."""
        return self.proxy.error(kept) <= max(FLOOR, (1 - RESTORED) * self.proxy.error(frozenset()))
