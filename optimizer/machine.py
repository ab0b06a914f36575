"""What this machine is: CPU, instruction sets, memory, and the versions of installed distributions."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from pathlib import Path

from optimizer import cuda, fingerprint
from optimizer.values import Machine

ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


@functools.cache
def here() -> Machine:
    """This machine, read from the operating system; unknown parts are named so, never guessed."""
    found = cuda.survey()
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    facts = {
        "cpu": info.get("model name") or platform.processor() or "unknown CPU",
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "isa": tuple(flag for flag in ISA_FLAGS if flag in flags),
        "memory": _memory(),
        "os": f"{platform.system()} {platform.release()}",
    }
    if found.gpus:  # digests of machines without any stay what they were
        facts["accelerators"] = tuple(f"{gpu}, driver {found.driver}" for gpu in found.gpus)
    return Machine(
        **facts,  # type: ignore[arg-type]  # a mapping of mixed field types
        python=platform.python_version(),
        digest=fingerprint.of_value(facts)[:16],
    )


def isa_digest(machine: Machine) -> str:
    """Digest of what decides numerics: architecture and instruction sets."""
    return fingerprint.of_value([machine.architecture, machine.isa])[:16]


BUILDS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}  # distributions that bring the same package


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution or of another build of it, or None. Reads metadata, imports nothing."""
    return next(filter(None, map(exactly, BUILDS.get(distribution, (distribution,)))), None)


@functools.cache
def exactly(distribution: str) -> str | None:
    """The installed version of the distribution of this very name, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    facts: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
