"""Checkpoints: all that the next step depends on, written whole or not at all, read without unpickling code."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.disk import disk_errors, stream_atomically
from optimizer.training.values import History

if TYPE_CHECKING:
    import torch
    from torch import nn

    from optimizer.training.descent import Average

LAYOUT = 1
FILE = "checkpoint.pt"


def write(folder: Path, state: State) -> None:
    """Replace the checkpoint in `folder`; data order and random numbers are functions of the step that it holds."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "layout": LAYOUT,
        "identity": state.identity,
        "step": state.step,
        "module": state.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "average": state.average.state if state.average else None,
        "best": state.best,
        "stale": state.stale,
        "read": state.read,
        "history": asdict(state.history),
    }
    with disk_errors(folder), stream_atomically(folder / FILE) as stream:
        torch.save(document, stream)


def resume(folder: Path, state: State) -> bool:
    """Bring `state` to the checkpoint in `folder`; False, and nothing changed, when there is none of this training."""
    import torch

    path = folder / FILE
    for torn in folder.glob(f".{FILE}.*"):
        torn.unlink(missing_ok=True)  # a checkpoint whose writer was killed
    if not path.is_file():
        return False
    try:
        found = torch.load(path, map_location=state.device, weights_only=True)
        same = found["layout"] == LAYOUT and found["identity"] == state.identity
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError):
        same = False
    if not same:
        path.unlink(missing_ok=True)
        return False
    state.module.load_state_dict(found["module"])
    state.optimizer.load_state_dict(found["optimizer"])
    if state.average:
        state.average.state = found["average"]
    state.step, state.best, state.stale, state.read = (found[name] for name in ("step", "best", "stale", "read"))
    state.history = History(**found["history"])
    return True


class State:
    """Where a training stands: everything that changes from step to step."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        history: History,
        device: torch.device,
        identity: str,
    ) -> None:
        self.module, self.optimizer, self.average = module, optimizer, average
        self.history, self.device = history, device
        self.identity = identity  # of the training: a checkpoint of another one is not gone on with
        self.step = 0
        self.best: dict[str, Any] | None = None  # {"value", "step", "state"}
        self.stale = 0  # validations since the best
        self.read: list[tuple[float, dict[str, float]]] = []  # losses and parts since the last point of the curve
