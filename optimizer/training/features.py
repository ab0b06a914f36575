"""Losses between inner layers: a student's module learns to give what a teacher's module gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from optimizer.errors import OptimizerError, unknown
from optimizer.formats.torch import TorchModel
from optimizer.training.student import outputs
from optimizer.training.values import TensorBatch

if TYPE_CHECKING:
    import torch
    from torch import nn

What = Literal["features", "attention"]


@dataclass
class Seen:
    """What modules gave in the last forward: path -> tensor."""

    found: dict[str, torch.Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def watched(module: nn.Module, paths: list[str], whose: str, where: str) -> Iterator[Seen]:
    """The outputs of the modules at `paths`, caught at every forward while the block runs.

    Raises OptimizerError with the nearest name for a path that is no module of `module`.
    """
    known = {name for name, _ in module.named_modules() if name}
    seen = Seen()
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(paths):
            if path not in known:
                raise unknown(f"module of the {whose}", path, known, where)
            hook = module.get_submodule(path).register_forward_hook(_caught(seen, path))
            stack.callback(hook.remove)
        yield seen


def _caught(seen: Seen, path: str) -> Any:
    def hook(module: nn.Module, given: Any, result: Any) -> None:  # noqa: ARG001  # the hook's signature
        seen.found[path] = result[0] if isinstance(result, tuple | list) else result

    return hook


@dataclass(frozen=True)
class Pair:
    """A student's module, the teacher's that it learns from, and how."""

    student: str
    teacher: str
    what: What


@dataclass
class Inner:
    """The losses of all pairs. `projections` are trained with the student, and thrown away with it."""

    pairs: list[Pair]
    student: Seen
    teacher: Seen
    projections: nn.ModuleDict
    heads: int

    def __call__(self, batch: TensorBatch) -> dict[str, torch.Tensor]:
        """`features` and `attention` -> the mean over their pairs, of what was seen in the last forward of both."""
        mask = _mask(batch)
        found: dict[str, list[torch.Tensor]] = {}
        for pair in self.pairs:
            own, wanted = self.student.found[pair.student].float(), self.teacher.found[pair.teacher].detach().float()
            if pair.what == "attention":
                value = _attention(own, wanted, mask, self.heads)
            else:
                value = _features(self.projections[_slot(pair)](own), wanted, mask)
            found.setdefault(pair.what, []).append(value)
        return {what: sum(values[1:], values[0]) / len(values) for what, values in found.items()}


def projections(pairs: list[Pair], student: Seen, teacher: Seen, heads: int, where: str) -> nn.ModuleDict:
    """A projection for each pair whose widths differ, made for what was just seen of both.

    Raises OptimizerError for a pair whose outputs are no tensors of alike shapes.
    """
    from torch import nn

    found = nn.ModuleDict()
    for pair in pairs:
        own, wanted = student.found.get(pair.student), teacher.found.get(pair.teacher)
        for tensor, path, whose in ((own, pair.student, "student"), (wanted, pair.teacher, "teacher")):
            if not hasattr(tensor, "shape") or tensor.ndim not in (2, 3, 4):  # type: ignore[union-attr]  # it has a shape
                what = f"gives {list(tensor.shape)}" if hasattr(tensor, "shape") else "did not run, or gives no tensor"  # type: ignore[union-attr]  # as asked
                raise OptimizerError(
                    f"{where}: the {whose}'s module '{path}' {what}",
                    "name modules that give (n, width), (n, length, width) or (n, channels, height, width)",
                )
        assert own is not None and wanted is not None
        _refuse_unlike(pair, own, wanted, heads, where)
        if pair.what == "features":
            found[_slot(pair)] = _projection(own, wanted)
    return found


def _slot(pair: Pair) -> str:
    return f"{pair.student} to {pair.teacher}".replace(".", "/")  # a module's name holds no dot


def _refuse_unlike(pair: Pair, own: torch.Tensor, wanted: torch.Tensor, heads: int, where: str) -> None:
    alike = own.ndim == wanted.ndim and own.shape[0] == wanted.shape[0]
    if alike and own.ndim == 3:
        alike = own.shape[1] == wanted.shape[1]
    if alike and pair.what == "attention":
        alike = own.ndim > 2
    if not alike:
        raise OptimizerError(
            f"{where}: '{pair.student}' gives {list(own.shape)}, the teacher's '{pair.teacher}' {list(wanted.shape)}, "
            f"which cannot be compared as {pair.what}",
            "pair modules of the same kind and place; widths may differ, and sizes of pictures",
        )
    for tensor, path in ((own, pair.student), (wanted, pair.teacher)):
        if pair.what == "attention" and tensor.ndim == 3 and tensor.shape[2] % heads:
            raise OptimizerError(
                f"{where}: '{path}' is {tensor.shape[2]} wide, which {heads} heads do not divide", "choose other heads"
            )


def _projection(own: torch.Tensor, wanted: torch.Tensor) -> nn.Module:
    """From the student's width to the teacher's: nothing where they are one, else linear (as FitNets, 2015)."""
    from torch import nn

    axis = 1 if own.ndim == 4 else -1
    before, after = own.shape[axis], wanted.shape[axis]
    if before == after:
        return nn.Identity()
    return nn.Conv2d(before, after, 1) if own.ndim == 4 else nn.Linear(before, after)


def _features(own: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Squared error relative to the teacher's mean square, so that pairs of layers weigh alike."""
    own, wanted = _same_size(own, wanted)
    error, scale = (own - wanted).square(), wanted.square()
    if mask is not None and own.ndim == 3 and own.shape[:2] == mask.shape:
        error, scale = error[mask], scale[mask]
    return error.mean() / scale.mean().clamp_min(1e-6)


