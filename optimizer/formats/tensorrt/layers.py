"""Which layers an engine really has: their types, the ONNX nodes in each, and what was put between them.

The builder tells them when an engine is built, on a CPU too; the inspector of an opened engine uses the same lines.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimizer import schema
from optimizer.errors import OptimizerError
from optimizer.formats import tensorrt as tensorrt_format
from optimizer.formats.tensorrt import facts
from optimizer.formats.tensorrt.log import Log

TYPES = {
    "fp4": "fp4", "int4": "int4", "int8": "int8", "fp8": "fp8", "half": "float16", "fp16": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16", "float": "float32", "fp32": "float32", "int64": "int64",
    "int32": "int32", "bool": "bool",
}  # fmt: skip
NARROW = ("fp4", "int4", "int8", "fp8")
FLOATS = ("float16", "bfloat16", "float32")
PRODUCT = re.compile(r"conv|correlation|gemm|matrix_?multiply|matmul|attention|mha", re.IGNORECASE)
# Products that TensorRT-RTX fuses with what surrounds them: their kind says kgen or runtime_fusion.
FUSED = re.compile(r"_gemm_|__myl_(?:Fc|Bmm)")
# A generated kernel is named after its operations, four letters each; these move or retype values and compute nothing.
MOVES = re.compile(r"__myl_(?:Move|Tran|Resh|Cast|Repl|Conc|Slic|Sque|Unsq|Expa)+_")
# Part and place of a kernel that the library's own compiler made; each profile has parts of its own.
MYELIN = re.compile(r"_myl(\d+)_\d+$")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine."""

    name: str
    kind: str  # in the library's words
    inputs: tuple[str, ...]  # types
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]  # of the ONNX graph that it computes
    tactic: str = ""

    @property
    def reformat(self) -> bool:
        """Whether it only changes types or layouts."""
        return self.kind.lower() in ("reformat", "noop") or bool(MOVES.match(self.name))

    @property
    def product(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return bool(PRODUCT.search(self.kind) or FUSED.match(self.name)) and not self.reformat

    @property
    def dtype(self) -> str:
        """The narrowest type that it reads, which is what its kernel multiplies."""
        order = list(TYPES.values())
        known = [name for name in (self.inputs or self.outputs) if name in order]
        return min(known, key=order.index) if known else ""


def built(log: Log) -> list[EngineLayer]:
    """The layers as the builder told them."""
    told = [text for _, text in log.lines if text.startswith("Layers:")]
    return parse(told[-1]) if told else []


def of_engine(trt: Any, engine: Any) -> list[EngineLayer]:
    """The layers as the inspector of an opened engine tells them."""
    inspector = engine.create_engine_inspector()
    return parse(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE))


def parse(text: str) -> list[EngineLayer]:
    """The layers in the library's lines, one each, up to the first empty line; those of the first profile alone."""
    lines = text.removeprefix("Layers:\n").partition("\n\n")[0].split("\n")
    first = min((int(number) for line in lines for number in MYELIN.findall(line.partition(",")[0])), default=0)
    return [found for line in lines if (found := _layer(line)) and _of_profile(found.name, first)]


def _layer(line: str) -> EngineLayer | None:
    """One line; an engine that was built without details has names alone."""
    if not line.strip():
        return None
    found = re.match(r"Name: (.*?), LayerType: ([^,]*), ", line)
    if not found:
        return EngineLayer(line.strip(), "", (), (), ())
    given, _, made = line.partition("Outputs: [")
    tactic = re.search(r"TacticName: ([^,]*)", line)
    nodes = re.findall(r"\[ONNX Layer: ([^\]\x1e]+)", line)
    return EngineLayer(
        name=found[1],
        kind=found[2],
        inputs=_types(given.partition("Constants: [")[0]),
        outputs=_types(made.partition("TacticName:")[0]),
        nodes=tuple(dict.fromkeys(nodes)),
        tactic=tactic[1] if tactic else "",
    )


def _of_profile(name: str, first: int) -> bool:
    if "[profile " in name:
        return False  # the first has no mark
    part = MYELIN.search(name)
    return part is None or int(part[1]) == first


def _types(tensors: str) -> tuple[str, ...]:
    found = (told.strip() for told in re.findall(r"[Dd]ata[Tt]ype: ([^,}]+)", tensors))
    return tuple(TYPES.get(told.split()[-1].lower() if told else "", told) for told in found)


def save(found: Sequence[EngineLayer], out: Path) -> None:
    """Write the layers beside the plan; nothing where there are none."""
    if found:
        text = json.dumps([asdict(layer) for layer in found], indent=1)
        (out / tensorrt_format.LAYERS).write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> list[EngineLayer]:
    """The layers that lie beside the plan in `path`, if any do."""
    file = path / tensorrt_format.LAYERS
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_bytes())
        return [schema.decode(EngineLayer, row) for row in rows]
    except (ValueError, TypeError):
        raise OptimizerError(f"{file} is no list of layers", "build the engine again") from None


def told(path: Path) -> str:
    """The types in words: of the layers where they are known, else of the graph that was built."""
    return describe(load(path)) or facts.load(path).precision()


def counts(found: Sequence[EngineLayer]) -> dict[str, int]:
    """Type -> convolutions and matrix products that multiply in it, the most frequent first."""
    return dict(Counter(layer.dtype for layer in found if layer.product).most_common())


def _together(floats: Counter[str]) -> str:
    """One type by its name, several with their layers: next to 8-bit kernels both of a mixed graph's types occur."""
    return " and ".join(
        name if len(floats) == 1 else f"{name} ({count} layers)" for name, count in floats.most_common()
    )


def describe(found: Sequence[EngineLayer]) -> str:
    """What the layers compute in, such as `int8 (21 of 22 convolutions and matrix products), float32 elsewhere`.

    Empty where nothing is known of them.
    """
    types = counts(found)
    total = sum(types.values())
    narrow = [name for name in NARROW if types.get(name)]
    floats = Counter(layer.dtype for layer in found if layer.dtype in FLOATS and (layer.product or not types))
    floats = floats or Counter(layer.dtype for layer in found if layer.dtype in FLOATS)
    rest = floats.most_common(1)[0][0] if floats else ""
    of = f"of {total} convolutions and matrix products"
    if narrow:
        first, *others = narrow
        parts = [f"{first} ({types[first]} {of})", *(f"{name} ({types[name]})" for name in others)]
        return ", ".join([*parts, *([f"{_together(floats)} elsewhere"] if rest else [])])
    return rest if not total or types.get(rest) == total else f"{rest} ({types.get(rest, 0)} {of})"
