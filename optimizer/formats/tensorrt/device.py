"""GPU memory, streams, events and graphs through cuda-bindings, NVIDIA's own thin layer over the CUDA runtime.

Chosen over PyTorch's CUDA build, which is two gigabytes more and has its own allocator and stream between us and the
engine, and over pycuda, which knows the driver API alone: cuda-bindings is a wheel of some megabytes that needs nothing
but the driver and follows CUDA's versions. A code other than success becomes an OptimizerError in CUDA's words.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt.flavour import BINDINGS

if TYPE_CHECKING:
    from contextlib import ExitStack

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
ROOM = (
    "end what else uses the GPU (nvidia-smi), build for smaller dims or batches, give its layers less (option "
    "workspace), or use a GPU with more memory"
)


def runtime() -> Any:
    """The module that calls the CUDA runtime. Raises OptimizerError when it is missing."""
    try:
        from cuda.bindings import runtime as found
    except ImportError as error:
        raise OptimizerError(f"{BINDINGS} cannot be imported: {error}", f"pip install {BINDINGS}") from None
    return found


def called(cudart: Any, what: str, result: tuple[Any, ...]) -> Any:
    """What a CUDA call returned beside its code. Raises OptimizerError with CUDA's own words."""
    code, *values = result
    if int(code) != 0:
        said = cudart.cudaGetErrorString(code)[1]
        text = said.decode() if isinstance(said, bytes) else str(said)
        if int(code) == OUT_OF_MEMORY:
            raise OptimizerError(f"CUDA refuses to {what}: {text}; {room(cudart)}", ROOM)
        raise OptimizerError(f"CUDA refuses to {what}: {text}", "check the GPU with nvidia-smi")
    return values[0] if len(values) == 1 else tuple(values)


def room(cudart: Any) -> str:
    """How much memory of the GPU is free, in words."""
    code, free, total = cudart.cudaMemGetInfo()
    if int(code) != 0:
        return "how much is free it does not say"
    return f"{free / 1e6:,.0f} of {total / 1e6:,.0f} MB of the GPU are free"


class Buffer:
    """Device memory of one tensor and pinned host memory of the same size, which grows when a larger shape comes."""

    def __init__(self, cudart: Any, stack: ExitStack) -> None:
        self._cudart, self._stack = cudart, stack
        self.size = 0
        self.device = 0  # address
        self._host = 0  # address

    def reserve(self, size: int) -> bool:
        """Make room for `size` bytes; whether the addresses have changed."""
        size = max(size, 1)  # an empty tensor, too, must have an address
        if size <= self.size:
            return False
        cuda = self._cudart
        self.device = int(called(cuda, f"reserve {size} bytes on the GPU", cuda.cudaMalloc(size)))
        self._stack.callback(cuda.cudaFree, self.device)
        self._host = int(called(cuda, f"pin {size} bytes of memory", cuda.cudaMallocHost(size)))
        self._stack.callback(cuda.cudaFreeHost, self._host)
        self.size = size
        return True

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """The pinned memory as an array; valid until the next `reserve`."""
        count = math.prod(shape) * dtype.itemsize
        raw = (ctypes.c_uint8 * count).from_address(self._host)
        found: np.ndarray = np.ndarray(shape, dtype, memoryview(raw))
        return found


class Stream:
    """One CUDA stream, with the copies, events and graphs that go through it."""

    def __init__(self, cudart: Any, device: int, stack: ExitStack) -> None:
        self._cudart = cudart
        called(cudart, f"use GPU {device}", cudart.cudaSetDevice(device))
        flags = cudart.cudaStreamNonBlocking
        self.handle = called(cudart, "create a stream", cudart.cudaStreamCreateWithFlags(flags))
        stack.callback(cudart.cudaStreamDestroy, self.handle)
        self._stack = stack

    def upload(self, buffer: Buffer, size: int) -> None:
        """Copy the first bytes of a buffer from host to device."""
        self._copy(buffer.device, buffer._host, size, self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, buffer: Buffer, size: int) -> None:
        """Copy the first bytes of a buffer from device to host."""
        self._copy(buffer._host, buffer.device, size, self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, to: int, origin: int, size: int, kind: Any) -> None:
        if size:
            cuda = self._cudart
            called(cuda, "copy between host and GPU", cuda.cudaMemcpyAsync(to, origin, size, kind, self.handle))

    def wait(self) -> None:
        """Return when everything in the stream is done."""
        called(self._cudart, "finish the inference", self._cudart.cudaStreamSynchronize(self.handle))

    def captured(self, launch: Callable[[], None]) -> Any:
        """The launches of `launch` as a graph that can be replayed; it must have run once before."""
        cuda = self._cudart
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        called(cuda, "record a CUDA graph", cuda.cudaStreamBeginCapture(self.handle, mode))
        try:
            launch()
        finally:  # also ends a recording that failed, or the stream could not be used again
            result = cuda.cudaStreamEndCapture(self.handle)
        graph = called(cuda, "record a CUDA graph", result)
        ready = called(cuda, "make a CUDA graph ready", cuda.cudaGraphInstantiate(graph, 0))
        called(cuda, "free a CUDA graph", cuda.cudaGraphDestroy(graph))
        self._stack.callback(cuda.cudaGraphExecDestroy, ready)
        return ready

    def stopwatch(self) -> Stopwatch:
        """A pair of events in this stream."""
        return Stopwatch(self._cudart, self.handle, self._stack)

    def replay(self, graph: Any) -> None:
        """Launch a graph."""
        called(self._cudart, "launch a CUDA graph", self._cudart.cudaGraphLaunch(graph, self.handle))


class Stopwatch:
    """Two events around launches: what lies between them on the GPU, without the host's launch and the copies."""

    def __init__(self, cudart: Any, stream: Any, stack: ExitStack) -> None:
        self._cudart, self._stream = cudart, stream
        self._start, self._end = (called(cudart, "create an event", cudart.cudaEventCreate()) for _ in range(2))
        for event in (self._start, self._end):
            stack.callback(cudart.cudaEventDestroy, event)

    def around(self, launch: Callable[[], None]) -> int:
        """Launch, wait until it is done, and give the nanoseconds between the events (CUDA resolves half of 1000)."""
        cuda = self._cudart
        called(cuda, "record an event", cuda.cudaEventRecord(self._start, self._stream))
        launch()
        called(cuda, "record an event", cuda.cudaEventRecord(self._end, self._stream))
        called(cuda, "finish the inference", cuda.cudaEventSynchronize(self._end))
        milliseconds: float = called(cuda, "read an event", cuda.cudaEventElapsedTime(self._start, self._end))
        return round(milliseconds * 1e6)
