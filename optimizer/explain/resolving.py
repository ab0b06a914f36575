"""From what the user named (a run, a recipe, two model files) to the subject that is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer import content, dataset, formats, recipe, registry, schema
from optimizer import machine as machines
from optimizer.console import Console
from optimizer.errors import OptimizerError, unknown
from optimizer.explain.keep import STEP
from optimizer.explain.subject import Subject
from optimizer.plan import Plan, plan
from optimizer.produce import Producer
from optimizer.recipe import DataRef, Recipe
from optimizer.relocation import located
from optimizer.store import Store
from optimizer.values import Artifact, Candidate, Run, Signature

MODELS = {".onnx": "onnx", ".xml": "openvino"}
TARGETS = {"onnx": "onnxruntime", "openvino": "openvino"}
ROLES = ("evaluate", "calibrate", "train")


@dataclass(frozen=True)
class Files:
    """What was said about two model files."""

    candidate: Path
    against: Path | None = None
    data: str | None = None
    label: str | None = None
    metrics: Sequence[str] = ()


def is_model(reference: str) -> bool:
    """Whether a reference is a model file; decided by its spelling."""
    return Path(reference).suffix in MODELS


def from_run(run: Run, where: Path, name: str | None, store: Store) -> Subject:
    """A candidate of a finished build, its artifacts taken from the store."""
    candidate = _candidate(name, run.candidates, f"the run {where}")
    planned = plan(_recipe(run, where))
    against = _against(planned, candidate.name)
    ours = _stored(candidate, run, store)
    others = {c.name: c for c in run.candidates}
    baseline = _stored(others[against], run, store) if against in others else None
    inner = [_inner(key, run, store) for key in candidate.steps]
    return _subject(planned, candidate, ours, against, baseline, inner)


def from_recipe(reference: str, name: str | None, store: Store, console: Console) -> Subject:
    """A candidate of a recipe: it and its baseline are built where the store does not have them."""
    planned = plan(recipe.load(reference))
    candidate = _candidate(name, planned.candidates, f"the recipe '{reference}'")
    against = _against(planned, candidate.name)
    known = {c.name: c for c in planned.candidates}
    wanted = {*candidate.steps, *(known[against].steps if against else ())}
    producer = Producer(planned, store, console)
    for step in planned.steps:
        if step.key in wanted:
            producer.produce(step)
    made = {key: producer.done[key].artifact for key in wanted}
    baseline = made[str(known[against].artifact)] if against else None
    inner = [made[key] for key in candidate.steps]
    return _subject(planned, candidate, made[str(candidate.artifact)], against, baseline, inner)


def from_files(files: Files, folder: Path, options: Mapping[str, Any]) -> Subject:
    """Two model files without a recipe; copies of them are put into `folder`."""
    artifact = _artifact(files.candidate, folder / "candidate")
    baseline = _artifact(files.against, folder / "baseline") if files.against else None
    if baseline and baseline.format != artifact.format:
        raise OptimizerError(
            f"{files.candidate} is {artifact.format}, {files.against} is {baseline.format}",
            "compare models in one format",
        )
    data = None
    if files.data:
        reference = DataRef(ref=files.data, label=files.label)
        spec = dataset.resolve(reference, Path.cwd())
        data = dataset.open(spec, files.data, artifact.signature, 0)
    return Subject(
        name=str(files.candidate),
        target=TARGETS[artifact.format],
        artifact=artifact,
        options=options,
        machine=machines.here(),
        against=str(files.against) if files.against else None,
        baseline=baseline,
        data=data,
        metrics={name: _metric(name) for name in files.metrics},
    )


def _metric(name: str) -> tuple[Any, Any]:
    plugin = registry.load("metrics", "python" if ":" in name else name)
    given = {"entry": name} if ":" in name else {}
    return plugin, schema.parse(plugin.Options, given, f"--metric {name}", Path.cwd())


def _artifact(path: Path, folder: Path) -> Artifact:
    """A model file as an artifact in a folder of its own."""
    from optimizer import fingerprint

    if path.suffix not in MODELS:
        raise OptimizerError(f"{path} is no model file that can be compared", f"give {' or '.join(MODELS)}")
    if not path.is_file():
        raise OptimizerError(f"no such model file: {path}", "check the path")
    format = MODELS[path.suffix]
    folder.mkdir(parents=True)
    if format == "onnx":
        from optimizer.formats import onnx_source

        onnx_source.copy(path, Signature((), ()), folder)
    else:
        from optimizer.formats import openvino

        openvino.copy(path, folder)
    signature = formats.read(format, folder)
    return Artifact(format, folder, "", fingerprint.of_tree(folder), signature, formats.size(format, folder))


def _candidate(name: str | None, candidates: Sequence[Candidate], where: str) -> Candidate:
    names = [c.name for c in candidates if not c.skipped]
    if name is None:
        raise OptimizerError(f"which candidate of {where}? It has {', '.join(names)}", "add VARIANT@TARGET")
    found = next((c for c in candidates if c.name == name), None)
    if found is None:
        raise unknown("candidate", name, names, where)
    if found.skipped:
        raise OptimizerError(f"{name} was not built: {found.skipped}", f"explain one of {', '.join(names)}")
    return found


def _against(planned: Plan, name: str) -> str | None:
    return planned.baselines.get(name)


def _recipe(run: Run, where: Path) -> Recipe:
    """The run's recipe, read again. Its paths start at the folder that the record names; where that is gone, or the
    record is an older one, the shipped recipes, the working directory and the folders around the record are tried."""
    first: OptimizerError | None = None
    for base in _bases(run, where):
        try:
            return recipe.parse(run.recipe, f"the recipe in {where}", base, run.name)
        except OptimizerError as error:
            first = first or error
    raise OptimizerError(
        f"the recipe of {where} points at files that are not found from here: {first.message if first else ''}",
        "run this from the recipe's folder, or explain the recipe itself: optc explain RECIPE.yaml VARIANT@TARGET",
    )


def _bases(run: Run, where: Path) -> Iterator[Path]:
    if run.origin is not None:
        yield located(run.origin, where.parent)
    root = content.root("recipes")
    yield from (path.parent for path in sorted(root.rglob(f"{run.name}.yaml")))
    yield Path.cwd()
    yield from where.resolve().parents


def _stored(candidate: Candidate, run: Run, store: Store) -> Artifact:
    found = _inner(str(candidate.artifact), run, store)
    if found is None:
        raise OptimizerError(
            f"{candidate.name} of the run '{run.name}' is no longer in the store {store.root}",
            "build it again, or explain the recipe itself: optc explain RECIPE VARIANT@TARGET",
        )
    return found


def _inner(key: str, run: Run, store: Store) -> Artifact | None:
    entry = store.get(key)
    record = next((s for s in run.steps if s.key == key), None)
    if entry is None or record is None:
        return None
    signature = record.signature or schema.decode(Signature, entry.record["signature"])
    return Artifact(record.format, entry.path, key, entry.digest, signature, record.size)


def _subject(
    planned: Plan,
    candidate: Candidate,
    artifact: Artifact,
    against: str | None,
    baseline: Artifact | None,
    inner: Sequence[Artifact | None],
) -> Subject:
    note = None
    if baseline is not None and baseline.format != artifact.format:
        baseline = _source(planned, candidate, artifact.format, inner)
        note = f"{against} has another format: tensors are compared with the float model that the candidate was made of"
    role = next((r for r in ROLES if r in planned.data), None)
    found = planned.data[role] if role else None
    spec = planned.recipe
    own = spec.on(candidate.variant, candidate.target) if candidate.variant in spec.variants else None
    steps = [{use.name: use.options} for use in (own.steps if own else ())]
    return Subject(
        name=candidate.name,
        target=candidate.target,
        artifact=artifact,
        options=candidate.options,
        machine=planned.machine,
        against=against,
        baseline=baseline,
        note=note,
        data=dataset.open(found.spec, found.name, artifact.signature, spec.seed) if found else None,
        metrics=planned.metrics if role == "evaluate" else {},
        batch=spec.measure.batch,
        seed=spec.seed,
        dims=spec.measure.latency.dims if spec.measure.latency else {},
        steps=tuple(steps),
    )


def _source(planned: Plan, candidate: Candidate, format: str, inner: Sequence[Artifact | None]) -> Artifact | None:
    """The last artifact of the candidate's own chain before it was quantized, in a format."""
    uses = [planned.step(key).use if key in {s.key for s in planned.steps} else "" for key in candidate.steps]
    end = next((i for i, use in enumerate(uses) if use.startswith(STEP.partition(".")[0])), len(inner) - 1)
    return next((a for a in reversed(inner[:end]) if a is not None and a.format == format), None)


def with_options(subject: Subject, threads: int | None, dims: Mapping[str, int]) -> Subject:
    """The subject run with so many threads; raises OptimizerError for a dimension that its model does not have."""
    known = subject.signature.symbols()
    for name in dims:
        if name not in known:
            raise unknown("dimension", name, known, f"the inputs of {subject.name}")
    return dataclasses.replace(subject, options={**subject.options, "threads": threads}) if threads else subject
