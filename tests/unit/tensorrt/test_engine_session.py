"""A session on an engine, against a stand-in for the GPU: profiles, buffers, graphs, boundaries, refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_stand_in import LIBRARY, Config, Cuda, Engine

from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt import facts
from optimizer.formats.tensorrt.flavour import RTX, TENSORRT
from optimizer.formats.tensorrt.log import Log
from optimizer.formats.tensorrt.options import EngineOptions
from optimizer.formats.tensorrt.session import Running, _Opened
from optimizer.values import Artifact, Signature, TensorSpec
from optimizer.worker import time_calls

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),))
FACTS = facts.Facts.model_validate({
    "flavour": "tensorrt", "version": "10.9.0", "distribution": "tensorrt", "capabilities": ["8.9"], "newer": False,
    "profiles": [{"batch": [1, 1, 1]}, {"batch": [2, 8, 8]}], "plan": {"size": 1, "sha256": "0" * 64},
    "types": {"float32": 9},
})  # fmt: skip


class Bench:
    """A stand-in with an engine, and sessions on it."""

    def __init__(self, stack: contextlib.ExitStack, root: Path) -> None:
        self.stack, self.cuda = stack, Cuda()
        self.engine = Engine(self.cuda, (1, 1), (2, 8))
        self.artifact = Artifact("tensorrt", root, "k", "d", SIGNATURE, 1)

    def session(self, cache: Any = None, **options: Any) -> Running:
        flavour = TENSORRT if cache is None else RTX
        opened = _Opened(LIBRARY, flavour, object(), self.engine, self.cuda, Log(), cache)
        return Running(opened, FACTS, self.artifact, EngineOptions(**options), self.stack)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        made = Bench(stack, tmp_path)
        yield made
    assert made.cuda.memory == {}, "memory that was never freed"
    assert (made.cuda.streams, made.cuda.graphs) == (0, 0)


def batch(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, 4)).astype(np.float32)


def test_outputs_come_back_for_every_profile_and_stay_as_they_were(bench: Bench) -> None:
    session = bench.session()
    given = [batch(n, n) for n in (1, 3, 8, 2, 1)]
    found = [session({"x": x})["y"] for x in given]
    for x, y in zip(given, found, strict=True):
        np.testing.assert_array_equal(y, x * 2)
    assert bench.engine.contexts[0].profile == 0
    assert session.precision == "float32 (typed)"


def test_inputs_need_not_be_contiguous(bench: Bench) -> None:
    x = np.asfortranarray(batch(3))
    np.testing.assert_array_equal(bench.session()({"x": x})["y"], x * 2)


def test_an_empty_batch_is_refused(bench: Bench) -> None:
    with pytest.raises(OptimizerError, match="batch is 0: an engine takes no empty inputs"):
        bench.session()({"x": batch(0)})


def test_sizes_outside_every_profile_name_the_option(bench: Bench) -> None:
    with pytest.raises(OptimizerError, match="batch is 9, the engine was built for 1 to 8") as caught:
        bench.session()({"x": batch(9)})
    assert "dims: {batch: [1, 1, 9]}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": batch(2).astype(np.float64)}, "the input 'x' is float64, the model takes float32"),
        ({"z": batch(2)}, "the input 'x' is missing; given: z"),
        ({"x": np.zeros((2, 5), np.float32)}, r"'x' has the shape \[2, 5\]"),
    ],
)
def test_inputs_that_do_not_fit_are_named(bench: Bench, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        bench.session()(feeds)


def test_memory_grows_and_is_not_taken_again_for_smaller_batches(bench: Bench) -> None:
    session = bench.session()
    session({"x": batch(8)})
    known = set(bench.cuda.memory)
    session({"x": batch(2)})
    assert set(bench.cuda.memory) == known


def test_a_graph_is_recorded_once_per_shape_and_replayed(bench: Bench) -> None:
    session = bench.session(cuda_graph=True)
    for size in (2, 2, 2, 4, 2, 4):
        x = batch(size, size)
        np.testing.assert_array_equal(session({"x": x})["y"], x * 2)
    # Growing to four rows gave other addresses, so both shapes were recorded after it.
    assert bench.cuda.graphs == 3
    assert bench.cuda.replays == 3


def test_a_graph_runs_first_and_is_recorded_then(bench: Bench) -> None:
    session = bench.session(cuda_graph=True)
    session({"x": batch(2)})
    assert (bench.engine.contexts[0].runs, bench.cuda.replays, bench.cuda.graphs) == (1, 0, 1)


def test_tensorrt_rtx_records_by_itself(bench: Bench) -> None:
    made: list[Config] = []
    bench.engine.create_runtime_config = lambda: made.append(Config()) or made[-1]  # type: ignore[attr-defined]
    session = bench.session(cache=object(), cuda_graph=True)
    session({"x": batch(2)})
    assert made[0].cuda_graph_strategy == "whole"
    assert bench.cuda.graphs == 0


def test_the_boundary_at_the_device_leaves_the_copies_out_for_the_very_same_arrays(bench: Bench) -> None:
    session = bench.session(boundary="device")
    x = batch(2)
    first = session({"x": x})["y"]
    copied = dict(bench.cuda.copied)
    again = session({"x": x})["y"]
    assert bench.cuda.copied == copied
    assert bench.engine.contexts[0].runs == 2
    np.testing.assert_array_equal(again, first)
    other = batch(2, 5)
    np.testing.assert_array_equal(session({"x": other})["y"], other * 2)
    assert bench.cuda.copied[1] == 2 * copied[1]


@pytest.mark.parametrize("graph", [False, True])
def test_at_the_device_calls_are_timed_by_events_and_others_by_the_host(bench: Bench, graph: bool) -> None:
    session = bench.session(boundary="device", cuda_graph=graph)
    feeds = {"x": batch(2)}
    assert session.clock is not None and session.clock.name.startswith("CUDA events")
    session(feeds)
    assert session.clock.last() is None, "the copies of the first call are not between the events"
    assert time_calls(session, feeds, warmup=1, seconds=0.0, min_iterations=3) == [250_000] * 3
    session({"x": batch(2, 5)})
    assert session.clock.last() is None
    assert bench.session().clock is None


def test_a_fork_has_a_context_and_memory_of_its_own(bench: Bench) -> None:
    session = bench.session()
    other = session.fork()
    x, z = batch(2, 1), batch(3, 2)
    np.testing.assert_array_equal(session({"x": x})["y"], x * 2)
    np.testing.assert_array_equal(other({"x": z})["y"], z * 2)
    assert len(bench.engine.contexts) == 2


def test_what_the_gpu_refuses_is_told_in_its_words(bench: Bench) -> None:
    session = bench.session()
    bench.cuda.room = 8
    with pytest.raises(
        OptimizerError, match="CUDA refuses to reserve 32 bytes on the GPU: out of memory; 0 of 1,074 MB of"
    ) as caught:
        session({"x": batch(2)})
    assert "smaller dims or batches" in str(caught.value.hint)
    bench.engine.room = False
    with pytest.raises(OptimizerError, match=r"no room to run the engine, which asks for 3 MB: .* of the GPU are free"):
        bench.session()


def test_an_engine_that_fails_and_an_output_of_unknown_shape(bench: Bench) -> None:
    session = bench.session()
    bench.engine.broken = True
    with pytest.raises(OptimizerError, match="TensorRT cannot run the engine: it gave no reason"):
        session({"x": batch(2)})
    bench.engine.known = False
    with pytest.raises(OptimizerError, match="the shape of the output 'y' depends on values"):
        bench.session()({"x": batch(2)})
