"""A PyTorch module taken apart; multiply-accumulates are counted by running it once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.anatomy.parts import Anatomy, sized
from optimizer.errors import OptimizerError
from optimizer.formats import macs
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.torch import TorchModel, open_model


def _macs(model: TorchModel, sizes: Mapping[str, int], open_: Sequence[str]) -> int | None:
    try:
        return macs.count(model, synthetic_feeds(model.signature, sizes, model.record.seed))
    except OptimizerError as error:
        if not open_:
            raise
        told = " ".join(f"--dim {name}=SIZE" for name in open_)
        raise OptimizerError(error.message, f"say sizes that the model takes: {told}") from None


def dissect(path: Path, dims: Mapping[str, int]) -> Anatomy:
    """Layers, parameters and multiply-accumulates of the artifact in `path`, at the sizes `dims` (1 where silent)."""
    model = open_model(path)
    module = model.module
    parameters: Counter[str] = Counter()
    for tensor in module.parameters():
        parameters[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    layers = Counter(
        getattr(inner, "original_name", type(inner).__name__)
        for inner in module.modules()
        if not list(inner.children())
    )
    sizes = sized(model.signature, dims, {name: low for name, (low, _) in model.record.dims.items()})
    return Anatomy(
        kind="PyTorch",
        signature=model.signature,
        parameters=dict(parameters.most_common()),
        operators=dict(sorted(layers.items(), key=lambda item: (-item[1], item[0]))),
        macs=_macs(model, sizes, [name for name in sizes if name not in dims]),
        sizes=sizes,
        facts={"module": getattr(module, "original_name", type(module).__name__)},
    )
