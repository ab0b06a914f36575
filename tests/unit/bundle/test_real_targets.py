"""The real runtimes: compile, pack, verify, and run.py in a process of its own gives what the target's session gave."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_lab import SAMPLES, artifact, run

from optimizer import bundle, fingerprint, registry
from optimizer.bundle.runner import RUNNERS
from optimizer.protocols import Context
from optimizer.values import Artifact


def compiled(target: str, folder: Path) -> Artifact:
    """The tiny model as the target's own files."""
    plugin, source = registry.load("targets", target), artifact(folder / "source")
    (folder / "compiled").mkdir()
    plugin.run(source, plugin.Options(), Context(), folder / "compiled")
    names = [p.name for p in fingerprint.files_below(folder / "compiled")]
    files = {n: [(folder / "compiled" / n).stat().st_size, fingerprint.of_file(folder / "compiled" / n)] for n in names}
    return dataclasses.replace(
        source, format=plugin.PRODUCES, path=folder / "compiled", digest=fingerprint.of_value(files)
    )


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("onnxruntime", {}),
        ("onnxruntime", {"threads": 1}),
        ("openvino", {}),
        ("openvino", {"threads": 1}),
        ("openvino", {"threads": 1, "static_shapes": 1}),  # the samples have two batch sizes: one stays in the common
    ],
)
def test_bundle_of_a_real_target(target: str, given: dict[str, int], tmp_path: Path) -> None:
    pytest.importorskip(RUNNERS[target].distribution, reason=f"the runtime of {target} is not installed")
    made = compiled(target, tmp_path)
    record = run(made)
    options = registry.load("targets", target).Options(**given).model_dump(mode="json")
    chosen = dataclasses.replace(record.candidates[0], target=target, options=options)
    record = dataclasses.replace(record, candidates=(chosen,), steps=())
    folder, archive = bundle.pack(record, f"fp32@{target}", made, SAMPLES, {}, {}, tmp_path / "out")
    found = bundle.verify(archive)
    assert found.replayed is not None
    assert found.replayed.max_error == 0.0
    assert found.manifest.runtime.precision == found.replayed.precision
    done = subprocess.run([sys.executable, "-B", "run.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("largest difference 0 (tolerance 0.001): ok") == len(SAMPLES)
    bundle.verify(folder)
