"""The optimizer, its learning rate at each step, and the average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError
from optimizer.training.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

Rates = Callable[[str], float]
"""Name of a parameter -> the factor on its learning rate."""


def even(name: str) -> float:  # noqa: ARG001  # the signature of Rates
    """The same learning rate for all parameters."""
    return 1.0


def build(module: nn.Module, settings: Settings, rates: Rates = even) -> torch.optim.Optimizer:
    """The optimizer over every parameter that is to be trained; weights of two axes and more decay.

    Raises OptimizerError where nothing can be trained.
    """
    import torch

    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates(name), decay), []).append(parameter)
    if not groups:
        raise OptimizerError(
            "the model has no parameter that can be trained", "its weights must be nn.Parameter with requires_grad"
        )
    listed = [{"params": p, "weight_decay": decay, "factor": factor} for (factor, decay), p in groups.items()]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    return torch.optim.AdamW(listed, lr=settings.lr)


def rate(step: int, total: int, settings: Settings) -> float:
    """The learning rate of a step (from 0): a straight rise, then constant or half a cosine (SGDR, 2017, section 3)."""
    rising = round(settings.warmup * total)
    if step < rising:
        return settings.lr * (step + 1) / (rising + 1)
    if settings.schedule == "constant":
        return settings.lr
    done = (step - rising) / max(1, total - rising)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


class Average:
    """An exponential moving average of a module's weights; buffers are taken as they are.

    The decay grows to its full size in the first steps (as in TensorFlow's ExponentialMovingAverage), so that the
    average forgets where it began.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.state: dict[str, torch.Tensor] = copied(module)

    def update(self, module: nn.Module, step: int) -> None:
        import torch

        kept = min(self._decay, (1 + step) / (10 + step))
        own = module.state_dict()
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        with torch.no_grad():
            for name, tensor in self.state.items():
                if name in parameters and tensor.is_floating_point():
                    tensor.lerp_(own[name], 1 - kept)
                else:
                    tensor.copy_(own[name])


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the module's state dict."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def restore(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Put a copied state back."""
    module.load_state_dict(dict(state))


@contextlib.contextmanager
def dropout(module: nn.Module, acts: bool) -> Iterator[None]:
    """The module with its dropout as it is, or without any for the time of the block."""
    from torch import nn

    found = [] if acts else [m for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    before = [inner.p for inner in found]
    try:
        for inner in found:
            inner.p = 0.0
        yield
    finally:
        for inner, share in zip(found, before, strict=True):
            inner.p = share
