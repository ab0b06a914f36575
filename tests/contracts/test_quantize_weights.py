"""Every algorithm of quantize.weights on every target: runs there, keeps its bound, repeats itself, is done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from quant_lab import (
    OPENVINO,
    ORT,
    Bench,
    artifact,
    block,
    lowered,
    outputs,
    precision,
    words,
)

from optimizer.errors import OptimizerError
from optimizer.passes import quantize_weights
from optimizer.passes.quantize_weights.options import Algorithm
from optimizer.values import Artifact

WIDTH = 64  # NNCF fills no group up
GRIDS: dict[str, dict[str, Any]] = {
    "int4": {"bits": 4, "group": 32},
    "int4-symmetric": {"bits": 4, "group": 32, "symmetric": True},
    "int8": {"bits": 8},
}
TARGETS = {"onnxruntime": ORT, "openvino": OPENVINO}
# Root mean square of the error, relative to that of the outputs.
BOUND = {"int4": 0.15, "int4-symmetric": 0.2, "int8": 0.02}


def cases() -> list[tuple[str, str, str]]:
    return [
        (target, algorithm, grid)
        for target, scheme in TARGETS.items()
        for algorithm in get_args(Algorithm)
        for grid, options in GRIDS.items()
        if quantize_weights.refuse(quantize_weights.Options(algorithm=algorithm, **options), scheme) is None
    ]


def source(target: str, root: Path) -> Artifact:
    found = artifact(block(WIDTH), root / "m")
    return lowered(found, root / "ir") if target == "openvino" else found


def noise(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    return max(float(np.linalg.norm(found[n] - a) / np.linalg.norm(a)) for n, a in expected.items())


@pytest.mark.parametrize(("target", "algorithm", "grid"), cases())
def test_an_algorithm_keeps_its_contract(tmp_path: Path, target: str, algorithm: str, grid: str) -> None:
    if target == "openvino":
        pytest.importorskip("nncf")
    bench, scheme, options = Bench(tmp_path), TARGETS[target], {"algorithm": algorithm, **GRIDS[grid]}
    given = source(target, tmp_path)
    before = {file.name: file.read_bytes() for file in given.path.iterdir()}
    once = bench.run(quantize_weights, given, scheme, words(), **options)
    assert precision(once).startswith(f"int{options['bits']} weights")
    assert 0 < noise(outputs(given, words(16).feeds), outputs(once, words(16).feeds)) < BOUND[grid]
    twice = bench.run(quantize_weights, given, scheme, words(), **options)
    # NNCF numbers the names of its nodes on; codes, scales and zero points are in model.bin.
    name = "model.bin" if target == "openvino" else "model.onnx"
    assert (once.path / name).read_bytes() == (twice.path / name).read_bytes()
    assert {file.name: file.read_bytes() for file in given.path.iterdir()} == before, "the source is never touched"
    with pytest.raises(OptimizerError, match=r"no weights are left to quantize|quantized already"):
        bench.run(quantize_weights, once, scheme, words(), **options)


def test_what_is_refused_is_what_nncf_does_not_have() -> None:
    every = [(target, algorithm, grid) for target in TARGETS for algorithm in get_args(Algorithm) for grid in GRIDS]
    assert all(case in cases() for case in every if case[0] == "onnxruntime")
    refused = {(algorithm, grid) for target, algorithm, grid in set(every) - set(cases())}
    assert {algorithm for algorithm, grid in refused if grid != "int8"} == {"hqq", "autoround"}
    assert {algorithm for algorithm, grid in refused if grid == "int8"} == {"hqq", "autoround", "gptq", "awq"}
