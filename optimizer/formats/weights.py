"""State dicts from files, and into modules: every key that does not fit is named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError, missing_extra

if TYPE_CHECKING:
    import torch
    from torch import nn

NESTED = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
SHOWN = 8


def load_into(module: nn.Module, path: Path) -> None:
    """Load the weights of a `.safetensors`, `.pt` or `.pth` file into the module.

    Raises OptimizerError listing every missing, unexpected and mis-shaped key; then nothing was loaded.
    """
    state = read(path)
    own = module.state_dict()
    state = _without_prefix(state, own)
    faults = _faults(state, own)
    if faults:
        raise OptimizerError(
            f"{path.name} does not fit {type(module).__name__}: " + "; ".join(faults),
            "give the weights of this very architecture, or the arguments (model.args) that they were trained with",
        )
    module.load_state_dict(state, strict=False)


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by key. Nothing in the file is executed."""
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in NESTED:
        inner = found.get(key)
        if isinstance(inner, Mapping):
            found = dict(inner)
            break
    tensors = {str(k): v for k, v in found.items() if hasattr(v, "dtype") and hasattr(v, "shape")}
    if not tensors:
        keys = ", ".join(list(map(str, found))[:SHOWN]) or "nothing"
        raise OptimizerError(f"{path} holds no tensors (found: {keys})", "save model.state_dict()")
    return tensors


def write(state: Mapping[str, torch.Tensor], path: Path, origin: str) -> None:
    """Write a state dict as `.safetensors`, tensors that share memory once, under the first of their names.

    Raises OptimizerError naming tensors that hold NaN or infinity; `origin` is the model in the user's words.
    """
    from safetensors.torch import save_file

    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if bad:
        raise OptimizerError(
            f"{origin}: these weights hold NaN or infinity: {_listed(bad)}", "train with a lower lr, or with clip: 1"
        )
    kept: dict[str, torch.Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:  # tied: loading into the module ties them again
            continue
        seen.add(place)
        kept[name] = tensor.detach().cpu().contiguous().clone()  # a view's file would hold what it is a view of
    save_file(kept, path)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise missing_extra("safetensors", "torch", f"reading {path.name}") from None
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise OptimizerError(f"{path} is no safetensors file: {error}", "check the file, it may be truncated") from None


def _read_torch(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise OptimizerError(
            f"{path} holds Python objects besides tensors, which are not unpickled ({_refused(error)})",
            "save the state dict alone: torch.save(model.state_dict(), path), or use .safetensors",
        ) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise OptimizerError(
            f"{path} is no PyTorch weights file: {_first_line(error)}", "check the file, it may be truncated"
        ) from None
    if not isinstance(found, Mapping):
        raise OptimizerError(f"{path} holds a {type(found).__name__}, not a state dict", "save model.state_dict()")
    return dict(found)


def _refused(error: BaseException) -> str:
    """What torch would not unpickle, without its advice to do so all the same."""
    named = re.search(r"Unsupported [^\n]*?(?=\.? was not| by default|\n|$)", str(error))
    return named[0] if named else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _without_prefix(state: dict[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state without a wrapper's prefix, when all of its keys have one and the module's keys have not."""
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state) and not any(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _faults(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [k for k in own if k not in state and not _dispensable(k, state, own)]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {list(state[k].shape)} instead of {list(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    named = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{len(keys)} {what} ({_listed(keys)})" for what, keys in named if keys]


def _dispensable(key: str, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> bool:
    """Counters that inference never reads, and tied weights that the file holds under their other name."""
    if key.endswith("num_batches_tracked"):
        return True
    place = own[key].data_ptr()
    return place != 0 and any(k in state and t.data_ptr() == place and k != key for k, t in own.items())


def _listed(keys: Iterable[str]) -> str:
    names = list(keys)
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
