"""An engine that runs: profile by shape, device buffers, pinned host memory, and a CUDA graph where that is asked for.

Written from the documented Python API of TensorRT 10/11, TensorRT-RTX 1.7 and the CUDA runtime. It has not run on a GPU
yet: what needs none (choice of profile, checks of inputs, refusals) is tested, the rest against a stand-in for the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from optimizer import disk, store
from optimizer.errors import OptimizerError, elsewhere
from optimizer.formats.tensorrt import build, device, engine, layers, profiles
from optimizer.formats.tensorrt import flavour as flavours
from optimizer.formats.tensorrt.facts import Facts
from optimizer.formats.tensorrt.flavour import Flavour
from optimizer.formats.tensorrt.log import Log, listening
from optimizer.formats.tensorrt.network import load_plugins
from optimizer.formats.tensorrt.options import EngineOptions
from optimizer.protocols import Clock, Feeds, Session
from optimizer.values import Artifact, Signature

ALONE = "the engine alone: inputs and outputs stay on the GPU"
EVENTS = "CUDA events around the launch, in the engine's stream"
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@contextlib.contextmanager
def opened(flavour: Flavour, artifact: Artifact, options: EngineOptions) -> Iterator[Session]:
    """A session on the engine in the artifact.

    Raises OptimizerError when there is no GPU to run it, when its facts do not fit, or when its bytes are not whole.
    """
    reason = flavours.absent(flavour) or flavours.unrunnable(flavour)
    if reason:
        raise elsewhere("the engine", reason)
    facts = engine.require(artifact.path, flavour, options.device)
    trt = flavours.library(flavour)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(listening(trt))
        cudart = device.runtime()
        device.called(cudart, f"use GPU {options.device}", cudart.cudaSetDevice(options.device))
        load_plugins(trt, options.plugins)
        runtime, loaded = engine.deserialize(trt, flavour, artifact.path, log)
        cache = stack.enter_context(_jit_cache(flavour, loaded))
        yield Running(_Opened(trt, flavour, runtime, loaded, cudart, log, cache), facts, artifact, options, stack)


@contextlib.contextmanager
def _jit_cache(flavour: Flavour, loaded: Any) -> Iterator[Any]:
    """What TensorRT-RTX compiled on this GPU before, kept in the store by GPU, driver and version; None elsewhere."""
    if not flavour.builds_anywhere:
        yield None
        return
    file = store.default_root() / "caches" / f"{build.cache_name(flavour)}.jit"
    config = loaded.create_runtime_config()
    cache = config.create_runtime_cache()
    if file.is_file():
        cache.deserialize(file.read_bytes())  # a cache that does not fit is left unused, and replaced
    yield cache
    found = cache.serialize()
    if found is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.write_atomically(file, bytes(found))


class _Opened:
    """What all callers of an engine share."""

    def __init__(
        self, trt: Any, flavour: Flavour, runtime: Any, loaded: Any, cudart: Any, log: Log, cache: Any
    ) -> None:
        self.trt, self.flavour, self.cudart, self.log, self.cache = trt, flavour, cudart, log, cache
        self.runtime, self.engine = runtime, loaded  # the runtime has to outlive its engine

    def context(self, graphs: bool) -> Any:
        """An execution context of its own; raises OptimizerError when the GPU has no room for it."""
        if self.cache is None:
            found = self.engine.create_execution_context()
        else:
            config = self.engine.create_runtime_config()
            config.set_runtime_cache(self.cache)
            if graphs:  # TensorRT-RTX records and replays by itself
                config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            found = self.engine.create_execution_context(config)
        if found is None:
            raise OptimizerError(
                f"{self.flavour.title} has no room to run the engine, which asks for {self._asked()}: "
                f"{self.log.reason()}; {device.room(self.cudart)}",
                device.ROOM,
            )
        return found

    def _asked(self) -> str:
        """How much memory the engine's layers need while it runs, in words."""
        size = getattr(self.engine, "device_memory_size_v2", None)
        return "memory" if size is None else f"{size / 1e6:,.0f} MB"


