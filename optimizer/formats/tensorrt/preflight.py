"""What would be refused if an engine were built of a model, found without building one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.formats import onnx as onnx_format
from optimizer.formats.tensorrt import constants, network, pairs
from optimizer.formats.tensorrt import flavour as flavours
from optimizer.formats.tensorrt.flavour import Flavour
from optimizer.formats.tensorrt.log import listening, logger
from optimizer.formats.tensorrt.network import Refusal


@dataclass(frozen=True)
class Preflight:
    """The nodes that stand in the way of an engine, and those that would run slower than their author may think."""

    library: str
    refused: tuple[Refusal, ...]
    slow: tuple[Refusal, ...]
    advice: str | None


def look(flavour: Flavour, file: Path) -> Preflight:
    """Ask the parser about every node of an ONNX file, and look at its Q/DQ pairs.

    Raises OptimizerError when the file is no ONNX model, or when the library is missing.
    """
    trt = flavours.library(flavour)
    onnx_format.check(file)  # files with weights included
    model = onnx_format.parse(file)
    if onnx_format.external_files(model):
        from onnx.external_data_helper import load_external_data_for_model

        load_external_data_for_model(model, str(file.parent))
    found = misread(model)
    named = {refusal.node for refusal in found}
    # What the parser says of no node is about a constant, which has its node's name here already.
    found += [r for r in _parser(trt, file, model) if r.node not in named and (r.node or not named)]
    advice = network.way_out(found) if found else None
    return Preflight(f"{flavour.title} {trt.__version__}", tuple(found), tuple(pairs.unused(model)), advice)


def misread(model: Any) -> list[Refusal]:
    """What the parser would refuse without a name, or take for something else without a word."""
    return [*network.too_new(model), *pairs.refused(model), *constants.refused(model)]


def _parser(trt: Any, file: Path, model: Any) -> list[Refusal]:
    """What the parser says of the whole model: of unknown operators all at once, of other faults the first."""
    with listening(trt) as log:
        builder = trt.Builder(logger(trt))
        empty = builder.create_network(network.typed(trt))  # the parser does not keep it alive
        parser = trt.OnnxParser(empty, logger(trt))
        if parser.supports_model_v2(file.read_bytes(), str(file)):
            return []
        return network.refusals(parser, model) or [Refusal("", "", log.reason())]
