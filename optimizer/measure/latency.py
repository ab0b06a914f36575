"""Latency, throughput, load time and peak memory of artifacts, each in a process of its own.

For every batch size and restart all subjects are opened in fresh processes, one after the other, and warmed
up. Then come rounds: in each, every subject runs one block of calls, in an order drawn anew, while the others
sleep. So a slow spell of the machine meets all of them, and a ratio is taken between blocks of the same round.
How many calls a block has is decided once per batch size: a time limit per block would count fast spells more.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from optimizer.console import Advance
from optimizer.errors import OptimizerError
from optimizer.measure import quantiles
from optimizer.measure.process import Opened, Subject, Worker, save_feeds
from optimizer.measure.timings import Taken, View, of_subject
from optimizer.protocols import Feeds
from optimizer.recipe import LatencySpec
from optimizer.values import Measurement, Signature, TensorSpec

__all__ = ["Subject", "measure", "shape_feeds"]

ROUNDS = 10
MOST_CALLS = 5000
WARM_UP = 0.2
"""Share of a restart's time budget that a subject runs, on top, before anything counts."""
BLOCK_WARM_UP = 0.1
"""Share of a block's calls that are made, on top, before it counts: others have had the caches meanwhile."""
FREE_DTYPES = ("string", "bfloat16")  # numpy has no type of that name to convert to


class Process(Protocol):
    """An opened subject: `Worker`, or a stand-in with a clock of its own."""

    opened: Opened

    def run(self, warmup: int, seconds: float, min_iterations: int) -> list[int]: ...
    def stop(self) -> int: ...
    def close(self) -> None: ...


Launch = Callable[[Subject, Path, int], Process]


@dataclass(frozen=True)
class Blocks:
    """How the calls of one batch size are laid out."""

    rounds: int
    calls: Mapping[str, int]  # subject -> calls per block


def measure(
    subjects: Sequence[Subject],
    baseline_of: Mapping[str, str | None],
    samples: Feeds,
    spec: LatencySpec,
    seed: int,
    machine_digest: str,
    progress: Advance = lambda done, total: None,
    launch: Launch = Worker,
) -> list[Measurement]:
    """All measurements of all subjects at each batch size of `spec`, ratios against `baseline_of[name]` included.

    `samples` are real inputs, first dimension samples. Raises OptimizerError naming the subject whose process
    failed or hung, or whose signature does not admit the batch size. No process outlives the call.
    """
    names = [subject.name for subject in subjects]
    if len(set(names)) != len(names) or not {b for b in baseline_of.values() if b} <= set(names):
        raise AssertionError("BUG: subjects need names of their own, and a baseline must be among them")
    batches = list(dict.fromkeys(spec.batch))
    feeds = {(s.name, b): shape_feeds(s.artifact.signature, samples, b, spec.dims) for s in subjects for b in batches}
    advance = _meter(len(batches) * spec.restarts * len(subjects), progress)
    found: list[Measurement] = []
    for batch in batches:
        before = _load_average()
        taken, blocks = _take(subjects, {n: feeds[n, batch] for n in names}, batch, spec, seed, launch, advance)
        protocol = _protocol(spec, seed, blocks, [before, _load_average()])
        weight = quantiles.weights(spec.restarts, blocks.rounds, seed)
        for subject in subjects:
            name, against = subject.name, baseline_of.get(subject.name)
            at = {"batch": batch, "threads": _threads(subject, spec), **spec.dims}
            facts = {
                "shapes": {key: list(array.shape) for key, array in feeds[name, batch].items()},
                "precision": taken[name].opened[0].precision,
            }
            view = View(name, at, protocol | facts, machine_digest)
            base = (against, taken[against]) if against and against != name else None
            found += of_subject(view, taken[name], base, weight)
    return found


def shape_feeds(signature: Signature, samples: Feeds, batch: int, dims: Mapping[str, int]) -> Feeds:
    """Real samples cut, or repeated, to `batch` and to the sizes that `dims` gives to the other free dimensions.

    Raises OptimizerError for a model whose batch size is fixed at another number, for a dimension that the
    model does not have, and for an input that the samples lack.
    """
    symbol = signature.batch_symbol()
    free = [name for name in signature.symbols() if name != symbol]
    if unknown := [name for name in dims if name not in free]:
        raise OptimizerError(
            f"measure.latency.dims: no free dimension '{unknown[0]}'; available: {', '.join(free) or 'none'}",
            "the batch size is set by measure.latency.batch" if unknown[0] == symbol else "correct or remove it",
        )
    first = signature.inputs[0].shape[:1] if signature.inputs else ()
    if symbol is None and batch != 1 and first != (batch,):
        raise OptimizerError(
            f"measure.latency.batch: the model's shape is fixed ({signature.inputs[0]}), it cannot run {batch} samples",
            "use [1] for one call as it is, or export the model with a free first dimension",
        )
    sizes = {**dims, **({symbol: batch} if symbol else {})}
    return {tensor.name: _fit(tensor, samples, sizes) for tensor in signature.inputs}


