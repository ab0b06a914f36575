"""`optc verify` of a 100 MB bundle, beside running the samples: seconds, and against unpacking and hashing by hand.

Each figure comes from fresh processes, ours and the hand-written one in turn. Prints a JSON list of figures.

    python bench/verify.py [--rounds 10] [--megabytes 100]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import numpy as np
from figures import OPTC

from optimizer import bundle, fingerprint, machine
from optimizer.measure.quantiles import of_restarts
from optimizer.values import RUN_SCHEMA, Artifact, Candidate, Run, Signature, TensorSpec

BY_HAND = """
import hashlib, json, pathlib, sys, tarfile, tempfile
with tempfile.TemporaryDirectory() as folder:
    with tarfile.open(sys.argv[1]) as tar:
        tar.extractall(folder, filter="data")
    root = next(pathlib.Path(folder).iterdir())
    for name, record in json.loads((root / "manifest.json").read_bytes())["files"].items():
        with (root / name).open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == record["sha256"]
"""


def make(folder: Path, megabytes: int) -> Path:
    """The archive of a bundle whose model is one matrix of random float32 weights."""
    width = math.isqrt(megabytes * 1_000_000 // 4)
    signature = Signature(
        (TensorSpec.parse("x", f"float32[batch,{width}]"),), (TensorSpec.parse("y", f"float32[batch,{width}]"),)
    )
    path = folder / "artifact"
    path.mkdir()
    _write_model(path / "model.onnx", width)
    files = {"model.onnx": [(path / "model.onnx").stat().st_size, fingerprint.of_file(path / "model.onnx")]}
    artifact = Artifact("onnx", path, "key", fingerprint.of_value(files), signature, int(files["model.onnx"][0]))
    feeds = [{"x": np.random.default_rng(n).standard_normal((n, width), dtype=np.float32)} for n in (1, 2)]
    return bundle.pack(_run(artifact), "fp32@onnxruntime", artifact, feeds, {}, {}, folder)[1]


def _write_model(path: Path, width: int) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _run(artifact: Artifact) -> Run:
    candidate = Candidate("fp32", "onnxruntime", (), {"threads": 1}, artifact.key)
    return Run(
        schema=RUN_SCHEMA, version="0", name="bench", created="2026-01-01T00:00:00+00:00", recipe={}, baseline=None,
        machine=machine.here(), tools={}, data=(), steps=(), candidates=(candidate,), measurements=(), verdicts=(),
        warnings=(), seconds=0.0, outcome="not gated",
    )  # fmt: skip


def ours(archive: Path) -> float:
    """Seconds of a whole `optc verify` process, less those that it spent running the samples."""
    start = time.perf_counter()
    done = subprocess.run([*OPTC, "verify", "--json", str(archive)], check=True, capture_output=True)
    return time.perf_counter() - start - float(json.loads(done.stdout)["samples"]["seconds"])


def by_hand(archive: Path) -> float:
    """Seconds of a process that unpacks the archive and hashes every file."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", BY_HAND, str(archive)], check=True)
    return time.perf_counter() - start


def measure(archive: Path, rounds: int) -> list[tuple[float, float]]:
    """(ours, by hand) per round, each round in a random order; one round before to warm the file cache."""
    order, found = random.Random(0), []
    for number in range(rounds + 1):
        subjects = [ours, by_hand]
        order.shuffle(subjects)
        seconds = {subject: subject(archive) for subject in subjects}
        if number:
            found.append((seconds[ours], seconds[by_hand]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        pairs = measure(make(Path(folder), given.megabytes), given.rounds)
    found = [
        figures.figure("verify.seconds", of_restarts([a for a, _ in pairs]), len(pairs), "s"),
        figures.figure("verify.ratio", of_restarts([a / b for a, b in pairs]), len(pairs), "x"),
    ]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
