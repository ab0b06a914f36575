"""What NVIDIA hardware is here, asked of the driver itself: no library of CUDA is needed to say what is missing."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MANAGEMENT = ("libnvidia-ml.so.1", "nvml.dll")  # comes with the driver
SM_CLOCK = 1  # nvmlClockType_t, NVML API
DRIVERS = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
SUCCESS, NO_DEVICE = 0, 100
MAJOR, MINOR, CLOCK, MEMORY_CLOCK = 75, 76, 13, 36  # CUdevice_attribute, CUDA driver API
VERSION = Path("/proc/driver/nvidia/version")  # written by the kernel's part of the driver
ERRORS = {
    3: "the driver is not initialized",
    34: "the driver is a stub without a GPU",
    100: "no device",
    101: "an invalid device",
    803: "the driver is older than its libraries",
    804: "this container needs a newer driver",
    999: "an unknown error, often a driver that was updated without a restart",
}


@dataclass(frozen=True)
class Gpu:
    """One device as the driver describes it."""

    index: int
    name: str
    capability: str  # "8.9"
    memory: int  # bytes
    clock: int  # kHz, the highest
    memory_clock: int  # kHz, the highest

    def __str__(self) -> str:
        clocks = f"up to {self.clock // 1000} MHz, memory {self.memory_clock // 1000} MHz"
        return f"{self.name}, compute capability {self.capability}, {self.memory / 1e9:.0f} GB, {clocks}"


@dataclass(frozen=True)
class Survey:
    """The devices of this machine, or why there are none."""

    gpus: tuple[Gpu, ...]
    driver: str | None  # its version and the newest CUDA that it speaks, such as "580.65.06, CUDA 13.0"
    reason: str | None


@functools.cache
def survey() -> Survey:
    """Look once: the driver, then its devices. Never raises; the reason says what to do."""
    driver = _load()
    if driver is None:
        return Survey((), None, "this machine has no NVIDIA driver; install one, or run where a GPU is")
    code = driver.cuInit(0)
    version = _driver_version(driver)
    if code not in (SUCCESS, NO_DEVICE):
        return Survey((), version, f"its driver does not start: {ERRORS.get(code, f'CUDA error {code}')}")
    gpus = tuple(_devices(driver)) if code == SUCCESS else ()
    if not gpus:
        return Survey((), version, "its driver finds no GPU; check nvidia-smi, and CUDA_VISIBLE_DEVICES")
    return Survey(gpus, version, None)


def clocks() -> tuple[int, ...]:
    """MHz at which the multiprocessors of each GPU run now; empty where the driver's management library is not."""
    library = _management()
    if library is None:
        return ()
    count, found = ctypes.c_uint(), []
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for index in range(count.value):
        device, mhz = ctypes.c_void_p(), ctypes.c_uint()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != SUCCESS:
            continue
        if library.nvmlDeviceGetClockInfo(device, SM_CLOCK, ctypes.byref(mhz)) == SUCCESS:
            found.append(mhz.value)
    return tuple(found)


@functools.cache
def _management() -> ctypes.CDLL | None:
    library = _load(MANAGEMENT)
    return library if library is not None and library.nvmlInit_v2() == SUCCESS else None


def _load(names: tuple[str, ...] = DRIVERS) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _driver_version(driver: ctypes.CDLL) -> str | None:
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != SUCCESS:
        return None
    cuda = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    try:
        own = re.search(r"\s(\d+\.\d+[.\d]*)\s", VERSION.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return cuda
    return f"{own[1]}, {cuda}" if own else cuda


def _devices(driver: ctypes.CDLL) -> Iterator[Gpu]:
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    for index in range(count.value):
        device = ctypes.c_int()
        if driver.cuDeviceGet(ctypes.byref(device), index) != SUCCESS:
            continue
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        major, minor, clock, memory_clock = (_attribute(driver, a, device) for a in (MAJOR, MINOR, CLOCK, MEMORY_CLOCK))
        yield Gpu(index, name.value.decode(), f"{major}.{minor}", memory.value, clock, memory_clock)


def _attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value
