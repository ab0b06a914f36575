"""What a recipe must say about a model, learnt by looking at it: where it is, what it takes, what it returns.

A model by entry or a TorchScript archive does not say what it takes. Its inputs are then guessed from the names of
forward's parameters and from the layers that come first, and the guess counts only when forward accepts it.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import registry, schema, shorthand
from optimizer.errors import OptimizerError
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.record import Built, Record
from optimizer.formats.torch import TorchModel, as_tensor
from optimizer.protocols import Context
from optimizer.recipe import ModelSpec
from optimizer.values import Signature, TensorSpec

if TYPE_CHECKING:
    from torch import nn

MOST_TRIALS = 48
MOST_CHOICES = (48, 12, 6, 4, 3, 2, 2, 2, 1)  # per parameter, for one parameter, two, ...
TOKENS = "int64[batch,sequence]"
SIZES = {"batch": 2, "sequence": 16}
WIDE, SMALL = (224, 299, 384, 32), (32, 28, 64, 224, 299)  # picture sizes: after a coarse first layer, after a fine one


def specification(
    model: str, inputs: Mapping[str, str], weights: Path | None, task: str | None
) -> tuple[ModelSpec, bool]:
    """The model's part of a recipe, and whether its inputs were guessed. Paths start at the working directory.

    Raises OptimizerError when there is no such model, and when its inputs cannot be guessed.
    """
    flags = shorthand.Flags(model, str(weights) if weights else None, task, [f"{k}={v}" for k, v in inputs.items()])
    document = shorthand.document(flags)["model"]
    silent = "entry" in document or model.endswith((".pt", ".pth", ".ts", ".torchscript"))
    guessed = silent and not inputs
    if guessed:
        # Parsed with an input that nothing looks at, since a model by entry is refused without any.
        spec = schema.parse(ModelSpec, {**document, "inputs": {"x": "float32[1]"}}, model, Path.cwd())
        document["inputs"] = guess(spec)
    return schema.parse(ModelSpec, document, model, Path.cwd()), guessed


def load(spec: ModelSpec, out: Path) -> None:
    """Make an artifact of the model in the empty directory `out`, as a build would."""
    registry.load("passes", "load").run(None, spec, Context(), out)


def guess(spec: ModelSpec) -> dict[str, str]:
    """The inputs of a model whose files do not say them: name -> dtype[dims]. forward accepted them.

    Raises OptimizerError when nothing that was tried fits.
    """
    from optimizer.formats import modules

    record = Record(
        Signature((), ()),
        entry=spec.entry,
        args=spec.args,
        weights=str(spec.weights) if spec.weights else None,
        file=str(spec.file) if spec.file else None,
    )
    module = modules.build(record).module
    names = _parameters(module)
    refusals = []
    for texts in itertools.islice(_combinations(names, module), MOST_TRIALS):
        inputs = dict(zip(names, texts, strict=True))
        refusal = _refusal(module, record, inputs)
        if refusal is None:
            return inputs
        refusals.append(refusal.message)
    tried = f"; the last try: {refusals[-1]}" if refusals else ""
    raise OptimizerError(
        f"{record.origin}: cannot guess what forward({', '.join(names)}) takes{tried}",
        f"say it: --input '{names[0] if names else 'name'}={_example(names, refusals)}'{_others(names[1:])}",
    )


def _example(names: Sequence[str], refusals: Sequence[str]) -> str:
    """What the first input might be: indices where forward looks them up, else a picture."""
    looked_up = any("'indices'" in refusal for refusal in refusals)  # torch's word for what an embedding takes
    return "int64[batch,length]" if looked_up or _is_text((*names, "name")[0]) else "float32[batch,3,224,224]"


def _others(names: Sequence[str]) -> str:
    return f", and so for {', '.join(names)}" if names else ""


def _parameters(module: nn.Module) -> list[str]:
    """The names of forward's parameters that have no default."""
    compiled = getattr(module.forward, "schema", None)
    if compiled is not None:
        return [a.name for a in compiled.arguments if a.name != "self" and not a.has_default_value()]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def _combinations(names: Sequence[str], module: nn.Module) -> Iterator[tuple[str, ...]]:
    """Choices for all parameters together, the likeliest first: each by its name, else by the layers in their order."""
    open_names = [name for name in names if not _is_text(name)]
    most = MOST_CHOICES[min(len(open_names), len(MOST_CHOICES)) - 1]
    layers = list(itertools.islice(_by_layers(module), most)) or ["float32[batch,16]"]
    choices = [[TOKENS] if _is_text(name) else layers for name in names]
    yield from sorted(itertools.product(*choices), key=lambda texts: sum(layers.index(t) for t in texts if t in layers))


def _is_text(name: str) -> bool:
    return name.endswith(("ids", "mask", "tokens")) or name in ("token", "tokens")


def _by_layers(module: nn.Module) -> Iterator[str]:
    """What would fit each layer, in the order in which the module holds them, every text once."""
    seen = set()
    for inner in module.modules():
        name = str(getattr(inner, "original_name", type(inner).__name__))
        for text in LAYERS[name](inner) if name in LAYERS else []:
            if text not in seen:
                seen.add(text)
                yield text


def _pictures(layer: Any) -> list[str]:
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
    coarse = layer.weight.shape[-1] >= 7 or max(getattr(layer, "stride", (1,))) >= 4
    return [f"float32[batch,{channels},{side},{side}]" for side in (WIDE if coarse else SMALL)]


def _signals(layer: Any) -> list[str]:
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
    return [f"float32[batch,{channels},{length}]" for length in (1024, 16000, 128)]


def _volumes(layer: Any) -> list[str]:
    return [f"float32[batch,{layer.weight.shape[1]},{depth},112,112]" for depth in (16, 32)]


def _rows(layer: Any) -> list[str]:
    width = layer.weight.shape[1]
    return [f"float32[batch,{width}]", f"float32[batch,sequence,{width}]"]


def _steps(layer: Any) -> list[str]:
    width = layer.weight_ih_l0.shape[1]
    return [
        f"float32[batch,sequence,{width}]"
        if getattr(layer, "batch_first", True)
        else f"float32[sequence,batch,{width}]"
    ]


LAYERS = {
    "Conv2d": _pictures,
    "Conv1d": _signals,
    "Conv3d": _volumes,
    "Linear": _rows,
    "Embedding": lambda layer: [TOKENS, "int64[batch]"],
    "EmbeddingBag": lambda layer: [TOKENS],
    "LSTM": _steps,
    "GRU": _steps,
    "RNN": _steps,
}


def _refusal(module: nn.Module, record: Record, inputs: Mapping[str, str]) -> OptimizerError | None:
    """Why forward does not take these inputs, or None."""
    import torch

    signature = Signature(tuple(TensorSpec.parse(name, text) for name, text in inputs.items()), ())
    model = TorchModel(Built(module, keywords=False), record)
    feeds = synthetic_feeds(signature, SIZES, 0)
    try:
        with torch.inference_mode():
            model.run({spec.name: as_tensor(spec, feeds) for spec in signature.inputs})
    except OptimizerError as error:
        return error
    return None
