"""A CUDA runtime and an engine in ordinary memory, which keep the rules that the real ones have.

Copies go through addresses, a recording holds launches back until it is replayed, a shape outside the current profile
is refused, and memory that is used after it was freed, or never freed, is noticed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class Stream:
    def __int__(self) -> int:
        return 7


class Cuda:
    """What the session uses of cuda.bindings.runtime; `room` bytes of device memory."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.memory: dict[int, Any] = {}
        self.copied = {1: 0, 2: 0}  # kind -> bytes
        self.recording: list[Callable[[], None]] | None = None
        self.graphs = 0
        self.replays = 0
        self.streams = 0  # and events
        self.now = 0.0  # ms of the GPU's own clock; a launch takes a quarter of one

    def cudaGetErrorString(self, code: int) -> tuple[int, bytes]:
        return 0, {2: b"out of memory"}.get(code, b"unknown error")

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.room, 1 << 30

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, ...]:
        if size > self.room:
            return 2, 0
        self.room -= size
        return self.cudaMallocHost(size)

    def cudaMallocHost(self, size: int) -> tuple[int, ...]:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, Stream]:
        self.streams += 1
        return 0, Stream()

    def cudaStreamCreate(self) -> tuple[int, Stream]:
        return self.cudaStreamCreateWithFlags(0)

    def cudaStreamDestroy(self, stream: Stream) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[int]:
        assert self.recording is None, "a stream that is recorded must not be waited for"
        return (0,)

    def cudaMemcpyAsync(self, to: int, origin: int, size: int, kind: int, stream: Stream) -> tuple[int]:
        assert (to if kind == 1 else origin) in self.memory, "memory of the GPU that was freed"
        assert self.recording is None
        ctypes.memmove(to, origin, size)
        self.copied[kind] += size
        return (0,)

    def cudaEventCreate(self) -> tuple[int, list[float]]:
        self.streams += 1
        return 0, []

    def cudaEventDestroy(self, event: list[float]) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def cudaEventRecord(self, event: list[float], stream: Stream) -> tuple[int]:
        event[:] = [self.now]
        return (0,)

    def cudaEventSynchronize(self, event: list[float]) -> tuple[int]:
        assert event, "an event that was never recorded"
        return (0,)

    def cudaEventElapsedTime(self, start: list[float], end: list[float]) -> tuple[int, float]:
        return 0, end[0] - start[0]

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> tuple[int]:
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[int, Any]:
        found, self.recording = self.recording, None
        return 0, found

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        self.graphs += 1
        return 0, graph

    def cudaGraphDestroy(self, graph: Any) -> tuple[int]:
        return (0,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[int]:
        self.graphs -= 1
        return (0,)

    def cudaGraphLaunch(self, graph: Any, stream: Stream) -> tuple[int]:
        self.replays += 1
        for launch in graph:
            launch()
        return (0,)


class Context:
    """An execution context of an engine that doubles its input."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.profile = 0
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.runs = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream == 7
        self.profile, self.shapes = profile, {}
        return profile < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        low, high = self.engine.profiles[self.profile]
        if not low <= shape[0] <= high:
            return False
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        return self.shapes["x"] if self.engine.known else (-1, 4)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.broken:
            return False
        assert set(self.addresses) == {"x", "y"}, "a tensor without memory"
        shape, addresses = self.shapes["x"], dict(self.addresses)

        def launch() -> None:
            self.runs += 1
            self.engine.cuda.now += 0.25
            size = int(np.prod(shape)) * 4
            assert set(addresses.values()) <= set(self.engine.cuda.memory), "memory that was freed"
            given = np.frombuffer(ctypes.string_at(addresses["x"], size), np.float32)
            ctypes.memmove(addresses["y"], (given * 2).tobytes(), size)

        recording = self.engine.cuda.recording
        launch() if recording is None else recording.append(launch)
        return True


class Engine:
    """An engine with ranges of its batch dimension."""

    def __init__(self, cuda: Cuda, *profiles: tuple[int, int]) -> None:
        self.cuda, self.profiles = cuda, profiles
        self.known, self.broken, self.room = True, False, True
        self.device_memory_size_v2 = 3_000_000
        self.contexts: list[Context] = []

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_runtime_config(self) -> Config:
        return Config()

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(
            get_engine_information=lambda form: "Layers:\nName: double, LayerType: Scale, Inputs: []"
        )

    def create_execution_context(self, config: Any = None) -> Context | None:
        if not self.room:
            return None
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Config:
    """A runtime configuration with a cache of compiled kernels."""

    cuda_graph_strategy = None

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda data: data == b"kernels")

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache


LIBRARY = SimpleNamespace(
    nptype=np.dtype,
    CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
    LayerInformationFormat=SimpleNamespace(ONELINE="lines"),
)
