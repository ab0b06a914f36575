"""A tiny ONNX model, the run that "measured" it, and its bundle: everything made in code, seeded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer import bundle, fingerprint, registry
from optimizer.schema import Strict
from optimizer.values import (
    RUN_SCHEMA,
    Artifact,
    Candidate,
    DataRecord,
    Machine,
    Measurement,
    Run,
    Signature,
    StepRecord,
    TensorSpec,
    Verdict,
)  # fmt: skip

KEY = "k" * 64
SIGNATURE = Signature(
    (TensorSpec.parse("image", "float32[batch,4]"),), (TensorSpec.parse("logits", "float32[batch,3]"),)
)
SAMPLES = [{"image": np.random.default_rng(n).standard_normal((n, 4), dtype=np.float32)} for n in (2, 5)]
PREPROCESSING = {"transforms": [{"tokenize": {"tokenizer": "/home/me/vocab.txt"}}], "labels": ["a", "b", "c"]}


class Options(Strict):
    threads: int | None = None
    optimize: str = "all"


class OrtSession:
    """Just enough of an onnxruntime session."""

    precision = "float32"
    signature = SIGNATURE

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])

    def __call__(self, feeds: Any) -> dict[str, np.ndarray]:
        return {"logits": self._session.run(["logits"], dict(feeds))[0]}


@contextmanager
def _open(artifact: Artifact, options: Options) -> Iterator[OrtSession]:
    yield OrtSession(artifact.path)


def fake_target(probe: str | None = None) -> SimpleNamespace:
    """A target module as the registry would return it."""
    return SimpleNamespace(Options=Options, PRODUCES="onnx", probe=lambda: probe, open=_open)


def use_target(monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    """Answer every request for a plugin with this target."""
    monkeypatch.setattr(registry, "load", lambda kind, name: target)


def write_model(folder: Path, padding: int = 0) -> None:
    """y = x W + b with seeded W; `padding` adds that many random bytes as an unused weight."""
    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3), dtype=np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(3, dtype=np.float32), "b"),
    ]
    if padding:
        weights.append(numpy_helper.from_array(rng.integers(0, 255, padding, dtype=np.uint8), "unused"))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["image", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        weights,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")


def artifact(folder: Path, padding: int = 0) -> Artifact:
    """The model as the store would hand it out."""
    write_model(folder, padding)
    files = {"model.onnx": [(folder / "model.onnx").stat().st_size, fingerprint.of_file(folder / "model.onnx")]}
    return Artifact("onnx", folder, KEY, fingerprint.of_value(files), SIGNATURE, files["model.onnx"][0])


def run(made: Artifact, **changes: Any) -> Run:
    """The record of a build of `made`, with every kind of thing that a manifest takes from it."""
    at, interval = {"batch": 1, "threads": 1}, {"low": 0.9, "high": 1.1}
    fields: dict[str, Any] = {
        "schema": RUN_SCHEMA,
        "version": "0.1.0",
        "name": "tiny",
        "created": "2026-01-02T03:04:05+00:00",
        "recipe": {
            "model": {"entry": "/home/me/net.py:Net", "license": "MIT", "inputs": {"image": "float32[batch,4]"}},
            "data": {"evaluate": {"source": {"name": "npz", "options": {"path": "/home/me/my data/x.npz"}}}},
        },
        "baseline": "fp32",
        "machine": Machine("A CPU", "x86_64", 2, ("avx2",), 1 << 30, "Linux 6", "3.11.0", (), "m" * 16),
        "tools": {"onnx": "1.0"},
        "data": (DataRecord("evaluate", "digits/test", "d" * 64, 100, None, ()),),
        "steps": (
            StepRecord(KEY, "load", {"file": "/home/me/net.onnx"}, (), {"use": "load"}, "onnx", False, 1.5, made.size,
                       made.digest, None, {"exporter": "at /home/me/x/y.py:3"}, ("slow in /tmp/a/b",), SIGNATURE),
        ),
        "candidates": (Candidate("fp32", "onnxruntime", (KEY,), {"threads": 1}, KEY, str(made.path), made.size),),
        "measurements": (
            Measurement("fp32@onnxruntime", "latency.p50", "absolute", 1.0, **interval, n=50, unit="ms",
                        better="lower", at=at, protocol={"restarts": 4}, machine="m" * 16),
            Measurement("fp32@onnxruntime", "size", "absolute", float(made.size), None, None, 1, "B", "lower"),
            Measurement("int8@onnxruntime", "size", "absolute", 1.0, None, None, 1, "B", "lower"),
        ),
        "verdicts": (Verdict("top1 drop <= 0.5pp", "fp32@onnxruntime", "pass", "0.1 pp"),),
        "warnings": (),
        "seconds": 2.0,
        "outcome": "pass",
    }  # fmt: skip
    return Run(**{**fields, **changes})


def packed(folder: Path, padding: int = 0, **options: Any) -> tuple[Path, Path]:
    """A bundle of the tiny model below `folder`."""
    made = artifact(folder / "store", padding)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("one\ntwo\n")
    feeds, files = options.pop("samples", SAMPLES), {"vocab.txt": vocabulary}
    record = options.pop("run", None) or run(made)
    return bundle.pack(record, "fp32@onnxruntime", made, feeds, PREPROCESSING, files, folder / "out", **options)
