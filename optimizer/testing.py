"""The contract of every kind of plugin, as checks that third parties run in their own tests too.

    from optimizer import testing
    import my_package.clip_weights

    def test_contract():
        testing.check_pass(my_package.clip_weights)

A check raises AssertionError with every fault at once.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from optimizer.formats import FORMATS
from optimizer.protocols import Batch, Labels
from optimizer.scheme import QuantScheme
from optimizer.values import Better, Unit

if TYPE_CHECKING:
    import numpy as np

HEAVY = (
    "torch", "onnx", "onnxruntime", "openvino", "nncf", "transformers", "tokenizers", "pyarrow", "PIL", "onnxslim",
    "onnxscript", "onnxconverter_common", "safetensors", "tensorrt", "tensorrt_rtx", "sklearn", "scipy", "pandas",
    "pycocotools", "jiwer", "torch_pruning", "neural_compressor", "torchao",
)  # fmt: skip
ROLES = ("calibrate", "evaluate", "select", "train")


def check_pass(module: ModuleType) -> None:
    """A pass has all that the planner and the executor ask of it."""
    _raise(module, [*_common(module), *_step(module)])


def check_target(module: ModuleType) -> None:
    """A target is a pass that also opens what it made, and says whether it is usable here."""
    _raise(module, [*_common(module), *_step(module), *_target(module)])


def check_source(module: ModuleType) -> None:
    """A source opens its options as a sequence of examples."""
    faults = [*_common(module), *_functions(module, {"open": 1})]
    faults += _functions(module, {"columns": 1}) if hasattr(module, "columns") else []
    _raise(module, faults)


def check_metric(
    module: ModuleType,
    outputs: Mapping[str, np.ndarray] | None = None,
    batch: Batch | None = None,
    options: BaseModel | None = None,
) -> None:
    """A metric has all that measuring asks of it.

    With `outputs` and a `batch` of at least four examples it is run: rows must be finite and one per example, and
    `weighted`, where there is one, must agree with `summarize`.
    """
    faults = [*_common(module), *_metric(module)]
    if not faults and outputs is not None and batch is not None:
        faults += _measured(module, outputs, batch, options or module.Options())
    _raise(module, faults)


def check_layout(module: ModuleType) -> None:
    """A layout writes a bundle for a model server."""
    _raise(module, [*_common(module), *_functions(module, {"write": 3})])


CHECKS: dict[str, Callable[[ModuleType], None]] = {
    "passes": check_pass,
    "targets": check_target,
    "sources": check_source,
    "metrics": check_metric,
    "layouts": check_layout,
}
"""The check of each kind of plugin, by the name of its registry and entry point group."""


def check_imports(*modules: str) -> None:
    """Importing these modules, in a fresh interpreter, loads no heavy library: planning and listing stay fast."""
    code = (
        "import importlib, json, sys\n"
        "heavy, names = map(json.loads, sys.argv[1:])\n"
        "found = {}\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "    for library in set(heavy) & set(sys.modules):\n"
        "        found.setdefault(library, name)\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(HEAVY), json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own interpreter and code
    if done.returncode:
        raise AssertionError(f"cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found:
        listed = "; ".join(f"importing {name} loads {library}" for library, name in found.items())
        raise AssertionError(f"{listed}: import heavy libraries inside functions")


def _raise(module: ModuleType, faults: Sequence[str]) -> None:
    if faults:
        raise AssertionError(f"{module.__name__}: " + "; ".join(faults))


def _common(module: ModuleType) -> Iterator[str]:
    """A docstring, and options that are strict, documented and sound."""
    if not (module.__doc__ or "").strip():
        yield "has no docstring; its first sentence is shown by optc list"
    options = getattr(module, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        yield "Options is not a pydantic model; derive it from optimizer.schema.Strict"
        return
    if options.model_config.get("extra") != "forbid" or not options.model_config.get("frozen"):
        yield "Options accepts unknown keys or can be changed; derive it from optimizer.schema.Strict"
    options.model_json_schema()
    for name, info in options.model_fields.items():
        yield from _field(name, info)


def _field(name: str, info: FieldInfo) -> Iterator[str]:
    if not info.description and not _plain(info):
        yield f"the option '{name}' has no description"
    if info.is_required():
        return
    kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    try:
        TypeAdapter(kind).validate_python(info.get_default(call_default_factory=True))
    except ValidationError as error:
        yield f"the default of the option '{name}' is not valid: {error.errors()[0]['msg']}"


def _plain(info: FieldInfo) -> bool:
    """Whether a choice explains itself: a literal with its alternatives in the type."""
    return "Literal" in str(info.annotation)


def _functions(module: ModuleType, arguments: Mapping[str, int]) -> Iterator[str]:
    for name, count in arguments.items():
        found = getattr(module, name, None)
        if not callable(found):
            yield f"has no function {name}"
            continue
        try:
            inspect.signature(found).bind(*range(count))
        except TypeError:
            yield f"{name} does not take {count} arguments"


def _step(module: ModuleType) -> Iterator[str]:
    version = getattr(module, "VERSION", None)
    if not isinstance(version, int) or version < 1:
        yield "VERSION is not a positive integer"
    for name, allowed in (("CONSUMES", tuple(FORMATS)), ("DATA", ROLES), ("TOOLS", None)):
        found = getattr(module, name, None)
        if not isinstance(found, tuple) or not all(isinstance(item, str) for item in found):
            yield f"{name} is not a tuple of names"
        elif allowed is not None and not set(found) <= set(allowed):
            yield f"{name} holds {', '.join(sorted(set(found) - set(allowed)))}; known: {', '.join(allowed)}"
    produces = getattr(module, "PRODUCES", "missing")
    if produces is not None and produces not in FORMATS:
        yield f"PRODUCES is {produces!r}, neither None nor one of {', '.join(FORMATS)}"
    if not isinstance(getattr(module, "SCHEMED", None), bool):
        yield "SCHEMED is not True or False"
    limit = getattr(module, "LIMIT", "missing")
    if limit is not None and (not isinstance(limit, int | float) or limit < 0):
        yield "LIMIT is neither None nor a tolerance"
    yield from _rows(module)
    yield from _functions(module, {"run": 4})
    for name in ("data", "tools", "welcome"):
        if hasattr(module, name):
            yield from _functions(module, {name: 1})
    if hasattr(module, "refuse"):
        yield from _functions(module, {"refuse": 2})


def _rows(module: ModuleType) -> Iterator[str]:
    """What a search may try are options that the module takes."""
    rows = getattr(module, "SEARCH", ())
    if not isinstance(rows, tuple) or not all(isinstance(row, Mapping) for row in rows):
        yield "SEARCH is not a tuple of options"
        return
    for row in rows:
        try:
            module.Options.model_validate(dict(row))
        except ValidationError as error:
            yield f"SEARCH holds {dict(row)}, which Options refuses: {error.errors()[0]['msg']}"


def _target(module: ModuleType) -> Iterator[str]:
    scheme = getattr(module, "SCHEME", None)
    if not isinstance(scheme, QuantScheme):
        yield "SCHEME is no QuantScheme"
    elif scheme.format not in (*module.CONSUMES, module.PRODUCES):
        yield f"SCHEME.format is {scheme.format}, which the target neither takes nor makes"
    inside = getattr(module, "QDQ", None)
    if inside is not None and not (isinstance(inside, QuantScheme) and inside.format == "onnx" in module.CONSUMES):
        yield "QDQ is no QuantScheme for ONNX, or the target does not take ONNX"
    if getattr(module, "PRODUCES", None) is None:
        yield "PRODUCES is None: a target opens one format"
    yield from _functions(module, {"probe": 0, "open": 2})
    if hasattr(module, "side_by_side"):
        yield from _functions(module, {"side_by_side": 2})
    unknown = set(getattr(module, "COMPILE", ())) - set(module.Options.model_fields)
    if unknown:
        yield f"COMPILE names {', '.join(sorted(unknown))}, which are no options"
    if callable(getattr(module, "probe", None)):
        reason = module.probe()
        if reason is not None and not (isinstance(reason, str) and reason.strip()):
            yield "probe() returns neither None nor a reason"


def _metric(module: ModuleType) -> Iterator[str]:
    typed = (("UNIT", Unit), ("BETTER", Better), ("AGAINST", Literal["labels", "baseline"]))
    for name, kind in (*typed, *([("LABELS", Labels)] if hasattr(module, "LABELS") else [])):
        allowed = get_args(kind)
        if getattr(module, name, None) not in allowed:
            yield f"{name} is not one of {', '.join(map(repr, allowed))}"
    if not isinstance(getattr(module, "SHARE", False), bool):
        yield "SHARE is not True or False"
    if not all(isinstance(tool, str) for tool in getattr(module, "TOOLS", ())):
        yield "TOOLS is not a tuple of names"
    yield from _functions(module, {"examples": 3, "summarize": 1})
    if hasattr(module, "constant"):
        yield from _functions(module, {"constant": 2})
    if getattr(module, "AGAINST", None) == "baseline":
        yield from _functions(module, {"compare": 2})
    if hasattr(module, "weighted"):
        yield from _functions(module, {"weighted": 2})


def _measured(module: ModuleType, outputs: Mapping[str, np.ndarray], batch: Batch, options: BaseModel) -> Iterator[str]:
    """Faults of what a metric computes."""
    import numpy as np

    count = len(batch.indices)
    rows = module.examples(outputs, batch, options)
    if rows.ndim != 2 or len(rows) != count:
        yield f"examples returned shape {list(rows.shape)} for {count} examples, not (examples, k)"
        return
    fill = getattr(module, "FILL", None)
    filled = np.zeros(rows.shape, bool) if fill is None else (rows == fill) | (np.isnan(rows) & np.isnan(fill))
    if not np.isfinite(rows[~filled]).all():
        yield "examples returned NaN or infinity"
    if module.AGAINST == "baseline":
        rows = module.compare(rows, rows)
    whole = module.summarize(rows)
    if not isinstance(whole, float) or not np.isfinite(whole):
        yield f"summarize returned {whole!r}, not a finite float"
        return
    if getattr(module, "SHARE", False) and not (np.isin(rows, (0, 1)).all() and np.isclose(whole, 100 * rows.mean())):
        yield "SHARE is True, but rows are not 1 or 0, or the summary is not their percentage"
    if not np.isclose(module.summarize(rows[::-1]), whole):
        yield "summarize depends on the order of the examples"
    if hasattr(module, "weighted"):
        drawn = np.random.default_rng(0).integers(0, count, (3, count))
        counts = np.stack([np.bincount(draw, minlength=count) for draw in drawn])
        repeated = [module.summarize(rows[draw]) for draw in drawn]
        if not np.allclose(module.weighted(rows, counts), repeated):
            yield "weighted does not agree with summarize on repeated examples"
