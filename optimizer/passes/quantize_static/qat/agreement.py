"""How far the runtime's quantized values lie from the fake quantizers', tensor by tensor, in steps of 8 bits."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import machine
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_torch
from optimizer.passes.quantize_static.qat.fake import Fake
from optimizer.protocols import Feeds

if TYPE_CHECKING:
    import onnx
    from torch import nn


def measure(
    quantized: onnx.ModelProto,
    fake: Fake,
    trained: nn.Module,
    samples: Iterable[Feeds],
    level: onnx_format.Level = "all",
) -> dict[str, Any]:
    """Compare the quantized model in ONNX Runtime with the trained module on samples.

    `largest`: steps by which a stored value differs at most; `equal`: share of the stored values that are the same.
    """
    import torch

    grids = fake.learnt(onnx_torch.values_of(trained)).tensors
    watched = {pair.tensor for pair in fake.pairs.values() if pair.constant is None}
    roots = {node.output[0]: fake.pairs[node.name].tensor for node in fake.model.graph.node if node.name in fake.pairs}
    module = fake.module(outputs=True)
    module.load_state_dict(trained.state_dict())
    tensors = [name for name in fake.stored() if roots[name] in watched]
    worst: dict[str, int] = dict.fromkeys(tensors, 0)
    same = total = 0
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        onnx_format.save(_tapped(quantized, tensors), Path(folder))
        session = onnx_format.inference_session(Path(folder), machine.here().cores, level)
        for feeds in samples:
            with torch.no_grad():
                wanted = module(onnx_torch.feeds_of(feeds))
            for name, stored in zip(tensors, session.run(tensors, dict(feeds)), strict=True):
                found = grids[roots[name]]
                expected = np.rint(wanted[name].numpy() / found.scale) + found.zero
                steps = np.abs(stored.astype(np.int64) - expected.astype(np.int64))
                worst[name] = max(worst[name], int(steps.max(initial=0)))
                same, total = same + int((steps == 0).sum()), total + steps.size
    return _summary(worst, same, total)


def _summary(worst: Mapping[str, int], same: int, total: int) -> dict[str, Any]:
    beyond = {name: steps for name, steps in worst.items() if steps > 1}
    return {
        "tensors": len(worst),
        "values": total,
        "equal": round(same / max(total, 1), 6),
        "largest": max(worst.values(), default=0),
        "beyond": dict(sorted(beyond.items(), key=lambda item: -item[1])[:5]),
    }


def _tapped(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model that gives these stored tensors too."""
    import onnx

    found = copy.deepcopy(model)
    kinds = {t.name: t.data_type for t in found.graph.initializer}
    zeros = {node.output[0]: node.input[2] for node in found.graph.node if node.op_type == "QuantizeLinear"}
    for name in tensors:
        found.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[zeros[name]], None))
    return found
