"""ResNet-20 to FP32 and INT8 for ONNX Runtime and OpenVINO by bare library calls: optc build's yardstick.

    python bench/bare/resnet20.py FOLDER

The same model, data, samples and options as recipes/vision/cifar-resnet20-int8.yaml, written by hand and without
what optc adds: no simplification, no check of any result, no record, no reuse.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ["OPTC_DATA"])
SAMPLES = 300
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def main(folder: Path) -> None:
    """Write fp32.onnx, int8.onnx, fp32.xml and int8.xml."""
    export(folder / "fp32.onnx")
    quantize_onnx(folder / "fp32.onnx", folder / "int8.onnx", images(SAMPLES))
    convert_and_quantize_openvino(folder / "fp32.onnx", folder)


def images(limit: int) -> Iterator[np.ndarray]:
    """The first training images as the network takes them, one at a time (1, 3, 32, 32)."""
    import pyarrow.parquet as pq
    from PIL import Image

    file = pq.ParquetFile(DATA / "cifar10" / "train.parquet")
    left = limit
    for batch in file.iter_batches(batch_size=128, columns=["image"]):
        for row in batch.to_pylist()[:left]:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
                pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
            yield ((pixels - MEAN) / STD).transpose(2, 0, 1)[None]
        left -= len(batch)
        if left <= 0:
            return


def export(path: Path, name: str = "resnet20") -> None:
    """PyTorch -> ONNX with a free batch dimension."""
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, str(ROOT / "examples" / "cifar"))
    import model

    net = getattr(model, name)()
    net.load_state_dict(load_file(DATA / "resnet" / f"{name}-jpeg.safetensors"))
    sample = torch.from_numpy(np.concatenate(list(images(2))))
    torch.onnx.export(
        net.eval(),
        (sample,),
        path,
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def quantize_onnx(source: Path, target: Path, samples: Iterator[np.ndarray]) -> None:
    """ONNX -> ONNX with Q/DQ: U8 activations, S8 weights per channel, MinMax."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(samples, None)
            return None if image is None else {"image": image}

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def convert_and_quantize_openvino(source: Path, folder: Path) -> None:
    """ONNX -> OpenVINO IR, and that -> INT8 IR through NNCF."""
    # As in optc: their telemetry forks this process and waits for a network, which is no part of the work.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None: not importable
    import nncf
    import openvino as ov

    model = ov.convert_model(source)
    ov.save_model(model, folder / "fp32.xml", compress_to_fp16=False)
    quantized = nncf.quantize(model, nncf.Dataset(list(images(SAMPLES))), subset_size=SAMPLES)
    ov.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
