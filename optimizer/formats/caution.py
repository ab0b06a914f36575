"""What a quantizer should not pass over in silence: poor calibration data, and weights that it hardly reached."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from optimizer.formats.calibration import Calibration
from optimizer.formats.nodes import PAIR
from optimizer.formats.taps import rows

if TYPE_CHECKING:
    import onnx

SMALL = 0.5  # share of a model's weights below which somebody may have expected more
NARROW = frozenset((2, 3, 17, 18, 19, 20, 21, 22))  # UINT8, INT8, the 8-bit floats, UINT4, INT4 of onnx.TensorProto
WIDE = frozenset((1, 10, 16))  # FLOAT, FLOAT16, BFLOAT16
FEW = 16  # samples; with fewer, larger values than were seen are common in other data


def few(data: Calibration, warn: Callable[[str], None]) -> None:
    """Warn when there are hardly any samples."""
    count = len(data)
    if count < FEW:
        warn(
            f"only {count} calibration sample{'s' if count > 1 else ''}: other data will hold values beyond those "
            "seen; 100 to 500 are usual (options samples, and take of the data)"
        )


def constant(data: Calibration, warn: Callable[[str], None]) -> None:
    """Warn of float inputs of the model that have one value throughout the first samples.

    Integers are let alone: masks and kinds of tokens may well be the same for all.
    """
    ends: dict[str, set[float]] = {spec.name: set() for spec in data.signature.inputs if spec.dtype.startswith("float")}
    count = 0
    for feeds in data.feeds() if ends else ():
        for name, found in ends.items():
            found |= {float(feeds[name].min()), float(feeds[name].max())} if feeds[name].size else set()
        count += rows(feeds)
        if count >= FEW:
            break
    for name, found in ends.items():
        if len(found) == 1:
            warn(
                f"the input '{name}' is {found.pop():g} throughout the first {count} calibration samples; "
                "is this the data that is meant?"
            )


def little(model: onnx.ModelProto, warn: Callable[[str], None]) -> None:
    """Warn when most of a quantized graph's weights are floats that no pair turns into integers, and say whose."""
    readers = {name: (n.op_type, place) for n in reversed(model.graph.node) for place, name in enumerate(n.input)}
    narrow, wide = 0, Counter[str]()
    for tensor in model.graph.initializer:
        reader, place = readers.get(tensor.name, ("", 0))
        if tensor.data_type in NARROW or (tensor.data_type in WIDE and (reader, place) == ("QuantizeLinear", 0)):
            narrow += math.prod(tensor.dims)
        elif tensor.data_type in WIDE and reader not in PAIR:  # else it is a scale
            wide[reader] += math.prod(tensor.dims)
    share = narrow / max(1, narrow + wide.total())
    if share < SMALL:
        rest = ", ".join(op for op, _ in wide.most_common(3))
        warn(f"{share:.0%} of the model's weights are in 8 bits; most of the others are read by {rest}")
