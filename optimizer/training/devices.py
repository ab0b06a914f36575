"""Where a training runs: the device, its precision, its determinism, and the processes that share a batch."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from optimizer import machine
from optimizer.errors import OptimizerError
from optimizer.training.settings import Settings

if TYPE_CHECKING:
    import torch

BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))  # instruction sets of CPUs that multiply it by themselves


def device(settings: Settings) -> torch.device:
    """The device of this process. Raises OptimizerError where CUDA is asked for and not usable."""
    import torch

    usable = torch.cuda.is_available()
    if settings.device == "cuda" and not usable:
        raise OptimizerError(
            "device: cuda, but PyTorch finds no CUDA device here", "use device: auto, or install PyTorch for CUDA"
        )
    if settings.device == "cpu" or not usable:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextlib.contextmanager
def reproducible(settings: Settings, where: torch.device) -> Iterator[None]:
    """Deterministic algorithms on CUDA where asked for; global random states and switches are put back on leaving."""
    import numpy as np
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    states = random.getstate(), np.random.get_state()  # the user's code may draw from it
    on_cuda = where.type == "cuda"
    try:
        if on_cuda:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch.use_deterministic_algorithms asks
            torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
            torch.backends.cudnn.benchmark = not settings.deterministic
        with torch.random.fork_rng(devices=[where] if on_cuda else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        random.setstate(states[0])
        np.random.set_state(states[1])


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make everything random in this step (dropout, user code) a function of seed, step and process.

    So a training that goes on from a checkpoint draws what it would have drawn, and no generator's state is stored.
    """
    import numpy as np
    import torch

    number = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def autocast(settings: Settings, where: torch.device) -> Any:
    """Mixed precision where the device has bfloat16; it needs no scaling of the loss, unlike float16."""
    import torch

    able = torch.cuda.is_bf16_supported() if where.type == "cuda" else not BFLOAT16.isdisjoint(machine.here().isa)
    return torch.autocast(where.type, torch.bfloat16, enabled=settings.amp and able)


def share() -> tuple[int, int]:
    """(rank, number of processes) of this process; (0, 1) when it trains alone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange; a missing one counts as zero."""
    import torch
    import torch.distributed as dist

    world = share()[1]
    if world == 1:
        return
    own = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in own])
    dist.all_reduce(flat)
    flat /= world
    for parameter, piece in zip(own, flat.split([p.numel() for p in own]), strict=True):
        parameter.grad = piece.view_as(parameter).to(parameter.dtype)


def share_buffers(module: torch.nn.Module) -> None:
    """Give all processes the same buffers: the mean of what each has seen (statistics of batch norm)."""
    import torch.distributed as dist

    world = share()[1]
    if world == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world


def agreed(decision: bool) -> bool:
    """The decision of the first process, which all follow."""
    import torch
    import torch.distributed as dist

    if share()[1] == 1:
        return decision
    told = torch.tensor([int(decision)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(told, 0)
    return bool(told.item())


def wait() -> None:
    """Wait until every process is here."""
    import torch.distributed as dist

    if share()[1] > 1:
        dist.barrier()


@contextlib.contextmanager
def first_alone() -> Iterator[bool]:
    """True in the first process; the others enter with False once it is done."""
    first = share()[0] == 0
    if not first:
        wait()
    yield first
    if first:
        wait()
