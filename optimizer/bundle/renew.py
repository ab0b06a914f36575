"""A bundle made again from another: with the measurements that it waited for, or with an engine for another machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimizer import formats, machine, registry, schema
from optimizer.bundle import closing, outputs, samples
from optimizer.bundle.manifest import Manifest, environment
from optimizer.bundle.replay import artifact
from optimizer.errors import OptimizerError
from optimizer.protocols import Context
from optimizer.values import Artifact


def rebuilt(folder: Path, manifest: Manifest, changes: Mapping[str, Any], out: Path) -> tuple[Path, Path]:
    """The bundle in `folder`, checked and readable, with its model built again here from the ONNX model in it.

    `changes` are options of the target in place of those of the bundle. What was measured belonged to the old files, so
    the new bundle waits to be measured. Raises OptimizerError where the target builds nothing, or cannot build here.
    """
    plugin = registry.load("targets", manifest.target)
    if not hasattr(plugin, "oracle") or plugin.PRODUCES in plugin.CONSUMES:
        raise OptimizerError(
            f"{manifest.bundle}: what runs on {manifest.target} is built for no machine in particular",
            "it runs elsewhere as it is: optc verify says what differs there",
        )
    reason = plugin.probe()
    if reason:
        raise OptimizerError(f"the target '{manifest.target}' is not usable here: {reason}", "optc doctor shows more")
    where = f"{manifest.bundle}: runtime.options"
    options = schema.parse(plugin.Options, {**manifest.runtime.options, **changes}, where)
    source = plugin.oracle(artifact(manifest, folder))
    given = [samples.read(folder / s.inputs) for s in manifest.samples]
    with closing.begun(out, manifest.bundle) as fresh:
        _carry(folder, manifest, fresh)
        (fresh / "model").mkdir()
        plugin.run(source, options, Context(samples=given, synthetic=False), fresh / "model")
        signature = formats.read(manifest.format, fresh / "model")
        size = formats.size(manifest.format, fresh / "model")
        made = Artifact(manifest.format, fresh / "model", manifest.digest, "", signature, size)
        told = outputs.of_oracle(plugin, options, made, given)
        _write_expected(fresh, manifest, told.outputs)
        distribution = manifest.runtime.distribution
        runtime = manifest.runtime.model_copy(
            update={
                "options": options.model_dump(mode="json"),
                "precision": told.precision,
                "version": machine.version_of(distribution) or manifest.runtime.version,
                "recommended": (),
            }
        )
        draft = manifest.model_copy(
            update={
                "runtime": runtime,
                "environment": environment(machine.here()),
                "measurements": (),
                "verdicts": (),
                "accepted": (),
                "tolerance": told.tolerance,
                "pending": "it was built again and has not been measured since",
            }
        )
        return closing.deliver(fresh, draft, out)


def measured(
    folder: Path, manifest: Manifest, found: Mapping[str, Any], expected: Sequence[Mapping[str, np.ndarray]], out: Path
) -> tuple[Path, Path]:
    """The bundle in `folder` with what was found where it runs: `found` are fields of its manifest.

    `expected` are the outputs of its own model for its samples, in place of those of the model that it was built from.
    """
    with closing.begun(out, manifest.bundle) as fresh:
        _carry(folder, manifest, fresh)
        shutil.copytree(folder / "model", fresh / "model")
        _write_expected(fresh, manifest, expected)
        draft = manifest.model_copy(update={**found, "environment": environment(machine.here()), "pending": None})
        return closing.deliver(fresh, draft, out)


def _carry(folder: Path, manifest: Manifest, fresh: Path) -> None:
    """Copy all files that stay: the preprocessing, and the inputs of the samples."""
    expected = {s.expected for s in manifest.samples}
    for name in manifest.files:
        if not name.startswith("model/") and name not in expected:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, fresh / name)


def _write_expected(fresh: Path, manifest: Manifest, expected: Sequence[Mapping[str, np.ndarray]]) -> None:
    for sample, arrays in zip(manifest.samples, expected, strict=True):
        samples.write(fresh / sample.expected, arrays)
