"""Every algorithm of quantize.static on every target: runs there, stays near the float model, repeats itself, once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quant_lab import (
    OPENVINO,
    ORT,
    Bench,
    Data,
    artifact,
    chain,
    images,
    lowered,
    outputs,
    precision,
    prenorm,
    vectors,
)

from optimizer.errors import OptimizerError
from optimizer.passes import quantize_static
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

ALGORITHMS: dict[str, dict[str, Any]] = {
    "minmax": {},
    "moving-average": {"method": "moving-average"},
    "percentile": {"method": "percentile"},
    "entropy": {"method": "entropy"},
    "mse": {"method": "mse"},
    "per-tensor": {"per_channel": False},
    "smooth": {"smooth": True},
    "smooth-strong": {"smooth": 0.8},
    "rough": {"smooth": False},
    "equalize": {"equalize": True},
    "bias": {"bias_correction": True},
    "no-bias": {"bias_correction": False},
    "adaround": {"rounding": "adaround"},
    "all": {"method": "mse", "smooth": 0.5, "equalize": True, "rounding": "adaround", "bias_correction": True},
}
MODELS: dict[str, tuple[Callable[[], Any], Callable[..., Data]]] = {
    "cnn": (functools.partial(chain, spread=4.0), images),
    "block": (functools.partial(prenorm, outlier=4.0), vectors),
}
TARGETS = {"onnxruntime": ORT, "openvino": OPENVINO}
# Root mean square of the error, relative to that of the outputs. NNCF quantizes attention and the mean too.
BOUND = {"onnxruntime": 0.15, "openvino": 0.35}


def accepted() -> list[tuple[str, str]]:
    return [
        (target, name)
        for target, scheme in TARGETS.items()
        for name, options in ALGORITHMS.items()
        if quantize_static.refuse(quantize_static.Options(**options), scheme) is None
    ]


def source(make: Callable[[], Any], scheme: QuantScheme, root: Path) -> Artifact:
    found = artifact(make(), root / "m")
    return lowered(found, root / "ir") if scheme.format == "openvino" else found


def noise(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    return max(float(np.linalg.norm(found[n] - a) / np.linalg.norm(a)) for n, a in expected.items())


def cases() -> list[tuple[str, str, str]]:
    """Both models on ONNX Runtime; on OpenVINO, which takes longer, the one that an algorithm is for."""
    both = [(target, name, kind) for target, name in accepted() for kind in MODELS]
    return [c for c in both if c[0] == "onnxruntime" or (c[2] == "block") == ("smooth" in ALGORITHMS[c[1]])]


@pytest.mark.parametrize(("target", "name", "kind"), cases())
def test_an_algorithm_keeps_its_contract(tmp_path: Path, target: str, name: str, kind: str) -> None:
    if target == "openvino":
        pytest.importorskip("nncf")
    make, data = MODELS[kind]
    bench, scheme = Bench(tmp_path), TARGETS[target]
    given = source(make, scheme, tmp_path)
    feeds = data(16, seed=9).feeds
    once = bench.static(given, scheme, data(64), **ALGORITHMS[name])
    assert precision(once).startswith("int8")
    assert 0 < noise(outputs(given, feeds), outputs(once, feeds)) < BOUND[target]
    twice = bench.static(given, scheme, data(64), **ALGORITHMS[name])
    # NNCF numbers the names of its nodes on; weights and ranges are in model.bin.
    for name in ["model.bin"] if target == "openvino" else ["model.onnx"]:
        assert (once.path / name).read_bytes() == (twice.path / name).read_bytes()
    with pytest.raises(OptimizerError, match="the model is quantized already"):
        bench.static(once, scheme, data(64))


def test_what_is_refused_is_what_nncf_does_not_have() -> None:
    assert {name for name in ALGORITHMS if ("openvino", name) not in accepted()} == {"equalize", "adaround", "all"}
    assert all(("onnxruntime", name) in accepted() for name in ALGORITHMS)


@pytest.mark.parametrize("name", ["minmax", "smooth", "equalize", "adaround", "all"])
def test_the_float_model_on_disk_is_never_touched(tmp_path: Path, name: str) -> None:
    given = source(chain, ORT, tmp_path)
    before = (given.path / "model.onnx").read_bytes()
    Bench(tmp_path).static(given, ORT, images(64), **ALGORITHMS[name])
    assert (given.path / "model.onnx").read_bytes() == before
    onnx.checker.check_model(onnx.load(given.path / "model.onnx"))
