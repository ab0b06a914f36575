"""ONNX -> TensorRT's network: parsed, and every refusal traced back to the node that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats.onnx_names import KEPT_METADATA
from optimizer.formats.tensorrt.flavour import Flavour
from optimizer.formats.tensorrt.log import Log, logger
from optimizer.values import Signature

if TYPE_CHECKING:
    import onnx

STACK = "pkg.torch.onnx.stack_trace"  # what torch.onnx.export(dynamo=True) writes beside a node


@dataclass(frozen=True)
class Refusal:
    """One thing that the parser does not take."""

    node: str  # "" where it is about the whole model
    op: str
    reason: str
    place: str = ""  # the module, and the line of the user's code where the export left it

    def __str__(self) -> str:
        where = f"{self.op} '{self.node}'" if self.node else self.op or "the model"
        return f"{where}{f' ({self.place})' if self.place else ''}: {self.reason}"


@dataclass(frozen=True)
class Parsed:
    """A network and what must live as long as it does."""

    builder: Any
    network: Any
    parser: Any


def parse(trt: Any, flavour: Flavour, file: Path, log: Log, plugins: tuple[Path, ...] = ()) -> Parsed:
    """The strongly typed network of an ONNX file. Raises OptimizerError that names the nodes which are refused."""
    voice = logger(trt)
    load_plugins(trt, plugins)
    builder = trt.Builder(voice)
    network = builder.create_network(typed(trt))
    parser = trt.OnnxParser(network, voice)
    if not parser.parse_from_file(str(file)):
        found = refusals(parser, onnx_format.parse(file)) or [
            Refusal("", "", "; ".join(log.faults()[:2]) or "no reason")
        ]
        raise refused(f"{flavour.title} {trt.__version__} cannot parse the model", found)
    return Parsed(builder, network, parser)


def require_signature(parsed: Parsed, signature: Signature, flavour: Flavour) -> None:
    """Raise OptimizerError where the network's inputs or outputs have other types than the model's."""
    trt_types = {
        tensor.name: layer_type(tensor.dtype) for tensor in (*inputs(parsed.network), *outputs(parsed.network))
    }
    for spec in (*signature.inputs, *signature.outputs):
        found = trt_types.get(spec.name)
        if found is None:
            raise OptimizerError(
                f"{flavour.title} dropped '{spec.name}', it has {', '.join(trt_types)}",
                "an input that no output depends on has to be left out of the model",
            )
        if found != spec.dtype:
            raise OptimizerError(
                f"'{spec.name}' is {spec.dtype}, for which {flavour.title} has no type (it would be {found})",
                f"export the model with {found} there",
            )


def layer_type(dtype: Any) -> str:
    """A TensorRT type in our words."""
    name = str(dtype).rpartition(".")[2].lower()
    return {"float": "float32", "half": "float16", "bf16": "bfloat16"}.get(name, name)


def typed(trt: Any) -> int:
    """The creation flags of a strongly typed network. Version 11 knows no other kind and may drop the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def load_plugins(trt: Any, plugins: tuple[Path, ...]) -> None:
    """Load the user's operators, and the library's own where it keeps some apart."""
    if hasattr(trt, "init_libnvinfer_plugins") and trt.__name__ == "tensorrt":
        trt.init_libnvinfer_plugins(logger(trt), "")
    for path in plugins:
        if trt.get_plugin_registry().load_library(str(path)) is None:
            raise OptimizerError(
                f"the plugin library {path} cannot be loaded", "check that it fits this library's version"
            )


def refusals(parser: Any, model: onnx.ModelProto) -> list[Refusal]:
    """The parser's errors, each once, with the node that it is about."""
    found: dict[Refusal, None] = {}
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        found[_refusal(error, model)] = None
    return list(found)


def _refusal(error: Any, model: onnx.ModelProto) -> Refusal:
    name, op, index = str(error.node_name()), str(error.node_operator()), int(error.node())
    inner = list(error.local_function_stack()) if error.local_function_stack_size() else []
    nodes = list(model.graph.node)
    node = next((n for n in nodes if name and n.name == name), None)
    if node is None and not inner and 0 <= index < len(nodes) and op in ("", nodes[index].op_type):
        node = nodes[index]
    reason = readable(str(error.desc()), str(error.code()).rpartition(".")[2])
    if node is None:
        return Refusal(name, op, reason, " > ".join(inner))
    return Refusal(node.name or name or node.output[0], node.op_type, reason, place(node))


