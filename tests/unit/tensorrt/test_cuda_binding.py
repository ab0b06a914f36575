"""What the session asks of cuda-bindings exists there and takes these arguments: the real module, without a driver.

Each call goes to the real function, which says that there is no driver once it has taken its arguments; what it would
have returned is made up here, in the module's own types.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gpu_stand_in
import numpy as np
import pytest

from optimizer.formats.tensorrt import device

NO_DRIVER = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice")


class Driverless:
    """The module `real`, all of whose calls are made and then taken for successful."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.called: set[str] = set()
        self.block = ctypes.create_string_buffer(64)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            code, *_ = found(*arguments)
            assert code.name in NO_DRIVER, f"{name}{arguments} gives {code!r}"
            self.called.add(name)
            return self.real.cudaError_t.cudaSuccess, *self.made(name)

        return call

    def made(self, name: str) -> tuple[Any, ...]:
        address, real = ctypes.addressof(self.block), self.real
        return {
            "cudaMalloc": (address,), "cudaMallocHost": (address,), "cudaMemGetInfo": (1, 2),
            "cudaStreamCreateWithFlags": (real.cudaStream_t(7),), "cudaEventCreate": (real.cudaEvent_t(8),),
            "cudaEventElapsedTime": (0.5,), "cudaStreamEndCapture": (real.cudaGraph_t(9),),
            "cudaGraphInstantiate": (real.cudaGraphExec_t(10),),
        }.get(name, ())  # fmt: skip


@pytest.fixture
def cuda() -> Iterator[Driverless]:
    real = pytest.importorskip("cuda.bindings.runtime")
    if real.cudaGetDeviceCount()[0].name not in NO_DRIVER:
        pytest.skip("there is a GPU here, on which handles that were made up must not be used")
    yield Driverless(real)


def test_every_call_of_the_session_is_one_that_the_real_module_takes(cuda: Driverless) -> None:
    with ExitStack() as stack:
        stream = device.Stream(cuda, 0, stack)
        buffer = device.Buffer(cuda, stack)
        assert buffer.reserve(64)
        assert buffer.host((4, 4), np.dtype(np.float32)).shape == (4, 4)
        stream.upload(buffer, 64)
        stream.download(buffer, 64)
        stream.replay(stream.captured(lambda: None))
        assert stream.stopwatch().around(lambda: None) == 500_000
        stream.wait()
        assert int(stream.handle) == 7, "which TensorRT takes as a number"
        assert device.room(cuda) == "0 of 0 MB of the GPU are free"
    written = set(re.findall(r"cuda(?:rt)?\.(cuda[A-Z]\w+)", Path(device.__file__).read_text(encoding="utf-8")))
    functions = {name for name in written if not isinstance(getattr(cuda.real, name), int | type)}
    assert functions - {"cudaGetErrorString"} == cuda.called


def test_an_error_is_told_in_its_words(cuda: Driverless) -> None:
    with pytest.raises(device.OptimizerError, match="CUDA refuses to use GPU 0: CUDA driver version is insufficient"):
        device.called(cuda.real, "use GPU 0", cuda.real.cudaSetDevice(0))


@pytest.mark.parametrize(
    ("stand_in", "interface"),
    [
        (gpu_stand_in.Context, "IExecutionContext"),
        (gpu_stand_in.Engine, "ICudaEngine"),
        (gpu_stand_in.Config, "IRuntimeConfig"),
    ],
)
def test_the_stand_in_has_nothing_that_the_library_lacks(stand_in: type, interface: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    promised = {name for name in vars(stand_in) if not name.startswith("_")}
    assert promised and promised <= set(dir(getattr(trt, interface)))
    for name in ("serialize", "deserialize"):
        assert hasattr(trt.IRuntimeCache, name)
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None and trt.LayerInformationFormat.ONELINE is not None
    assert hasattr(trt.ICudaEngine, "device_memory_size_v2") and trt.nptype(trt.DataType.HALF) == np.float16
