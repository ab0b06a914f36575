"""References -> subjects ready to be measured: each on its target, with options, under a name of its own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizer import formats, recipe, registry, samples, schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.measure.process import Subject
from optimizer.plan import plan
from optimizer.produce import Producer
from optimizer.protocols import Context, Feeds
from optimizer.store import Store
from optimizer.subjects.found import Found, Place, find
from optimizer.subjects.reference import Reference, parse
from optimizer.subjects.signatures import carried, named
from optimizer.values import Artifact, Signature, TensorSpec


@dataclass(frozen=True)
class Asked:
    """How the things that were named are to be opened."""

    targets: Sequence[str] = ()  # instead of their own, each
    threads: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)  # of a model that does not say them
    weights: Path | None = None
    task: str | None = None
    dims: Mapping[str, int] = field(default_factory=dict)  # sizes of free dimensions that are going to be measured


@dataclass(frozen=True)
class Opened:
    """One subject, and what came with it."""

    subject: Subject  # its name is name@target
    origin: str  # as it was named
    candidate: str  # the name under which a run or bundle knows it
    feeds: tuple[Feeds, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def target(self) -> str:
        return self.subject.target

    @property
    def variant(self) -> str:
        return self.name.rpartition("@")[0]


@dataclass(frozen=True)
class Refused:
    """One subject that could not be opened on its target, where others were."""

    name: str  # name@target
    target: str
    origin: str  # as it was named
    error: OptimizerError

    @property
    def variant(self) -> str:
        return self.name.rpartition("@")[0]


def open_all(texts: Sequence[str], asked: Asked, store: Store, folder: Path, console: Console) -> list[Opened]:
    """Everything that `texts` name, on every target that is asked for.

    `folder` is empty and temporary: what has to be unpacked or converted goes there, or into the store. Raises
    OptimizerError for what does not exist, is damaged, or cannot run on a target.
    """
    found = []
    for one in open_each(texts, asked, store, folder, console):
        if isinstance(one, Refused):
            raise one.error
        found.append(one)
    return found


def open_each(
    texts: Sequence[str], asked: Asked, store: Store, folder: Path, console: Console
) -> Iterator[Opened | Refused]:
    """The same, one after the other, and what cannot be opened on its target among the others.

    Raises OptimizerError for what does not exist or is damaged, and for a target of `asked` that is not usable.
    """
    place = Place(folder, store, console, asked.inputs, asked.weights, asked.task)
    for target in asked.targets:
        _usable(target)
    found = [(r, f) for r in map(parse, texts) for f in find(r, place)]
    wanted = [
        (r, f, target)
        for r, f in found
        for target in ([r.target] if r.target else list(dict.fromkeys(asked.targets)) or [f.target])
    ]
    names = _names(wanted)
    for (r, f, target), own in zip(wanted, names, strict=True):
        name = f"{own}@{target}"
        try:
            yield _opened(r, f, target, name, asked, place)
        except OptimizerError as error:
            yield Refused(name, target, r.text, error)


def _names(wanted: Sequence[tuple[Reference, Found, str]]) -> list[str]:
    """A name for each that is unique on its target: as asked, else its own, else with its folder, else numbered."""
    many = Counter(text for text, _ in {(r.text, f.candidate) for r, f, _ in wanted})
    targets = [target for *_, target in wanted]
    own = [f.name if not r.name else r.name if many[r.text] == 1 else f"{r.name}-{f.name}" for r, f, _ in wanted]
    count = Counter(zip(own, targets, strict=True))
    # Candidates that were moved to one target are told apart by the targets that they were built for.
    fuller = [f"{f.name}-{f.target}" if f.options is not None and f.target != t else f.fuller for _, f, t in wanted]
    clash = [not r.name and count[name, t] > 1 for name, (r, _, t) in zip(own, wanted, strict=True)]
    return _numbered([b if c else a for a, b, c in zip(own, fuller, clash, strict=True)], targets)


def _numbered(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for key in zip(names, targets, strict=True):
        seen[key] += 1
        found.append(key[0] if seen[key] == 1 else f"{key[0]}-{seen[key]}")
    return found


def _usable(target: str, options: Any = None) -> Any:
    """The plugin of a target that can run here, with its default options where none are given."""
    plugin = registry.load("targets", target)
    reason = plugin.probe() or registry.pending(plugin, options)
    if reason:
        raise OptimizerError(f"the target '{target}' is not usable here: {reason}", "optc doctor shows all targets")
    return plugin


def _opened(r: Reference, f: Found, target: str, name: str, asked: Asked, place: Place) -> Opened:
    plugin = registry.load("targets", target)
    options: dict[str, Any]
    notes = f.notes
    if f.artifact is None:
        _usable(target)
        ranges = _ranges(f, asked.dims)
        artifact, options = _built(f, target, place, ranges)
        notes += tuple(f"built for {dim} from {low} to {high}, by --dim" for dim, (low, high) in ranges.items())
    else:
        bare = f.options is None and r.place.endswith(f".{f.artifact.format}")  # a file that anybody may have made
        given = getattr(plugin, "FOREIGN", {}) if bare else f.options or {}
        recorded = dict(given) if target == f.target else {}
        parsed = schema.parse(plugin.Options, recorded, f"'{r.text}': options of {target}")
        _usable(target, parsed)
        artifact, options = _fitted(f.artifact, r, plugin, target, parsed, place), parsed.model_dump(mode="json")
    if "threads" in options:
        options["threads"] = asked.threads or options["threads"] or 1
    return Opened(Subject(name, target, artifact, options), r.text, f.candidate, f.feeds, notes)


def _fitted(artifact: Artifact, r: Reference, plugin: Any, target: str, options: Any, place: Place) -> Artifact:
    """The artifact in the format that the target opens, converted in the temporary folder where need be."""
    if artifact.format == plugin.PRODUCES:
        return artifact
    if artifact.format not in plugin.CONSUMES:
        raise OptimizerError(
            f"'{r.text}' cannot run on {target}: that takes {' or '.join(plugin.CONSUMES)}, this is {artifact.format}",
            f"run it on another target, or give the {plugin.CONSUMES[0]} model that it was made from",
        )
    out = place.fresh()
    with place.console.task(f"'{r.text}' for {target}"):
        plugin.run(artifact, options, Context(warn=place.console.warn), out)
    signature = carried(named(formats.read(plugin.PRODUCES, out)), artifact.signature)
    size = formats.size(plugin.PRODUCES, out)
    return dataclasses.replace(artifact, format=plugin.PRODUCES, path=out, signature=signature, size=size)


def _ranges(f: Found, dims: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """What a model that says its inputs has to support, of the sizes that are asked for: each, and two sizes below it.

    Samples without data have three sizes. What samples show of themselves, small sizes, is left to them.
    """
    inputs = [TensorSpec.parse(name, text) for name, text in f.spec.inputs.items()] if f.spec else []
    own = Signature(tuple(inputs), ())
    free = [name for name in own.symbols() if name != own.batch_symbol()]
    return {name: (dims[name] - 2, dims[name]) for name in free if dims.get(name, 0) > samples.SMALL + 2}


def _built(f: Found, target: str, place: Place, dims: Mapping[str, tuple[int, int]]) -> tuple[Artifact, dict[str, Any]]:
    """A PyTorch model on a target, as `optc build` would make it, by way of the store."""
    assert f.spec is not None
    document = {
        "model": f.spec.model_dump(mode="json", exclude_defaults=True) | ({"dims": dict(dims)} if dims else {}),
        "targets": [target],
        "measure": {"latency": False},
        "bundle": "none",
    }
    planned = plan(recipe.parse(document, f.name, Path.cwd(), f.name))
    producer = Producer(planned, place.store, place.console)
    for step in planned.steps:
        producer.produce(step)
    candidate = planned.candidates[0]
    return producer.done[str(candidate.artifact)].artifact, dict(candidate.options)
