"""What a runtime fuses and accepts when a graph is quantized for it. Plain data, standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class QuantScheme:
    """What one runtime fuses and accepts when a graph is quantized for it."""

    target: str
    format: str  # the artifact format on which this target wants to be quantized
    activation: Literal["uint8", "int8", "float8e4m3fn"] = "uint8"
    activation_symmetric: bool = False
    weight: Literal["int8", "uint8", "float8e4m3fn"] = "int8"
    per_channel: bool = True
    quantize_bias: bool = True
    qdq_on_weights: bool = False  # True: weights stay float behind Q/DQ pairs; False: stored as integers
    ops: tuple[str, ...] = ()  # ONNX op types whose quantized form this runtime has fast kernels for
    constant_weights_only: tuple[str, ...] = ()  # of these op types only nodes with a constant weight
    float_outputs: tuple[str, ...] = ()  # of these op types the output is left in float
    static: tuple[str, ...] = ("int8",)  # kinds of 8 bits that it has kernels for: "int8", "fp8"
    dynamic: bool = False  # has kernels for dynamically quantized MatMul
    weight_only: tuple[int, ...] = ()  # widths in bits of integer weights that it multiplies with float activations
    half: tuple[str, ...] = ()  # 16-bit float types that really run: "fp16", "bf16"
    fused: tuple[str, ...] = ()  # operators of its own that a graph should hold; empty: it fuses when it compiles

    @property
    def mixed(self) -> bool:
        """Whether 8-bit pairs may stand among 16-bit floats: where weights stay floats, their pairs type them."""
        return self.qdq_on_weights and bool(self.half)

    def by_channel(self, asked: bool | None) -> bool:
        """Whether each output channel of a weight has a scale of its own: as it was asked for, else as it is best."""
        return self.per_channel if asked is None else asked

    def of(self, kind: str) -> QuantScheme:
        """The scheme for a kind of 8 bits: floats have no zero point to move and no bias beside them in 32 bits."""
        if kind != "fp8":
            return self
        return replace(
            self, activation="float8e4m3fn", activation_symmetric=True, weight="float8e4m3fn", quantize_bias=False
        )


def paired_by(before: Sequence[str]) -> str | None:
    """Which of the steps `before` has put the model's weights and activations behind Q/DQ pairs, if one has."""
    return next((name for name in before if name in ("quantize.static", "quantize.inc", "qat")), None)


def quantized_before(before: Sequence[str]) -> str | None:
    """Why weights cannot be quantized behind the steps `before`, or None: two of them leave no float weights."""
    found = paired_by(before)
    return f"'{found}' has quantized the model by then; leave one of the two out" if found else None
