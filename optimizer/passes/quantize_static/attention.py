"""Whether a graph is a transformer: a softmax whose result is multiplied with another activation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FUSED = frozenset((
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "ScaledDotProductAttention", "SkipLayerNormalization",
))  # fmt: skip
SOFTMAX = frozenset(("Softmax", "SoftMax"))
REACH = 5  # operations between softmax and product: guards against NaN, dropout, casts


@dataclass(frozen=True)
class Operation:
    """A node by type, and the values that it reads and writes."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def attends(operations: Iterable[Operation]) -> bool:
    """True when the graph holds attention, fused or spelled out."""
    every = list(operations)
    if any(operation.kind in FUSED for operation in every):
        return True
    readers: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in every:
        for name in operation.inputs:
            readers[name].append(operation)
    reached = [operation for operation in every if operation.kind in SOFTMAX]
    for _ in range(REACH):
        reached = [reader for operation in reached for name in operation.outputs for reader in readers[name]]
        if any(operation.kind == "MatMul" for operation in reached):
            return True
    return False