def _attention(own: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None, heads: int) -> torch.Tensor:
    if own.ndim == 4:
        return _maps(own, wanted)
    return _relations(own, wanted, mask, heads)


def _maps(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where a picture is looked at: energy over channels, normalized (Zagoruyko, Komodakis 2017, section 3.1)."""
    from torch.nn import functional

    own, wanted = _same_size(own, wanted)
    own, wanted = (functional.normalize(t.square().mean(1).flatten(1)) for t in (own, wanted))
    return (own - wanted).square().sum(1).mean()


def _relations(own: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None, heads: int) -> torch.Tensor:
    """Which positions resemble which, as distributions, head by head (MiniLMv2, Wang et al. 2021, section 3.1)."""
    logs = [_relation(tensor, mask, heads) for tensor in (own, wanted)]
    divergence = (logs[1].exp() * (logs[1] - logs[0])).sum(-1)  # (n, heads, length)
    if mask is not None and own.shape[:2] == mask.shape:
        return divergence.transpose(1, 2)[mask].mean()
    return divergence.mean()


def _relation(tensor: torch.Tensor, mask: torch.Tensor | None, heads: int) -> torch.Tensor:
    """(n, length, width) -> log of (n, heads, length, length); padding gets no share."""
    count, length, width = tensor.shape
    parts = tensor.reshape(count, length, heads, width // heads).transpose(1, 2)
    alike = parts @ parts.transpose(2, 3) / (width // heads) ** 0.5
    if mask is not None and tensor.shape[:2] == mask.shape:
        alike = alike.masked_fill(~mask[:, None, None, :], -1e4)
    return alike.log_softmax(-1)


def _same_size(own: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps of different sizes: the larger is averaged down to the smaller."""
    from torch.nn import functional

    if own.ndim < 4 or own.shape[2:] == wanted.shape[2:]:
        return own, wanted
    size = [min(a, b) for a, b in zip(own.shape[2:], wanted.shape[2:], strict=True)]
    return functional.adaptive_avg_pool2d(own, size), functional.adaptive_avg_pool2d(wanted, size)


def _mask(batch: TensorBatch) -> torch.Tensor | None:
    """Which positions of sequences are no padding, where an input says so."""
    name = next((n for n, t in batch.feeds.items() if "mask" in n and t.ndim == 2), None)
    return None if name is None else batch.feeds[name] != 0


def see(model: TorchModel, batch: TensorBatch) -> None:
    """One forward without gradients, for what the hooks catch."""
    import torch

    with torch.no_grad():
        outputs(model, batch)
