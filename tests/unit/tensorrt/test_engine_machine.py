"""What a machine lacks to build or run engines, and which engines fit it: said exactly, with the way to get it."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from engine_lab import ADA, H100, machine_with

from optimizer import cuda, machine
from optimizer.formats.tensorrt import build, engine, facts
from optimizer.formats.tensorrt.flavour import RTX, TENSORRT, absent, built_for, supported, unrunnable
from optimizer.measure import conditions
from optimizer.targets import tensorrt
from optimizer.targets import tensorrt_rtx as rtx

INSTALLED = {"tensorrt-rtx-cu13": "1.7.1", "tensorrt": "11.0.0", "cuda-bindings": "13.0.0"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = dict(INSTALLED)
    monkeypatch.setattr(machine, "version_of", found.get)
    return found


def test_the_missing_library_comes_first(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, ADA)
    assert absent(RTX) is absent(TENSORRT) is None
    installed.clear()
    assert str(absent(RTX)) == "TensorRT-RTX is not installed; pip install 'optc[tensorrt-rtx]'"
    assert str(absent(TENSORRT)).startswith("TensorRT is not installed; pip install 'optc[tensorrt]'")
    assert RTX.tools() == ("tensorrt-rtx-cu13",)


def test_without_a_gpu_only_rtx_builds_and_neither_runs(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch, reason="this machine has no NVIDIA driver; install one")
    assert absent(RTX) is None
    assert absent(TENSORRT) == "TensorRT runs on an NVIDIA GPU: this machine has no NVIDIA driver; install one"
    assert "no NVIDIA driver" in str(unrunnable(RTX))
    assert built_for(TENSORRT) == {}


def test_a_gpu_that_rtx_does_not_know_is_named(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, H100)
    reason = str(unrunnable(RTX))
    assert reason.startswith("TensorRT-RTX does not run on NVIDIA H100 (compute capability 9.0)")
    assert "onnxruntime with a CUDA provider" in reason
    assert unrunnable(TENSORRT) is None
    assert built_for(TENSORRT) == {"gpu": "NVIDIA H100", "capability": "9.0", "driver": "580.65.06, CUDA 13.0"}
    assert built_for(RTX) == {}


def test_the_way_to_the_memory_of_the_gpu_is_asked_for_last(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch, ADA)
    assert unrunnable(RTX) is None
    del installed["cuda-bindings"]
    assert "pip install cuda-bindings" in str(unrunnable(RTX))


@pytest.mark.parametrize(
    ("capability", "rtx", "plain"),
    [("7.0", False, False), ("7.5", True, True), ("9.0", False, True), ("12.0", True, True), ("13.1", True, True)],
)
def test_compute_capabilities_of_both(capability: str, rtx: bool, plain: bool) -> None:
    assert (supported(RTX, capability), supported(TENSORRT, capability)) == (rtx, plain)


def test_types_that_a_compute_capability_lacks_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(*capabilities: str) -> tuple[object, ...]:
        found = rtx.schemed(rtx.Options.model_validate({"capabilities": capabilities}))
        return found.target, found.static, found.half

    assert rtx.schemed(rtx.Options()) is not None and offered() == offered("8.9", "12.0")
    assert offered("8.9") == ("tensorrt-rtx", ("int8", "fp8"), ("fp16", "bf16"))
    assert offered("12.0", "8.6") == ("tensorrt-rtx for compute capability 8.6", ("int8",), ("fp16", "bf16"))
    assert offered("7.5", "8.9") == ("tensorrt-rtx for compute capability 7.5", ("int8",), ("fp16",))
    machine_with(monkeypatch, dataclasses.replace(ADA, capability="7.5"))
    assert tensorrt.schemed(tensorrt.Options()).half == ("fp16",)
    machine_with(monkeypatch, ADA)
    assert tensorrt.schemed(tensorrt.Options()) == tensorrt.SCHEME


def made(**changed: Any) -> facts.Facts:
    plan = facts.Plan(size=1, sha256="0" * 64)
    given = {"flavour": "tensorrt-rtx", "version": "1.7.1", "distribution": "d", "capabilities": ("8.6", "8.9")}
    return facts.Facts.model_validate({**given, "newer": False, "plan": plan, **changed})


def on(gpu: str) -> facts.BuiltOn:
    return facts.BuiltOn(gpu=gpu, capability="8.9", driver="13.0")


NEWER = cuda.Gpu(0, "NVIDIA RTX 5090", "12.0", 1, 1, 1)
PLAIN = {"flavour": "tensorrt", "version": "10.9.0", "capabilities": ("8.9",)}


@pytest.mark.parametrize(
    ("changed", "version", "gpu", "reason"),
    [
        ({}, "1.7.1", ADA, None),
        ({}, "1.7.1", None, None),
        ({}, "1.8.0", ADA, "it was built by TensorRT-RTX 1.7.1, 1.8.0 is installed"),
        ({}, "1.7.1", H100, "it was built for compute capability 8.6, 8.9, NVIDIA H100 has 9.0"),
        ({}, "1.7.1", NEWER, "NVIDIA RTX 5090 has 12.0"),
        ({"newer": True}, "1.7.1", NEWER, None),
        ({"flavour": "tensorrt"}, "1.7.1", ADA, "it was built by TensorRT, not by TensorRT-RTX"),
    ],
)
def test_an_engine_of_another_version_or_gpu(
    changed: dict[str, Any], version: str, gpu: cuda.Gpu | None, reason: str | None
) -> None:
    found = engine.misfit(made(**changed), RTX, version, gpu)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("changed", "version", "gpu", "reason"),
    [
        ({"built_on": on(ADA.name)}, "10.9.0", ADA, None),
        ({"built_on": on("NVIDIA L4")}, "10.9.0", ADA, "its kernels were chosen on NVIDIA L4, this is NVIDIA RTX 4090"),
        ({"built_on": on("NVIDIA L4"), "hardware": "same-compute-capability"}, "10.9.0", ADA, None),
        ({"built_on": on("NVIDIA L4"), "hardware": "ampere+"}, "10.9.0", H100, None),
        ({"version_compatible": True}, "10.12.0", ADA, None),
        ({"version_compatible": True}, "10.8.0", ADA, "10.8.0 is installed"),
        ({"version_compatible": True}, "11.0.0", ADA, "11.0.0 is installed"),
    ],
)
def test_what_plain_tensorrt_engines_may_be_built_for(
    changed: dict[str, Any], version: str, gpu: cuda.Gpu, reason: str | None
) -> None:
    found = engine.misfit(made(**PLAIN, **changed), TENSORRT, version, gpu)
    assert found is None if reason is None else reason in str(found)


class Driver:
    """libcuda as ctypes shows it: every call fills what it is given and returns a code."""

    def __init__(self, start: int = 0, count: int = 1) -> None:
        self.start, self.count = start, count

    def cuInit(self, flags: int) -> int:
        return self.start

    def cuDriverGetVersion(self, number: Any) -> int:
        number._obj.value = 13000
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = b"NVIDIA RTX 4090"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: ctypes.c_int) -> int:
        memory._obj.value = 24 << 30
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = {75: 8, 76: 9, 13: 2520000, 36: 10501000}[attribute]
        return 0


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "this machine has no NVIDIA driver"),
        (Driver(start=100), "its driver finds no GPU"),
        (Driver(count=0), "its driver finds no GPU"),
        (Driver(start=803), "its driver does not start: the driver is older than its libraries"),
        (Driver(start=77), "its driver does not start: CUDA error 77"),
    ],
)
def test_the_survey_says_why_there_is_no_gpu(
    driver: Driver | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_load", lambda: driver)
    assert str(cuda.survey.__wrapped__().reason).startswith(reason)


class Management:
    """libnvidia-ml of a machine with two GPUs, of which one does not tell its clock."""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:
        device._obj.value = index + 1
        return 0

    def nvmlDeviceGetClockInfo(self, device: ctypes.c_void_p, kind: int, mhz: Any) -> int:
        assert kind == 1, "of the multiprocessors"
        mhz._obj.value = 2505
        return 0 if device.value == 1 else 3


def test_clocks_are_those_of_now_and_a_record_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_management", Management)
    assert cuda.clocks() == (2505,)
    before, after = conditions.snapshot(), conditions.snapshot()
    found = conditions.between(before, after, 0.0)
    assert found["gpu_mhz"] == [2505]
    assert conditions.joined([found, found | {"gpu_mhz": [1980]}])["gpu_mhz"] == [1980, 2505]
    monkeypatch.setattr(cuda, "_management", lambda: None)
    assert cuda.clocks() == ()
    assert "gpu_mhz" not in conditions.joined([conditions.between(conditions.snapshot(), conditions.snapshot(), 0.0)])


def test_the_survey_describes_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_load", Driver)
    monkeypatch.setattr(cuda, "VERSION", tmp_path / "version")
    assert cuda.survey.__wrapped__() == cuda.Survey((ADA,), "CUDA 13.0", None)
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)"
    (tmp_path / "version").write_text(text)
    assert cuda.survey.__wrapped__().driver == "580.65.06, CUDA 13.0"


def test_a_record_names_the_gpu_and_machines_without_one_keep_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = machine.here.__wrapped__()
    machine_with(monkeypatch, ADA)
    found = machine.here.__wrapped__()
    assert found.accelerators == (
        "NVIDIA RTX 4090, compute capability 8.9, 26 GB, up to 2520 MHz, memory 10501 MHz, driver 580.65.06, CUDA 13.0",
    )
    assert found.digest != plain.digest
    machine_with(monkeypatch)
    assert machine.here.__wrapped__() == dataclasses.replace(plain, accelerators=())


class Times:
    """A timing cache: what was timed, by name."""

    def __init__(self, data: bytes) -> None:
        self.known = set(data.decode().split())

    def combine(self, other: Times, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.known |= other.known
        return True

    def serialize(self) -> bytes:
        return " ".join(sorted(self.known)).encode()


class Config:
    """A builder's configuration with a timing cache, as plain TensorRT has."""

    def create_timing_cache(self, data: bytes) -> Times:
        return Times(data)

    def set_timing_cache(self, cache: Times, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Times:
        return self.cache


def test_times_of_kernels_are_kept_and_those_of_a_build_beside_are_not_lost(
    tmp_path: Path, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch, ADA)
    first, second = Config(), Config()
    with build._timing_cache(TENSORRT, first, tmp_path):
        with build._timing_cache(TENSORRT, second, tmp_path):
            second.cache.known.add("b")
        first.cache.known.add("a")
    (kept,) = tmp_path.glob("*.timing")
    assert kept.read_bytes() == b"a b"
    third = Config()
    with build._timing_cache(TENSORRT, third, tmp_path):
        assert third.cache.known == {"a", "b"}
    machine_with(monkeypatch, H100)
    with build._timing_cache(TENSORRT, third, tmp_path):
        assert third.cache.known == set(), "times of another GPU"
    with build._timing_cache(RTX, object(), tmp_path / "none"):
        assert not (tmp_path / "none").exists()
