"""What else the machine did while something was measured: foreign load, stolen time, clock frequency, throttling."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from optimizer import cuda

CPUINFO = Path("/proc/cpuinfo")
COUNTERS = "cpu*/thermal_throttle/*_throttle_count"
SYSFS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup/cpu.stat")


@dataclass(frozen=True)
class Snapshot:
    """Counters of the whole machine at one moment; None where the system keeps none."""

    at: float
    busy: float  # CPU seconds of all processes on all cores
    stolen: float | None  # CPU seconds that a hypervisor gave to others
    ours: float  # CPU seconds of this process
    mhz: tuple[float, ...]  # of each core
    throttled: int | None  # how often a core was slowed by heat, or this control group by its quota
    gpu_mhz: tuple[int, ...] = ()  # of each GPU's multiprocessors


def snapshot() -> Snapshot:
    """The counters now."""
    times = psutil.cpu_times()
    parts = ("user", "nice", "system", "irq", "softirq")
    mine = psutil.Process().cpu_times()
    return Snapshot(
        time.monotonic(),
        sum(getattr(times, name, 0.0) for name in parts),
        getattr(times, "steal", None),
        mine.user + mine.system,
        _mhz(),
        _throttled(),
        cuda.clocks(),
    )


def spent_by(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used since they started; those that are gone count nothing."""
    total = 0.0
    for pid in pids:
        try:
            used = psutil.Process(pid).cpu_times()
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
        total += used.user + used.system
    return total


def between(start: Snapshot, end: Snapshot, spent: float) -> dict[str, Any]:
    """What happened between two snapshots, when our own workers used `spent` CPU seconds meanwhile.

    `foreign_load`: cores that other processes kept busy on average. `steal`: share of the machine's time that the
    hypervisor took. `mhz`: the lowest and highest core frequency seen. `throttled`: whether heat or a quota slowed
    a core. None stands for what this system does not tell. `gpu_mhz`: of each GPU at the end, when it has just worked.
    """
    seconds = max(end.at - start.at, 1e-9)
    foreign = end.busy - start.busy - (end.ours - start.ours) - spent
    steal = None
    if start.stolen is not None and end.stolen is not None:
        steal = round(max(0.0, end.stolen - start.stolen) / (seconds * (os.cpu_count() or 1)), 4)
    clocks = (*start.mhz, *end.mhz)
    throttled = None
    if start.throttled is not None and end.throttled is not None:
        throttled = end.throttled > start.throttled
    return {
        "foreign_load": round(max(0.0, foreign) / seconds, 2),
        "steal": steal,
        "mhz": [min(clocks), max(clocks)] if clocks else None,
        "throttled": throttled,
        **({"gpu_mhz": list(end.gpu_mhz)} if end.gpu_mhz else {}),
    }


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The conditions of several restarts as one: mean loads, the widest range of clocks, any throttling."""
    if not parts:
        return {}
    loads = [p["foreign_load"] for p in parts]
    steals = [p["steal"] for p in parts if p["steal"] is not None]
    clocks = [mhz for p in parts if p["mhz"] for mhz in p["mhz"]]
    throttled = [p["throttled"] for p in parts if p["throttled"] is not None]
    gpus = [mhz for p in parts for mhz in p.get("gpu_mhz", ())]
    return {
        "foreign_load": round(sum(loads) / len(loads), 2),
        "steal": round(sum(steals) / len(steals), 4) if steals else None,
        "mhz": [min(clocks), max(clocks)] if clocks else None,
        "throttled": any(throttled) if throttled else None,
        **({"gpu_mhz": [min(gpus), max(gpus)]} if gpus else {}),
    }


def _mhz() -> tuple[float, ...]:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ()
    return tuple(float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))


def _throttled() -> int | None:
    counts = [int(text) for path in SYSFS.glob(COUNTERS) if (text := _read(path)).isdigit()]
    quota = [line.split()[1] for line in _read(CGROUP).splitlines() if line.startswith("nr_throttled")]
    found = [*counts, *map(int, quota)]
    return sum(found) if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
