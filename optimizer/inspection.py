"""Looks at anything that optc reads or writes and says what it holds: as text for people, as JSON for programs."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimizer import anatomy, bundle, formats, recipe, registry, report, schema, shorthand
from optimizer.anatomy import Anatomy
from optimizer.console import duration, size, table
from optimizer.errors import OptimizerError
from optimizer.recipe import DataRef, Own, Recipe, Use
from optimizer.store import Store, StoredEntry
from optimizer.values import Run, Signature

GIVE = "give a model file, file.py:callable, a folder, a bundle (.tar.gz), a recipe (.yaml) or a run.json"
KEY = re.compile(r"[0-9a-f]{8,64}")
ARCHIVES = (".tar.gz", ".tgz")


@dataclass(frozen=True)
class View:
    """The same facts twice: as text, and as a JSON document."""

    text: str
    document: dict[str, Any]
    refused: bool = False  # a pre-flight that found something in the way


@dataclass(frozen=True)
class Asked:
    """What was said about a model that does not say it itself."""

    dims: Mapping[str, int]
    inputs: Mapping[str, str]
    weights: Path | None
    task: str | None


def preflight(thing: str, target: str) -> View:
    """Whether a target would take a model: every node that it refuses, found without building anything.

    `thing` is an ONNX file, an artifact that holds one, or the key of one. Raises OptimizerError for anything else, and
    for a target that takes every model as it is.
    """
    plugin = registry.load("targets", target)
    if not hasattr(plugin, "preflight"):
        able = [name for name in registry.names("targets") if hasattr(registry.load("targets", name), "preflight")]
        raise OptimizerError(
            f"the target '{target}' has no check of its own; available: {', '.join(able)}",
            f"build it to see: optc build {thing} --target {target}",
        )
    reason = plugin.probe()
    if reason:
        raise OptimizerError(f"the target '{target}' is not usable here: {reason}", "optc doctor shows all targets")
    found = plugin.preflight(_onnx(thing))
    lines = [f"{thing}: {'refused by' if found.refused else 'taken by'} {found.library}"]
    lines += [f"refused     {refusal}" for refusal in found.refused] + [f"slow        {each}" for each in found.slow]
    lines += [f"next        {found.advice}"] if found.advice else []
    return View("\n".join(lines), {"what": "preflight", "target": target, **asdict(found)}, refused=bool(found.refused))


def _onnx(thing: str) -> Path:
    """The ONNX file that is meant."""
    path = Path(thing).expanduser()
    if thing.endswith(".onnx"):
        if not path.is_file():
            raise OptimizerError(f"no such model file: {thing}", "check the path")
        return path
    if not path.is_dir() and KEY.fullmatch(thing):
        path = _entry_of(thing).path
    for place in (path, path / "files", path / "onnx", path / "model", path / "model" / "onnx"):
        if (place / "model.onnx").is_file():
            return place / "model.onnx"
    raise OptimizerError(f"'{thing}' holds no ONNX model", "give an .onnx file, or an artifact of the format onnx")


def look(thing: str, asked: Asked) -> View:
    """What `thing` holds; what it is is decided by its spelling, and for a folder by the files in it.

    Raises OptimizerError when there is no such thing, and when it cannot be read.
    """
    path = Path(thing).expanduser()
    if thing.endswith(ARCHIVES):
        return _bundle(path)
    if thing.endswith(".json"):
        return _run(path)
    if thing.endswith((".yaml", ".yml")) or thing in recipe.shipped():
        return _recipe(thing)
    if ":" in thing or thing.endswith(shorthand.MODEL_SUFFIXES):
        return _model(_loaded(thing, asked))
    if path.is_dir():
        return _folder(path, asked)
    if KEY.fullmatch(thing):
        return _stored(thing, asked)
    if path.suffix == ".py" and path.is_file():
        raise OptimizerError(f"'{thing}' is code: which model in it?", f"name the callable: {thing}:Net")
    if path.is_file():
        raise OptimizerError(f"'{thing}' is a file of no kind that can be inspected", GIVE)
    raise OptimizerError(
        f"'{thing}' is no folder, no stored key and no shipped recipe ({', '.join(recipe.shipped())})",
        GIVE,
    )


def _folder(path: Path, asked: Asked) -> View:
    kinds: dict[str, Callable[[], View]] = {
        "manifest.json": lambda: _bundle(path),
        "run.json": lambda: _run(path / "run.json"),
        "entry.json": lambda: _folder(path / "files", asked),
        "config.json": lambda: _model(_loaded(str(path.absolute()), asked)),
    }
    found = next((view for name, view in kinds.items() if (path / name).is_file()), None)
    return found() if found else _model(anatomy.artifact(path, asked.dims))


def _stored(key: str, asked: Asked) -> View:
    entry = _entry_of(key)
    return _folder(entry.path, asked) if entry.format in formats.FORMATS else _entry(entry)


def _entry_of(key: str) -> StoredEntry:
    found = [entry for entry in Store.open().entries() if entry.key.startswith(key)]
    if len(found) != 1:
        what = (
            f"{len(found)} stored artifacts have keys that begin"
            if found
            else "no stored artifact has a key that begins"
        )
        raise OptimizerError(f"{what} with '{key}'", "optc cache list shows all keys")
    return found[0]


def _entry(entry: StoredEntry) -> View:
    """A stored result that is no model: accuracy rows, findings about data."""
    files = {name: count for name, (count, _) in entry.record["files"].items()}
    lines = [
        f"stored      {entry.key}",
        f"made by     {entry.use}, {entry.format}",
        *(f"file        {name}  {size(count)}" for name, count in files.items()),
    ]
    document = {"what": "entry", "key": entry.key, "use": entry.use, "format": entry.format, "files": files}
    return View("\n".join(lines), {**document, "path": str(entry.path)})


def _loaded(thing: str, asked: Asked) -> Anatomy:
    """A model that is not an artifact of ours: an ONNX file as it is, anything else as a build would load it."""
    if thing.endswith(".onnx"):
        from optimizer.anatomy import onnx

        if not Path(thing).expanduser().is_file():
            raise OptimizerError(f"no such model file: {thing}", "check the path")
        return onnx.dissect(Path(thing).expanduser(), asked.dims)
    from optimizer import sketch

    spec, _ = sketch.specification(thing, asked.inputs, asked.weights, asked.task)
    with tempfile.TemporaryDirectory(prefix="optc-inspect-") as folder:
        sketch.load(spec, Path(folder))
        return anatomy.artifact(Path(folder), asked.dims)


def _model(found: Anatomy) -> View:
    lines = [found.kind + "".join(f"  {name}: {_fact(value)}" for name, value in found.facts.items()), ""]
    lines += _tensors(found.signature)
    shares = ", ".join(f"{count:,} {dtype}" for dtype, count in found.parameters.items())
    lines.append(f"parameters  {found.values:,}" + (f"  ({shares})" if shares else ""))
    at = ", ".join(f"{name} {value}" for name, value in found.sizes.items())
    lines.append(f"MACs        {_macs(found)}" + (f"  at {at}" if at and found.macs is not None else ""))
    lines += [f"missing     {name}  (holds weights: copy it beside the model)" for name in found.missing]
    rows = [[name, f"{count:,}"] for name, count in found.operators.items()]
    lines += ["", table(rows, ["layer" if found.layers else "operator", "count"], right=[1])]
    if found.layers:
        rows = [[each.name[:44], each.kind, each.reads, each.writes, _some(each.nodes)] for each in found.layers]
        lines += ["", table(rows, ["layer", "kind", "reads", "writes", "nodes of the ONNX model"])]
    return View("\n".join(lines), {"what": "model", **asdict(found)})


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _fact(value: Any) -> str:
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _macs(found: Anatomy) -> str:
    if found.macs is None:
        return "not counted" + (f" (shapes unknown: {', '.join(found.uncounted)})" if found.uncounted else "")
    more = f" without {', '.join(found.uncounted)} (shapes unknown)" if found.uncounted else ""
    return f"{found.macs:,}{more}"


def _tensors(signature: Signature) -> list[str]:
    named = [("input", spec) for spec in signature.inputs] + [("output", spec) for spec in signature.outputs]
    return [f"{kind:<11} {spec!s:<32} {spec.name}" for kind, spec in named]


def _bundle(path: Path) -> View:
    checked = bundle.verify(path, run_samples=False)
    manifest = checked.manifest
    runtime, machine = manifest.runtime, manifest.environment
    lines = [
        f"bundle      {manifest.bundle}  (every byte as packed; samples not run: optc verify)",
        f"candidate   {manifest.candidate} of {manifest.name}, {manifest.created}",
        f"model       {manifest.model}  {size(manifest.size)} in {len(manifest.files)} files",
        *_tensors(manifest.signature),
        f"runtime     {runtime.distribution} {runtime.version}, {'built' if manifest.pending else 'ran'} as "
        f"{runtime.precision}",
        f"{'built on' if manifest.pending else 'measured on':<11} {machine.cpu}, {machine.architecture}",
        f"license     {manifest.weights_license or 'not stated'}",
        f"samples     {len(manifest.samples)}, tolerance {manifest.tolerance:g}",
    ]
    lines += [f"verdict     {v.outcome}  {v.gate}: {v.reason}" for v in manifest.verdicts]
    lines += [f"note        {finding}" for finding in checked.findings]
    rows = [[name, size(record.size), record.sha256[:16]] for name, record in manifest.files.items()]
    lines += ["", table(rows, ["file", "size", "sha256"], right=[1])]
    return View("\n".join(lines), {"what": "bundle", **manifest.model_dump(mode="json", by_alias=True)})


def _recipe(reference: str) -> View:
    found = recipe.load(reference)
    model = found.model
    lines = [
        f"recipe      {found.name}  {found.description}".rstrip(),
        f"model       {model.entry or model.file or model.hf}",
    ]
    lines += [f"weights     {model.weights}"] if model.weights else []
    lines += [f"input       {text:<32} {name}" for name, text in model.inputs.items()]
    lines += [f"data        {role}: {_source(data)}" for role, data in found.data.items()]
    lines += [f"variant     {name}: {_variant(variant)}" for name, variant in found.variants.items()]
    lines.append(f"targets     {_uses(found.targets)}")
    lines.append(f"baseline    {found.baseline or 'the variant without steps'}")
    lines.append(f"metrics     {_uses(found.measure.metrics) or 'none'}")
    lines.append(f"latency     {_latency(found)}")
    lines += [f"gate        {gate}" for gate in found.gates] or ["gates       none"]
    lines.append(f"steps and their state in the store: optc plan {reference}")
    return View("\n".join(lines), {"what": "recipe", **found.model_dump(mode="json", by_alias=True)})


def _source(data: Any) -> str:
    return data.ref if isinstance(data, DataRef) else str(data.source)


def _variant(found: list[Use] | dict[str, Own]) -> str:
    if isinstance(found, list):
        return _uses(found) or "as it is"
    own = (
        (name, _uses(o.steps) or "as it is", f", options {o.options}" if o.options else "") for name, o in found.items()
    )
    return "; ".join(f"on {name}: {steps}{options}" for name, steps, options in own)


def _uses(uses: list[Use]) -> str:
    return ", ".join(f"{use.name} {use.options}" if use.options else use.name for use in uses)


def _latency(found: Recipe) -> str:
    spec = found.measure.latency
    if spec is None:
        return "not measured"
    batches = ", ".join(map(str, spec.batch))
    return f"batch {batches}, {spec.threads} threads, {spec.restarts} restarts, {spec.seconds:g} s each"


def read_run(path: Path) -> tuple[Run, dict[str, Any]]:
    """The run record at `path` (run.json, or the folder that holds it), and its JSON."""
    file = path / "run.json" if path.is_dir() else path
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise OptimizerError(f"no such run record: {file}", "optc build writes one as build/NAME/run.json") from None
    return schema.load_run(data, str(file)), json.loads(data)


def _run(path: Path) -> View:
    run, document = read_run(path)
    rows, header, right = report.table(run)
    lines = [
        f"run         {run.name}, {run.created}, {duration(run.seconds)}, optc {run.version}",
        f"machine     {run.machine.cpu}, {run.machine.cores} cores, {run.machine.os}, Python {run.machine.python}",
        *(f"data        {d.role}: {d.name}, {d.examples} examples" for d in run.data),
        *(f"step        {s.key[:12]}  {s.use}: {s.format}, {size(s.size)}" for s in run.steps),
        "",
        table(rows, header, right),
        "",
        *(f"verdict     {v.outcome}  {v.subject}  {v.gate}: {v.reason}" for v in run.verdicts),
        report.verdict_sentence(run),
    ]
    return View("\n".join(lines), {"what": "run", **document})
