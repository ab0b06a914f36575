"""Runs a bundle's samples in the target's own runtime and compares with the outputs that were packed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer import equivalence, registry, schema
from optimizer.bundle import runner, samples
from optimizer.bundle.manifest import Manifest
from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.values import Artifact


@dataclass(frozen=True)
class Replayed:
    """The samples gave the packed outputs, within the tolerance."""

    count: int
    max_error: float  # relative to the largest value of the output
    precision: str  # what really ran here
    seconds: float
    findings: tuple[str, ...]


def replay(manifest: Manifest, folder: Path) -> Replayed:
    """Open the model of a checked bundle and run its samples.

    Raises OptimizerError when the runtime is missing or an output lies outside the tolerance.
    """
    runtime = manifest.runtime
    start = time.perf_counter()
    runner.runner(manifest.target)  # only runtimes that run data: never a format that would run the bundle's code
    plugin = registry.load("targets", manifest.target)
    if manifest.format != plugin.PRODUCES:
        raise OptimizerError(
            f"{manifest.bundle}: the target '{manifest.target}' does not open the format '{manifest.format}'",
            "do not use the bundle; get it again from where it was built",
        )
    reason = plugin.probe()
    if reason:
        raise OptimizerError(
            f"the bytes are right, but the samples cannot run here: {reason}",
            f"pip install {runtime.distribution}=={runtime.version}, or check the bytes only: optc verify --no-run",
        )
    options = schema.parse(plugin.Options, runtime.options, f"{manifest.bundle}: runtime.options")
    elsewhere = registry.pending(plugin, options)
    if elsewhere:
        raise OptimizerError(
            f"the bytes are right, but the samples cannot run here: {elsewhere}",
            "check the bytes only: optc verify --no-run",
        )
    given = [samples.read(folder / s.inputs) for s in manifest.samples]
    expected = [samples.read(folder / s.expected) for s in manifest.samples]
    _require_inputs(manifest, given)
    with plugin.open(artifact(manifest, folder), options) as session:
        found = equivalence.run_all(session, given)
        precision = session.precision
    check = equivalence.compare(expected, found, given, manifest.tolerance, False)
    if check.outcome == "fail":
        raise OptimizerError(
            f"{manifest.bundle}: its samples do not give the packed outputs here: {check.reason}",
            "this machine or runtime computes differently: run the gates again here before using it",
        )
    findings = () if precision == runtime.precision else (f"runs as {precision} here; measured as {runtime.precision}",)
    return Replayed(len(given), check.max_error, precision, time.perf_counter() - start, findings)


def _require_inputs(manifest: Manifest, given: Sequence[Feeds]) -> None:
    wanted = {t.name for t in manifest.signature.inputs}
    for sample, feeds in zip(manifest.samples, given, strict=True):
        if set(feeds) != wanted:
            raise OptimizerError(
                f"{sample.inputs} holds {', '.join(feeds) or 'nothing'}, the model takes {', '.join(sorted(wanted))}",
                "do not use the bundle; get it again from where it was built",
            )


def artifact(manifest: Manifest, folder: Path) -> Artifact:
    """The model of a checked bundle whose files lie in `folder`."""
    size = sum(r.size for name, r in manifest.files.items() if name.startswith("model/"))
    return Artifact(manifest.format, folder / "model", manifest.digest, manifest.digest, manifest.signature, size)