class Running:
    """One caller of an engine. Times of a call run from host memory to host memory, or as `boundary` says."""

    def __init__(
        self, opened: _Opened, facts: Facts, artifact: Artifact, options: EngineOptions, stack: contextlib.ExitStack
    ) -> None:
        self.signature: Signature = artifact.signature
        self._opened, self._facts, self._artifact, self._options, self._stack = opened, facts, artifact, options, stack
        self._profiles = facts.ranges()
        self._profile = 0
        self._context = opened.context(options.cuda_graph)
        self._stream = device.Stream(opened.cudart, options.device, stack)
        names = [spec.name for spec in (*self.signature.inputs, *self.signature.outputs)]
        self._buffers = {name: device.Buffer(opened.cudart, stack) for name in names}
        self._types = {name: np.dtype(opened.trt.nptype(opened.engine.get_tensor_dtype(name))) for name in names}
        self._graphs: dict[Shapes, Any] = {}
        self._shapes: Shapes = ()
        self._last: tuple[list[np.ndarray], dict[str, np.ndarray]] | None = None
        self._stopwatch = self._stream.stopwatch() if options.boundary == "device" else None
        self._nanoseconds: int | None = None

    @property
    def clock(self) -> Clock | None:
        """CUDA events where a call runs the engine alone; the host's clock where copies are part of it."""
        return Clock(EVENTS, ALONE, lambda: self._nanoseconds) if self._stopwatch else None

    @property
    def precision(self) -> str:
        """The types that the engine's layers have, as its inspector tells them."""
        found = layers.load(self._artifact.path) or layers.of_engine(self._opened.trt, self._opened.engine)
        return layers.describe(found) or self._facts.precision()

    def fork(self) -> Session:
        """Another caller of the same engine: a context, stream and buffers of its own, closed with the first."""
        return Running(self._opened, self._facts, self._artifact, self._options, self._stack)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        arrays = [feeds[spec.name] for spec in self.signature.inputs if spec.name in feeds]
        if self._stopwatch and self._last and _same(arrays, self._last[0]):
            self._nanoseconds = self._stopwatch.around(self._launch)
            return self._last[1]
        self._nanoseconds = None
        shapes = self._prepare(feeds)
        for spec in self.signature.inputs:
            self._put(spec.name, feeds[spec.name])
        self._launch()
        found = self._take(shapes)
        self._last = arrays, found
        return found

    def _prepare(self, feeds: Feeds) -> dict[str, tuple[int, ...]]:
        """Choose the profile and set the shapes; returns the shapes of the outputs."""
        given = {name: tuple(array.shape) for name, array in feeds.items()}
        sizes = profiles.sizes(self.signature, given)
        context = self._context
        shapes: Shapes = tuple((spec.name, given[spec.name]) for spec in self.signature.inputs)
        if shapes != self._shapes:
            if self._profiles:
                self._use(profiles.choose(self._profiles, sizes, self._opened.flavour.name))
            for name, shape in shapes:
                if not context.set_input_shape(name, shape):
                    raise self._fault(f"refuses the shape {list(shape)} of '{name}'")
            self._shapes = shapes
        outputs = {spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in self.signature.outputs}
        unknown = [name for name, shape in outputs.items() if -1 in shape]
        if unknown:
            raise OptimizerError(
                f"the shape of the output '{unknown[0]}' depends on values, which is not supported here",
                "leave that output out of the model, or give it a fixed shape",
            )
        self._reserve({**given, **outputs})
        return outputs

    def _use(self, profile: int) -> None:
        if profile == self._profile:
            return
        if not self._context.set_optimization_profile_async(profile, int(self._stream.handle)):
            raise self._fault(f"refuses the profile {profile}")
        self._profile = profile

    def _reserve(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, buffer in self._buffers.items():
            if buffer.reserve(int(np.prod(shapes[name], dtype=np.int64)) * self._types[name].itemsize):
                self._graphs.clear()  # the addresses that they were recorded with
                self._context.set_tensor_address(name, buffer.device)

    def _put(self, name: str, array: np.ndarray) -> None:
        dtype, buffer = self._types[name], self._buffers[name]
        if array.dtype != dtype:
            raise OptimizerError(
                f"the input '{name}' is {array.dtype}, the model takes {dtype}", f"convert it: x.astype('{dtype}')"
            )
        np.copyto(buffer.host(tuple(array.shape), dtype), array)
        self._stream.upload(buffer, array.nbytes)

    def _launch(self) -> None:
        """Run the engine in the stream: directly, or as the graph that was recorded for these shapes."""
        if not self._options.cuda_graph or self._opened.cache is not None:
            self._enqueue()
        elif self._shapes in self._graphs:
            self._stream.replay(self._graphs[self._shapes])
        else:
            self._enqueue()  # once without recording: it may still set things up for these shapes
            self._stream.wait()
            self._graphs[self._shapes] = self._stream.captured(self._enqueue)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise self._fault("cannot run the engine")

    def _take(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64)) * self._types[name].itemsize
            self._stream.download(self._buffers[name], count)
        self._stream.wait()
        # Copied: the next call must not overwrite them.
        return {name: self._buffers[name].host(shape, self._types[name]).copy() for name, shape in shapes.items()}

    def _fault(self, what: str) -> OptimizerError:
        inputs = ", ".join(f"{spec.name}: {spec}" for spec in self.signature.inputs)
        return OptimizerError(f"{self._opened.flavour.title} {what}: {self._opened.log.reason()}", f"it takes {inputs}")


def _same(arrays: list[np.ndarray], before: list[np.ndarray]) -> bool:
    return len(arrays) == len(before) and all(a is b for a, b in zip(arrays, before, strict=True))
