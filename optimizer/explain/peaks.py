"""The machine's peaks, measured through the runtimes in a fresh process: python -m optimizer.explain.peaks THREADS.

Prints JSON: {"peaks": {"int8": GMAC/s, "bf16": ..., "f32": ..., "memory": GB/s}, "methods": {name: how}, "busy": bool}.
What a runtime cannot run here is left out. A peak is the best of several repetitions, since foreign load only lowers
it; `busy` says that there was some.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.machine import here, version_of

SIZE = 1024  # of the square matrices: 12 MB of float32, long enough to hide the call, small enough for every machine
SECONDS = 0.4  # per peak
REPETITIONS = 5
COPIED = 256 << 20  # bytes; far beyond the last-level cache of common machines
BUSY = 0.25  # load average per core from which other programs are said to have disturbed
CACHES = 4  # ... and at least this many times the cache of this one


def main() -> None:
    """Measure with as many threads as the argument says, and print the result."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # runtimes may write to stdout
    answers.write(json.dumps(measure(int(sys.argv[1]))) + "\n")
    answers.flush()


def measure(threads: int) -> dict[str, Any]:
    """Every peak that can be measured here."""
    busy = os.getloadavg()[0] > BUSY * here().cores if hasattr(os, "getloadavg") else False
    found: dict[str, tuple[float, str]] = {"memory": _memory(threads)}
    candidates = [("f32", _onnx(False, threads)), ("int8", _onnx(True, threads))]
    if version_of("openvino"):
        candidates += [("f32", _openvino("f32", threads)), ("int8", _openvino("int8", threads))]
        if {"avx512_bf16", "amx_bf16", "bf16"} & set(here().isa):
            candidates.append(("bf16", _openvino("bf16", threads)))
    for name, (rate, how) in candidates:
        if rate > found.get(name, (0.0, ""))[0]:
            found[name] = rate, how
    return {
        "peaks": {name: rate for name, (rate, _) in found.items()},
        "methods": {name: how for name, (_, how) in found.items()},
        "busy": busy,
    }


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest repetition."""
    call()
    best, end, done = float("inf"), time.perf_counter() + SECONDS, 0
    while done < REPETITIONS or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best, done = min(best, time.perf_counter() - begin), done + 1
    return best


def product(integers: bool) -> Any:
    """An ONNX model of one SIZE x SIZE x SIZE product with a constant right side."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    right = random.integers(-127, 128, (SIZE, SIZE)).astype(np.int8)
    if integers:
        kind, op, made = TensorProto.UINT8, "MatMulInteger", TensorProto.INT32
    else:
        kind, op, made, right = TensorProto.FLOAT, "MatMul", TensorProto.FLOAT, right.astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", kind, [SIZE, SIZE])],
        [helper.make_tensor_value_info("y", made, [SIZE, SIZE])],
        [numpy_helper.from_array(right, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _onnx(integers: bool, threads: int) -> tuple[float, str]:
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        onnx_format.save(product(integers), Path(folder))
        session = onnx_format.inference_session(Path(folder), threads)
    a = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE))
    feeds = {"a": a.astype(np.uint8 if integers else np.float32)}
    seconds = _best(lambda: session.run(None, feeds))
    return SIZE**3 / seconds / 1e9, f"ONNX Runtime {version_of('onnxruntime')}, {SIZE}^3 product"


def _openvino(precision: str, threads: int) -> tuple[float, str]:
    ov = openvino_format.library()
    hint = "f32" if precision == "int8" else precision
    config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino_format.compiled(_product_ir(ov, precision == "int8"), config)
    request = model.create_infer_request()
    feeds = {0: np.random.default_rng(1).random((SIZE, SIZE), np.float32)}
    seconds = _best(lambda: request.infer(feeds, share_inputs=True, share_outputs=True))
    return SIZE**3 / seconds / 1e9, f"OpenVINO {version_of('openvino')}, {SIZE}^3 product"


def _product_ir(ov: Any, quantized: bool) -> Any:
    ops = ov.opset13
    a = ops.parameter([SIZE, SIZE], np.float32, "a")
    right = np.random.default_rng(0).integers(-127, 128, (SIZE, SIZE)).astype(np.int8)
    left: Any = a
    if quantized:
        low, high = np.float32(0), np.float32(1)
        left = ops.fake_quantize(a, low, high, low, high, 256)
        constant = ops.convert(ops.constant(right), np.float32)
        weight: Any = ops.multiply(constant, ops.constant(np.float32(1 / 127)))
    else:
        weight = ops.constant(right.astype(np.float32))
    return ov.Model([ops.matmul(left, weight, False, True)], [a], "product")


def _memory(threads: int) -> tuple[float, str]:
    """GB/s of copying arrays that no cache holds: every byte read once and written once."""
    size = max(COPIED, CACHES * _last_cache())
    size = min(size, here().memory // 8 or size)
    source = np.ones(size // threads // 8 * threads, np.float64)
    target = np.zeros_like(source)
    parts = list(zip(np.split(source, threads), np.split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)))
    how = f"numpy {np.__version__}, copy of {source.nbytes >> 20} MiB, read and written bytes counted"
    return 2 * source.nbytes / seconds / 1e9, how


def _last_cache() -> int:
    """Bytes of the largest cache, 0 where the system does not say."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    texts = [p.read_text().strip() for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(t[:-1]) * units[t[-1]] for t in texts if t and t[-1] in units), default=0)


if __name__ == "__main__":
    main()
