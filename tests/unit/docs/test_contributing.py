"""The plugins that CONTRIBUTING.md shows work: by contract, and in a build as third-party entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from optimizer import registry, schema, testing
from optimizer.cli import main
from optimizer.errors import EXIT_OK
from optimizer.protocols import Batch

PAGE = Path(__file__).resolve().parents[3] / "CONTRIBUTING.md"
PLUGINS = {
    "passes": {"round.weights": "round_weights"},
    "targets": {"reference": "reference"},
    "metrics": {"mae": "mae"},
    "sources": {"jsonl": "jsonl"},
}
MODULES = [module for named in PLUGINS.values() for module in named.values()]


def examples() -> dict[str, str]:
    """File name -> code of every sample that is a file."""
    found = re.findall(r"```python\n# file: (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(found)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The samples as a package's modules with entry points; nothing is really installed."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, code in examples().items():
        (folder / name).write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        named = PLUGINS.get(group.removeprefix("optimizer."), {})
        return [importlib.metadata.EntryPoint(name, module, group) for name, module in named.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry.load.cache_clear()
    yield folder
    registry.load.cache_clear()
    for module in MODULES:
        sys.modules.pop(module, None)


def test_the_page_shows_one_of_each() -> None:
    assert sorted(name.removesuffix(".py") for name in examples()) == sorted(MODULES)


def test_samples_keep_the_contract(installed: Path) -> None:
    for kind, named in PLUGINS.items():
        for module in named.values():
            testing.CHECKS[kind](importlib.import_module(module))
    testing.check_imports(*MODULES)


def test_the_metric_computes_what_it_says(installed: Path) -> None:
    metric = importlib.import_module("mae")
    labels = np.array([1.0, 2.0, 3.0, 5.0])
    batch = Batch(feeds={}, labels=labels, indices=np.arange(4))
    outputs = {"y": np.array([[1.5], [2.0], [2.0], [6.0]], np.float32)}
    testing.check_metric(metric, outputs, batch)
    assert metric.summarize(metric.examples(outputs, batch, metric.Options())) == pytest.approx(0.625)


def test_samples_are_linted(installed: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.is_file():
        pytest.skip("ruff is not installed beside this interpreter")
    config = PAGE.with_name("pyproject.toml")
    command = [str(ruff), "check", "--ignore", "ARG001,A001,N", "--config", str(config), str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_build_uses_all_four(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "line.onnx")
    rows = [{"x": [float(i % 5), float(i % 3)], "label": 1.9 * (i % 5) - 0.7 * (i % 3)} for i in range(40)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "recipe.yaml").write_text(
        "model: {file: line.onnx}\n"
        "data: {evaluate: {source: {jsonl: {path: data.jsonl}}, label: label}}\n"
        "variants: {fp32: [], rounded: [{round.weights: {bits: 4}}]}\n"
        "targets: [reference]\n"
        "measure: {metrics: [mae], latency: false}\n"
        'gates: ["rounded: mae <= 0.5"]\n'
    )
    code = main(["build", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--bundle", "none"])
    assert code == EXIT_OK, capsys.readouterr().err
    run = schema.load_run((tmp_path / "out" / "run.json").read_bytes(), "run.json")
    found = {m.subject: m.value for m in run.measurements if m.metric == "mae" and m.relation == "absolute"}
    assert found["fp32@reference"] == pytest.approx(0.0, abs=1e-5)
    assert 0 < found["rounded@reference"] < 0.5, "weights of 4 bits are off, but not by much"
    assert next(s for s in run.steps if s.use == "round.weights").notes["rounded"] == 2


def write_model(path: Path) -> None:
    """y = 1.9 x0 - 0.7 x1, neither of which has so few bits that rounding leaves it alone."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(np.array([[1.9], [-0.7]], np.float32), "w"),
        numpy_helper.from_array(np.array([0.0], np.float32), "b"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
