"""The presets of the libraries, made by bare calls from one exported model and one calibration set.

    python bench/bare/presets.py minilm|resnet20|resnet56 FOLDER

Beside what minilm.py and resnet20.py write: `nncf.onnx`, NNCF's INT8 of the ONNX file, and for MiniLM `default.onnx`,
ONNX Runtime's static quantization with every default (it ruins the model; its speed is of interest all the same).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minilm
import numpy as np
import resnet20

Feeds = dict[str, np.ndarray]


def images() -> Iterator[Feeds]:
    for image in resnet20.images(resnet20.SAMPLES):
        yield {"image": image}


def nncf_onnx(source: Path, target: Path, samples: list[Feeds], transformer: bool) -> None:
    """ONNX -> ONNX with NNCF's placement."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None: not importable
    import nncf
    import onnx

    kind: Any = nncf.ModelType.TRANSFORMER if transformer else None
    dataset = nncf.Dataset(samples)
    onnx.save(nncf.quantize(onnx.load(source), dataset, subset_size=len(samples), model_type=kind), target)


def static_default(source: Path, target: Path, samples: Iterator[Feeds]) -> None:
    """ONNX Runtime's quantize_static with nothing but the data."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> Feeds | None:
            return next(samples, None)

    quantize_static(source, target, Reader())


def main(name: str, folder: Path) -> None:
    source = folder / "fp32.onnx"
    if name == "minilm":
        minilm.main(folder)
        nncf_onnx(source, folder / "nncf.onnx", list(minilm.tokens(minilm.PAIRS)), transformer=True)
        static_default(source, folder / "default.onnx", minilm.tokens(minilm.PAIRS))
        return
    resnet20.export(source, name)
    resnet20.quantize_onnx(source, folder / "int8.onnx", resnet20.images(resnet20.SAMPLES))
    resnet20.convert_and_quantize_openvino(source, folder)
    nncf_onnx(source, folder / "nncf.onnx", list(images()), transformer=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
