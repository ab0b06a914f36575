"""What limits a kernel on this machine: its peaks, measured once and stored, and the share of them that is reached.

The roofline model: Williams, Waterman, Patterson 2009, Commun. ACM 52(4):65.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optimizer import fingerprint
from optimizer import machine as machines
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain.kernels import Kernel
from optimizer.measure.process import THREAD_VARIABLES
from optimizer.store import Store
from optimizer.values import Machine

VERSION = 2
TRIES = 3  # measurements of a machine that is always busy
FILE = "peaks.json"
TOOLS = ("onnxruntime", "openvino", "numpy")
PATIENCE = 300  # seconds
PEAK_OF = {"int8": "int8", "uint8": "int8", "bfloat16": "bf16", "float32": "f32"}


@dataclass(frozen=True)
class Peaks:
    """The machine's peaks at a number of threads: GMAC/s by type, and GB/s of memory."""

    values: Mapping[str, float]
    methods: Mapping[str, str]
    busy: bool = False  # other programs ran whenever they were measured


@dataclass(frozen=True)
class Place:
    """Where a kernel lies on the roofline."""

    bound: Literal["compute", "memory"]
    of_peak: float  # the least time that the roofline allows, as a share of the time it took


def peaks(store: Store, machine: Machine, threads: int, console: Console) -> Peaks:
    """The peaks from the store, or measured now in a fresh process.

    What was measured while other programs kept the machine busy is measured again at the next calls; the higher stays.
    """
    key = fingerprint.of_value(
        {
            "use": "peaks",
            "version": VERSION,
            "machine": machine.digest,
            "tools": {name: machines.version_of(name) for name in TOOLS},
            "threads": threads,
        }
    )
    known = _stored(store, key)
    if known is None or (known["busy"] and known["tries"] < TRIES):
        with store.lock(key), console.task(f"peaks of this machine, {threads} threads"), store.stage(key) as out:
            known = _higher(_measured(threads), _stored(store, key))
            (out / FILE).write_text(json.dumps(known, indent=1), encoding="utf-8")
            store.commit(out, key, {"use": "peaks", "format": "peaks"})
    return Peaks(known["peaks"], known["methods"], known["busy"])


def _stored(store: Store, key: str) -> dict[str, Any] | None:
    entry = store.get(key)
    if entry is None:
        return None
    found: dict[str, Any] = json.loads((entry.path / FILE).read_text(encoding="utf-8"))
    return found


def _higher(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """The higher of two measurements of each peak: whatever else ran can only have lowered them."""
    if old is None:
        return {**new, "tries": 1}
    best = {name: max(new, old, key=lambda m: m["peaks"].get(name, 0.0)) for name in {*new["peaks"], *old["peaks"]}}
    return {
        "peaks": {name: chosen["peaks"][name] for name, chosen in best.items()},
        "methods": {name: chosen["methods"][name] for name, chosen in best.items()},
        "busy": new["busy"],
        "tries": old["tries"] + 1,
    }


def _measured(threads: int) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603  # our own module
        [sys.executable, "-P", "-m", "optimizer.explain.peaks", str(threads)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)),
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise OptimizerError(f"the machine's peaks cannot be measured: {last[0]}", "optc doctor shows what is usable")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def place(kernel: Kernel, found: Peaks) -> Place | None:
    """The roofline's word on a kernel; None where it has no count, no time, or no measured peak."""
    memory = found.values.get("memory")
    if kernel.ms <= 0 or not memory or not kernel.bytes:
        return None
    moving = kernel.bytes / memory / 1e6  # ms
    rate = found.values.get(PEAK_OF.get(kernel.dtype, ""))
    if kernel.macs is None or (kernel.macs and not rate):
        return None
    computing = kernel.macs / rate / 1e6 if kernel.macs and rate else 0.0
    # Data that stayed in a cache arrives faster than memory gives it: the share may reach 1 and no more.
    return Place("compute" if computing >= moving else "memory", min(1.0, max(computing, moving) / kernel.ms))
