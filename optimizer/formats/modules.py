"""Rebuilds a PyTorch module from the files that a record names: user code, torch.export, TorchScript, Hugging Face."""

from __future__ import annotations

import contextlib
import inspect
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import usercode
from optimizer.errors import OptimizerError, missing_extra
from optimizer.formats import edits, weights
from optimizer.formats.quiet import quiet
from optimizer.formats.record import LARGE, Built, Record

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(record: Record) -> Built:
    """The module of a record, in eval mode, weights loaded, edits replayed, on the CPU.

    Raises OptimizerError for whatever is wrong with the user's code or files.
    """
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "torch", "loading a PyTorch model") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(record.seed)  # a module without weights must be the same one each time
        built = _build(record)
    edits.apply(built.module, record.edits)
    return built


def _build(record: Record) -> Built:
    names = [spec.name for spec in record.signature.inputs]
    if record.entry:
        module = _from_entry(record)
        return Built(module, _by_name(module, names))
    if record.hf:
        from optimizer.formats import huggingface

        return huggingface.build(Path(record.hf), record.task)
    file = Path(str(record.file))
    if file.suffix == ".pt2":
        program = read_program(file)
        return Built(program.module(), _keywords_only(program))
    return Built(_from_torchscript(file), keywords=False)


def _from_entry(record: Record) -> nn.Module:
    from torch import nn

    entry = str(record.entry)
    module = usercode.load(entry)(**record.args)
    if not isinstance(module, nn.Module):
        raise OptimizerError(
            f"{entry} returned a {type(module).__name__}, not a torch.nn.Module",
            "name a class that derives from nn.Module, or a function that returns one",
        )
    if record.weights:
        weights.load_into(module, Path(record.weights))
    module.eval()
    if any(inner.training for inner in module.modules()):
        raise OptimizerError(f"{entry}: the module stays in training mode after eval()", "do not override train()")
    return module


def _by_name(module: nn.Module, names: list[str]) -> bool:
    parameters = inspect.signature(module.forward).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return all(name in parameters and parameters[name].kind in by_name for name in names)


def _from_torchscript(file: Path) -> nn.Module:
    import torch

    try:
        with quiet():  # it is deprecated, and says so to everybody
            module: nn.Module = torch.jit.load(str(file), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise OptimizerError(
            f"{file} is no TorchScript archive: {reason}",
            "a file of weights goes into model.weights, beside model.entry: file.py:callable",
        ) from None
    module.eval()
    return module


def read_program(file: Path) -> torch.export.ExportedProgram:
    """The program of a `.pt2` file. Pickled objects in it are refused, not executed."""
    import pickle

    import torch

    if not zipfile.is_zipfile(file):
        raise OptimizerError(f"{file} is no torch.export archive", "write it with torch.export.save(program, path)")
    with zipfile.ZipFile(file) as archive:
        objects = [n for n in archive.namelist() if Path(n).name.startswith(("custom_obj_", "opaque_obj_"))]
    if objects:
        raise OptimizerError(
            f"{file} holds pickled objects ({', '.join(objects[:3])}), which are not unpickled",
            "export the model without custom objects",
        )
    try:
        with _weights_only(), quiet():
            program = torch.export.load(file)
    except (RuntimeError, ValueError, KeyError, AssertionError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise OptimizerError(
            f"{file} cannot be read as a torch.export archive: {reason}",
            "write it again with torch.export.save of this PyTorch version",
        ) from None
    _refuse_training(program, file)
    return program


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    # torch.export.load has no such argument and falls back to full unpickling; this variable forbids it.
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _refuse_training(program: Any, file: Path) -> None:
    """A program keeps the mode it was exported in; batch norm and dropout show it."""
    where = {"aten.dropout.default": 2, "aten.batch_norm.default": 5, "aten.instance_norm.default": 5}
    for node in program.graph.nodes:
        index = where.get(str(node.target))
        if index is not None and len(node.args) > index and node.args[index] is True:
            raise OptimizerError(
                f"{file} was exported in training mode ({node.target})", "call model.eval() before torch.export.export"
            )


def program_inputs(program: Any) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """The inputs of an exported program as the recipe would write them, and the sizes of the free dimensions that it
    bounds, where below alone the largest is `LARGE`; free dimensions get names."""
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    named: dict[str, str] = {}
    found = {}
    for name in program.graph_signature.user_inputs:
        value = nodes.get(name)
        if value is None or not hasattr(value, "shape"):
            raise OptimizerError(f"the exported program's input '{name}' is no tensor", "export it with tensor inputs")
        dims = [str(d) if isinstance(d, int) else _dim(str(d), i, named) for i, d in enumerate(value.shape)]
        found[name] = f"{str(value.dtype).removeprefix('torch.')}[{','.join(dims)}]"
    ranges = {str(symbol): (span.lower, span.upper) for symbol, span in program.range_constraints.items()}
    bounds = {
        named[s]: (max(int(low), 1), int(high) if high.is_Integer else LARGE)
        for s, (low, high) in ranges.items()
        if s in named and low.is_Integer
    }
    # From 0, 1 or 2 on is what torch says of every size that nobody bounds.
    return found, {name: (low, high) for name, (low, high) in bounds.items() if low > 2 or high < LARGE}


def _dim(symbol: str, axis: int, named: dict[str, str]) -> str:
    if symbol not in named:
        named[symbol] = "batch" if axis == 0 and not named else f"dim{len(named)}"
    return named[symbol]


def _keywords_only(program: Any) -> bool:
    """Whether the program was exported with its inputs given by name."""
    positional, named = program.module_call_graph[0].signature.in_spec.children()
    return bool(named.num_leaves) and not positional.num_leaves
