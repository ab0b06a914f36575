"""What this machine and this installation can do, what is missing, and what is in conflict."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from optimizer import listing, registry, store
from optimizer import machine as machines
from optimizer.console import size
from optimizer.formats import providers
from optimizer.values import Machine

Level = Literal["ok", "absent", "warning", "problem"]
OURS = "optc"
ISA = {
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "asimdhp"),
}
FEW_BYTES = 2_000_000_000
NOT_EXTRAS = ("all", "dev")  # sums of the others, and what only development needs


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it stands, and what to do about it."""

    area: str  # "machine", "target", "provider", "extra", "install", "plugin", "store"
    name: str
    level: Level
    text: str
    fix: str | None = None


def examine() -> list[Finding]:
    """Everything there is to say. A `problem` is what makes builds fail or results wrong."""
    installed = _installed()
    return [
        *_machine(machines.here()),
        *_targets(),
        *_providers(),
        *_extras(installed),
        *_conflicts(installed),
        *_runtimes(installed),
        *_plugins(),
        *_store(store.default_root()),
    ]


def healthy(findings: list[Finding]) -> bool:
    """Whether a build can succeed here: some target is usable and nothing is in conflict."""
    usable = any(f.area == "target" and f.level == "ok" for f in findings)
    return usable and not any(f.level == "problem" for f in findings)


def _machine(here: Machine) -> Iterator[Finding]:
    yield Finding("machine", "cpu", "ok", f"{here.cpu}, {here.architecture}, {here.cores} usable cores")
    yield Finding("machine", "memory", "ok" if here.memory else "warning", size(here.memory))
    for kind, flags in ISA.items():
        have = [flag for flag in flags if flag in here.isa]
        if have:
            yield Finding("machine", kind, "ok", f"fast instructions: {', '.join(have)}")
        elif kind == "int8":
            yield Finding(
                "machine", kind, "warning", f"none of {', '.join(flags)}", "INT8 models may be no faster than FP32 here"
            )
        else:
            yield Finding("machine", kind, "absent", f"no {kind} instructions: such models are computed in float32")


def _targets() -> Iterator[Finding]:
    for item in listing.items("targets"):
        if item.trouble:
            reason, _, fix = item.trouble.partition("; ")
            yield Finding("target", item.name, "absent", reason, fix or None)
        elif item.pending:
            reason, _, fix = item.pending.partition("; ")
            yield Finding("target", item.name, "warning", f"builds here, does not run: {reason}", fix or None)
        else:
            yield Finding("target", item.name, "ok", item.summary)


def _providers() -> Iterator[Finding]:
    """What ONNX Runtime can run on beside the CPU."""
    for name, provider in providers.PROVIDERS.items():
        reason, _, fix = (providers.lacking(name, 0) or "").partition("; ")
        text = reason or f"ONNX Runtime's {provider.title} provider: an option of the target onnxruntime"
        yield Finding("provider", name, "absent" if reason else "ok", text, fix or None)


def _installed() -> dict[str, str]:
    """Normalized name -> version of every distribution."""
    found = ((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())
    return {canonicalize_name(name): version for name, version in found if name}


def _requirements(distribution: str, extra: str = "") -> Iterator[Requirement]:
    """The requirements that hold on this platform; with an extra, only those that it adds."""
    for text in importlib.metadata.requires(distribution) or []:
        need = Requirement(text)
        asked = "extra" in str(need.marker or "")
        if asked == bool(extra) and _applies(need, extra):
            yield need


def _applies(need: Requirement, extra: str) -> bool:
    try:
        return need.marker is None or need.marker.evaluate({"extra": extra})
    except UndefinedEnvironmentName:
        return False


def _extras(installed: dict[str, str]) -> Iterator[Finding]:
    """Which optional parts are installed whole."""
    for extra in importlib.metadata.metadata(OURS).get_all("Provides-Extra") or []:
        if extra in NOT_EXTRAS:
            continue
        needs = [need.name for need in _requirements(OURS, extra)]
        missing = [name for name in needs if canonicalize_name(name) not in installed]
        if missing:
            text = f"lacks {', '.join(missing)}" if len(missing) < len(needs) else "not installed"
            yield Finding("extra", extra, "absent", text, f"pip install '{OURS}[{extra}]'")
        else:
            yield Finding("extra", extra, "ok", ", ".join(f"{n} {installed[canonicalize_name(n)]}" for n in needs))


def _conflicts(installed: dict[str, str]) -> Iterator[Finding]:
    """Versions that a package of ours, or one below it, does not accept."""
    clashes = list(_clashes(installed))
    yield from clashes
    if not clashes:
        yield Finding("install", "versions", "ok", "every installed package has the versions that it asks for")


def _clashes(installed: dict[str, str]) -> Iterator[Finding]:
    extras = importlib.metadata.metadata(OURS).get_all("Provides-Extra") or []
    queue = [(OURS, need) for extra in ("", *extras) for need in _requirements(OURS, extra)]
    optional = {need.name for extra in extras for need in _requirements(OURS, extra)}
    seen = set()
    while queue:
        parent, need = queue.pop(0)
        name = canonicalize_name(need.name)
        if (parent, name) in seen or name == OURS:
            continue
        seen.add((parent, name))
        name = next((canonicalize_name(b) for b in machines.BUILDS.get(name, ()) if b in installed), name)
        if name in installed:
            if not need.specifier.contains(installed[name], prereleases=True):
                text = f"{parent} needs {need.name}{need.specifier}, {installed[name]} is installed"
                yield Finding("install", need.name, "problem", text, f"pip install '{need.name}{need.specifier}'")
            queue += [(need.name, below) for below in _requirements(name)]
        elif parent != OURS or need.name not in optional:
            yield Finding(
                "install", need.name, "problem", f"{parent} needs it, it is not installed", f"pip install '{need}'"
            )


def _runtimes(installed: dict[str, str]) -> Iterator[Finding]:
    """Two distributions of ONNX Runtime write the same files: the last one wins, often without its accelerator."""
    found = sorted(name for name in installed if name.split("-")[0] == "onnxruntime" and _is_runtime(name))
    if len(found) > 1:
        yield Finding(
            "install",
            "onnxruntime",
            "problem",
            f"{' and '.join(found)} are both installed and overwrite each other's files",
            f"pip uninstall {' '.join(found)}, then pip install the one you want",
        )


def _is_runtime(name: str) -> bool:
    # onnxruntime-genai, onnxruntime-extensions and -tools are packages of their own.
    return name.removeprefix("onnxruntime").strip("-") not in ("genai", "extensions", "tools")


def _plugins() -> Iterator[Finding]:
    for kind in registry.KINDS:
        for entry in registry.entries(kind).values():
            if entry.broken:
                label = f"{registry.SINGULAR[kind]} {entry.name}"
                yield Finding("plugin", label, "warning", entry.broken, f"repair or uninstall {entry.module}")


def _store(root: Path) -> Iterator[Finding]:
    """Whether artifacts can be kept. Nothing is created."""
    folder = next(p for p in (root, *root.parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Finding("store", str(root), "problem", f"{folder} is not a writable folder", "set OPTC_STORE to one")
        return
    free = shutil.disk_usage(folder).free
    few = free < FEW_BYTES
    yield Finding(
        "store",
        str(root),
        "warning" if few else "ok",
        f"writable, {size(free)} free",
        "optc cache trim, or set OPTC_STORE to a bigger disk" if few else None,
    )
