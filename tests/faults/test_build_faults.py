"""Builds that are killed, interrupted or run twice at once leave the store whole and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer.store import Store

# Examples come slowly while the file `slow` lies beside the code, so that a test can strike in mid-calibration.
ROWS = """
import pathlib, time
def rows():
    slow = pathlib.Path(__file__).with_name("slow")
    for i in range(40):
        if i == 8 and slow.exists():
            pathlib.Path(__file__).with_name("reached").touch()
            time.sleep(120)
        yield {"x": [(i * 7 + j) % 5 - 2.0 for j in range(8)], "y": i % 3}
"""
RECIPE = """
schema: 1
model: {file: m.onnx}
data:
  calibrate: {source: {python: {entry: "rows.py:rows"}}, label: y, transforms: [{cast: {column: x, dtype: float32}}]}
variants: {fp32: [], int8: [quantize.static]}
targets: [onnxruntime]
measure: {metrics: [], latency: false}
"""

# Tests may run in the background of a shell, which has SIGINT ignored for all that descends from it.
OPTC = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from optimizer.cli import main
sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(8, 3)).astype(np.float32), "w")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 3])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    (tmp_path / "rows.py").write_text(ROWS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def start(folder: Path, out: str = "out") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPTC, "build", "recipe.yaml", "--out", out]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def strike(folder: Path, how: signal.Signals) -> subprocess.Popen[str]:
    """Start a build, wait until a step is half done, and send a signal."""
    (folder / "slow").touch()
    process = start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "reached").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, how)
    (folder / "slow").unlink()
    return process


def entries(tmp_path: Path) -> list[str]:
    return [e.use for e in Store(tmp_path / "store").entries()]


def test_interrupted_a_build_exits_130_and_leaves_nothing_half_done(folder: Path) -> None:
    process = strike(folder, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert list((folder / "store" / "staging").iterdir()) == []
    assert not (folder / "out").exists()


def test_terminated_a_build_exits_143_and_leaves_nothing_half_done(folder: Path) -> None:
    process = strike(folder, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.endswith("error: terminated\n")
    assert list((folder / "store" / "staging").iterdir()) == []


# As torch's imports do: ^C arrives inside a library, which takes it for a failure of its own and goes on.
SWALLOWING = """
import os, pathlib, signal
def rows():
    for i in range(40):
        if i == 8 and pathlib.Path(__file__).with_name("slow").exists():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                pass
        yield {"x": [(i * 7 + j) % 5 - 2.0 for j in range(8)], "y": i % 3}
"""


def test_an_interrupt_that_a_library_swallows_ends_the_build_and_its_result_is_not_kept(folder: Path) -> None:
    (folder / "rows.py").write_text(SWALLOWING)
    (folder / "slow").touch()
    process = start(folder)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "quantize.static" not in entries(folder)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_built(folder: Path, place: str) -> None:
    (folder / "file").touch()
    process = start(folder, place)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert f"there can be no folder {place} ({folder / 'file'} is a file)" in said
    assert entries(folder) == []


def test_killed_a_build_is_taken_up_where_it_was(folder: Path) -> None:
    process = strike(folder, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = entries(folder)
    assert "quantize.static" not in before
    again = start(folder)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "quantize.static" in entries(folder)
    assert list((folder / "store" / "staging").iterdir()) == []
    assert (folder / "out" / "run.json").is_file()


def test_two_builds_at_once_share_the_work(folder: Path) -> None:
    both = [start(folder, "one"), start(folder, "two")]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sorted(entries(folder)).count("quantize.static") == 1
    assert (folder / "one" / "run.json").is_file() and (folder / "two" / "run.json").is_file()