def _fit(tensor: TensorSpec, samples: Feeds, sizes: Mapping[str, int]) -> np.ndarray:
    if tensor.name not in samples:
        raise OptimizerError(
            f"no sample for the input '{tensor.name}' ({tensor}); available: {', '.join(samples) or 'none'}",
            "map a data column to it with data.evaluate.inputs",
        )
    array = np.asarray(samples[tensor.name])
    inner = zip(tensor.shape[1:], array.shape[1:], strict=False)
    if array.ndim != len(tensor.shape) or 0 in array.shape or any(isinstance(d, int) and d != n for d, n in inner):
        raise OptimizerError(
            f"input '{tensor.name}': samples of shape {list(array.shape)} do not fit {tensor}",
            "check the transforms and the model's inputs",
        )
    for axis, dim in enumerate(tensor.shape):
        size = dim if isinstance(dim, int) else sizes.get(dim, array.shape[axis])
        if size != array.shape[axis]:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array if tensor.dtype in FREE_DTYPES else array.astype(tensor.dtype, copy=False))


def _take(
    subjects: Sequence[Subject],
    feeds: Mapping[str, Feeds],
    batch: int,
    spec: LatencySpec,
    seed: int,
    launch: Launch,
    advance: Callable[[float], None],
) -> tuple[dict[str, Taken], Blocks]:
    """All restarts of one batch size."""
    taken = {subject.name: Taken() for subject in subjects}
    blocks: Blocks | None = None
    with tempfile.TemporaryDirectory(prefix="optc-feeds-") as folder:
        paths = {s.name: Path(folder) / f"{place}.npz" for place, s in enumerate(subjects)}
        for name, path in paths.items():
            save_feeds(feeds[name], path)
        for restart in range(spec.restarts):
            order = random.Random(f"{seed}/{batch}/{restart}")  # noqa: S311  # an order, not a secret
            with ExitStack() as stack:
                processes: dict[str, Process] = {}
                for subject in order.sample(subjects, len(subjects)):
                    process = launch(subject, paths[subject.name], _threads(subject, spec))
                    processes[subject.name] = stack.enter_context(closing(process))
                    advance(0.1)
                pace = {n: _warm_up(p, spec, taken[n], advance) for n, p in processes.items()}
                blocks = blocks or lay_out(pace, spec)
                _run_rounds(processes, blocks, order, taken, advance)
                for name, process in processes.items():
                    taken[name].opened.append(process.opened)
                    taken[name].peaks.append(process.stop())
    return taken, blocks or Blocks(1, {})


def _warm_up(process: Process, spec: LatencySpec, taken: Taken, advance: Callable[[float], None]) -> int:
    """Run a fresh process until it is warm; nanoseconds that a call then takes."""
    taken.first.append(process.run(0, 0.0, 1)[0])
    times = process.run(0, WARM_UP * spec.seconds / spec.restarts, 3)
    advance(0.15)
    return max(1, int(np.median(times)))


def lay_out(pace: Mapping[str, int], spec: LatencySpec) -> Blocks:
    """Rounds and calls per block that spend the time budget, from nanoseconds per call.

    At least three rounds, and so many that all restarts together support a median. A slow subject then takes
    longer than its budget; the others keep to theirs.
    """
    budget = spec.seconds / spec.restarts * 1e9
    least = max(3, math.ceil(quantiles.support(50) / spec.restarts))
    rounds = min(max(int(budget // max(pace.values(), default=1)), least), max(ROUNDS, least))
    calls = {name: min(max(1, int(budget / rounds / ns)), MOST_CALLS) for name, ns in pace.items()}
    return Blocks(rounds, calls)


def _run_rounds(
    processes: Mapping[str, Process],
    blocks: Blocks,
    order: random.Random,
    taken: Mapping[str, Taken],
    advance: Callable[[float], None],
) -> None:
    """One restart: every subject runs one block per round, in an order of its own each round."""
    for entry in taken.values():
        entry.blocks.append([])
    for _ in range(blocks.rounds):
        for name in order.sample(sorted(processes), len(processes)):
            calls = blocks.calls[name]
            times = processes[name].run(math.ceil(BLOCK_WARM_UP * calls), 0.0, calls)
            taken[name].blocks[-1].append(np.asarray(times))
            advance(0.75 / blocks.rounds)


def _protocol(spec: LatencySpec, seed: int, blocks: Blocks, load_average: list[float | None]) -> dict[str, Any]:
    spread = "" if spec.restarts > 1 else "; one restart: the spread between processes is not in it"
    return {
        "boundary": "one call: host arrays in, host arrays out",
        "clock": "time.perf_counter_ns",
        "processes": "a fresh one per subject, restart and batch size; one runs at a time",
        "interleaved": True,
        "together_with": sorted(blocks.calls),
        "order_seed": seed,
        "restarts": spec.restarts,
        "rounds": blocks.rounds,
        "seconds": spec.seconds,
        "warm_up": {"seconds_per_restart": WARM_UP * spec.seconds / spec.restarts, "share_of_block": BLOCK_WARM_UP},
        "load_average": load_average,
        "interval": f"95 %, bootstrap over restarts and rounds, {quantiles.DRAWS} draws, log scale, widened by "
        f"Student's t for the number of restarts{spread}",
    }


def _threads(subject: Subject, spec: LatencySpec) -> int:
    return int(subject.options.get("threads") or spec.threads)


def _load_average() -> float | None:
    """The one-minute load average, where the system keeps one."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _meter(launches: int, progress: Advance) -> Callable[[float], None]:
    """Progress in hundredths of one subject's restart."""
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        done += share
        progress(min(round(100 * done), 100 * launches), 100 * launches)

    return advance