def readable(text: str, code: str) -> str:
    """The parser's description without the C++ condition that it begins with; by its code where nothing is left."""
    text = " ".join(text.split()).removeprefix("Assertion failed: ")
    quoted = re.search(r'&&\s*"([^"]+)"', text)
    sentence = re.search(r": ([A-Z].*)$", text)
    said = text if text[:1].isupper() and not text.startswith("Invalid Node - ") else ""  # which repeats its name alone
    found = quoted[1] if quoted else sentence[1] if sentence else said
    return found[:300].rstrip(". ") or CODES.get(code, code.lower().replace("_", " "))


CODES = {
    "UNSUPPORTED_NODE": "there is no such operator",
    "UNSUPPORTED_NODE_ATTR": "one of its attributes is not supported",
    "UNSUPPORTED_NODE_INPUT": "one of its inputs is not supported",
    "UNSUPPORTED_NODE_DATATYPE": "the type of its inputs is not supported",
    "UNSUPPORTED_NODE_DYNAMIC": "it is not supported with free dimensions",
    "UNSUPPORTED_NODE_SHAPE": "the shape of its inputs is not supported",
    "INVALID_NODE": "it breaks a rule of its operator, or of what the library can hold; its log says no more",
}


def place(node: Any) -> str:
    """Where a node comes from: the module it belongs to and the line of the user's code, as far as the file says."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = [part.strip(" []'\"") for part in notes.get(KEPT_METADATA, "").split(",")]
    module = next((scope for scope in reversed(scopes[:-1] or scopes) if scope), "")
    lines = re.findall(r'File "([^"]+)", line (\d+)', notes.get(STACK, "") or node.doc_string)
    code = f"{Path(lines[-1][0]).name}, line {lines[-1][1]}" if lines else ""
    return ", ".join(part for part in (f"module {module}" if module else "", code) if part)


def too_new(model: onnx.ModelProto) -> list[Refusal]:
    """A newer opset than is known here: the parser takes it without a word, whatever has changed in it."""
    import onnx

    known = onnx.defs.onnx_opset_version()
    return [
        Refusal(
            "", "", f"its opset {entry.version} is newer than {known}, the newest that onnx {onnx.__version__} knows"
        )
        for entry in model.opset_import
        if entry.domain in ("", "ai.onnx") and entry.version > known
    ]


def refused(what: str, found: list[Refusal]) -> OptimizerError:
    """The error for nodes that stand in the way."""
    return OptimizerError(f"{what}: {_listed(found)}", way_out(found))


def _listed(found: list[Refusal]) -> str:
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(map(str, found[:3])) + more


def way_out(found: list[Refusal]) -> str:
    """What to do about these refusals."""
    text = " ".join(f"{refusal.op} {refusal.reason}" for refusal in found).lower()
    for words, advice in ADVICE:
        if any(word in text for word in words):
            return advice
    return "write that part of the model otherwise, or in operators of your own (option plugins); other targets take it"


ADVICE = (
    (("lies outside",), "correct the index in the model: of N entries ONNX counts -N to N-1"),
    (
        ("that the parser does not know", "float64 becomes", "int32 cannot hold"),
        "write the constant in a type that holds it and that TensorRT has: float32, float16, bfloat16, int64, int32",
    ),
    (
        ("zero point", "uint8", "bias in int32", "its scale"),
        "quantize for this target: quantize.static writes symmetric pairs for it",
    ),
    (("opset",), "export with an older opset: export: {opset: 18}"),
    (
        ("no such operator", "plugin not found", "no importer", "plugin creator"),
        "write the model without it, or give it as a plugin library (option plugins); other targets are not affected",
    ),
)


def inputs(network: Any) -> Iterator[Any]:
    """The network's inputs in order."""
    return (network.get_input(i) for i in range(network.num_inputs))


def outputs(network: Any) -> Iterator[Any]:
    """The network's outputs in order."""
    return (network.get_output(i) for i in range(network.num_outputs))
