"""The inputs that all subjects are given: the user's, a data set's, a bundle's own, or made from the signature."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimizer import dataset
from optimizer.errors import OptimizerError, unknown
from optimizer.formats.feeds import synthetic_feeds
from optimizer.measure import latency
from optimizer.protocols import Feeds
from optimizer.recipe import DataRef
from optimizer.subjects import Opened
from optimizer.subjects.signatures import NAMELESS, carried, differences
from optimizer.values import DataRecord, Signature

MADE = "inputs are synthetic: made from the signature, seeded; give --input or --data for real ones"


@dataclass(frozen=True)
class Wanted:
    """Where inputs are to come from, and how big they are to be."""

    batches: Sequence[int]
    dims: Mapping[str, int]
    file: Path | None = None  # .npz
    data: str | None = None  # card/split or file
    seed: int = 0


@dataclass(frozen=True)
class Inputs:
    """Samples for subjects of one signature, first dimension samples; other free dimensions sized as asked."""

    feeds: Feeds
    note: str
    synthetic: bool
    record: DataRecord | None = None


def groups(opened: Sequence[Opened], each: bool) -> list[list[Opened]]:
    """The subjects that take the same inputs together; more than one group only with `each`.

    Raises OptimizerError naming what differs.
    """
    found: list[list[Opened]] = []
    for one in opened:
        home = next((g for g in found if not _differ(g[0], one)), None)
        if home is None:
            found.append([one])
        else:
            home.append(one)
    if len(found) > 1 and not each:
        first, other = found[0][0], found[1][0]
        raise OptimizerError(
            f"'{first.subject.name}' and '{other.subject.name}' take other inputs, they would not do the same work: "
            f"the second has {'; '.join(_differ(first, other))}",
            "compare models of one signature; optc bench --each measures each with inputs of its own",
        )
    return [_named_alike(group) for group in found]


def _named_alike(group: list[Opened]) -> list[Opened]:
    """The subjects with one set of names for free dimensions: of the first that names all of its own."""
    signatures = [o.subject.artifact.signature for o in group]
    like = next((s for s in signatures if not any(name.startswith(NAMELESS) for name in s.symbols())), signatures[0])
    return [_renamed(o, carried(o.subject.artifact.signature, like)) for o in group]


def _renamed(one: Opened, signature: Signature) -> Opened:
    artifact = dataclasses.replace(one.subject.artifact, signature=signature)
    return dataclasses.replace(one, subject=dataclasses.replace(one.subject, artifact=artifact))


def _differ(one: Opened, other: Opened) -> list[str]:
    return differences(one.subject.artifact.signature, other.subject.artifact.signature)


def batches_of(opened: Sequence[Opened], asked: Sequence[int]) -> list[int]:
    """The batch sizes to measure: as asked, else the one that is fixed, else 1. Raises OptimizerError for a misfit."""
    fixed = {o.subject.name: o.subject.artifact.signature.inputs[0] for o in opened}
    sizes = {name: spec.shape[0] for name, spec in fixed.items() if spec.shape and isinstance(spec.shape[0], int)}
    chosen = list(dict.fromkeys(asked)) or [int(next(iter(sizes.values()), 1))]
    for name, size in sizes.items():
        bad = [b for b in chosen if b not in (1, size)]
        if bad:
            raise OptimizerError(
                f"'{name}' takes {size} sample{'s' if size != 1 else ''} per call and no other number ({fixed[name]})",
                f"leave --batch {bad[0]} out, or export the model with a free first dimension",
            )
    return chosen


def choose(opened: Sequence[Opened], wanted: Wanted) -> Inputs:
    """The inputs for subjects of one signature."""
    signature = opened[0].subject.artifact.signature
    _known_dims(opened, wanted.dims)
    if wanted.file:
        found = Inputs(_from_file(wanted.file, signature), f"inputs from {wanted.file.name}", False)
    elif wanted.data:
        found = _from_data(wanted.data, signature, wanted)
    else:
        found = _own(opened, signature) or _made(opened, signature, wanted)
    return Inputs(_sized(found.feeds, opened, wanted.dims), found.note, found.synthetic, found.record)


def _known_dims(opened: Sequence[Opened], dims: Mapping[str, int]) -> None:
    known = {s for o in opened for s in o.subject.artifact.signature.symbols()}
    batch = {o.subject.artifact.signature.batch_symbol() for o in opened}
    for name in dims:
        if name in batch:
            raise OptimizerError(f"--dim {name}: that is the batch size", f"write --batch {dims[name]}")
        if name not in known:
            raise unknown("dimension", name, [s for s in known if s not in batch], "the models (--dim)")


def _from_file(path: Path, signature: Signature) -> Feeds:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        hint = "save arrays with numpy.savez(path, name=array)"
        raise OptimizerError(f"--input {path}: cannot be read: {error}", hint) from None
    missing = [t for t in signature.inputs if t.name not in arrays]
    if missing:
        raise OptimizerError(
            f"--input {path} lacks the array '{missing[0].name}' ({missing[0]}); it has {', '.join(arrays) or 'none'}",
            "name the arrays as the model's inputs",
        )
    flat = [t.name for t in signature.inputs if t.shape and not arrays[t.name].size]
    if flat:
        raise OptimizerError(f"--input {path}: '{flat[0]}' is empty", "give one sample or more")
    return {t.name: arrays[t.name] for t in signature.inputs}


def _from_data(reference: str, signature: Signature, wanted: Wanted) -> Inputs:
    spec = dataset.resolve(DataRef(ref=reference), Path.cwd())
    opened = dataset.open(spec, reference, signature, wanted.seed)
    most = max(wanted.batches)
    batch = next(iter(opened.batches(most, limit=most)))
    record = DataRecord("inputs", reference, opened.digest, len(batch.indices), spec.license)
    return Inputs(batch.feeds, f"inputs: the first {len(batch.indices)} of {reference}", False, record)


def _own(opened: Sequence[Opened], signature: Signature) -> Inputs | None:
    """The samples of the first bundle that has some: of the biggest one, as many."""
    names = {t.name for t in signature.inputs}
    for one in opened:
        fitting = [feeds for feeds in one.feeds if set(feeds) == names]
        if fitting:
            best = max(fitting, key=lambda feeds: len(next(iter(feeds.values()))))
            return Inputs(best, f"inputs: the samples of {one.origin}", False)
    return None


def _made(opened: Sequence[Opened], signature: Signature, wanted: Wanted) -> Inputs:
    batch = signature.batch_symbol()
    fixed = _fixed(opened)
    sizes = dict(wanted.dims) | ({batch: max(wanted.batches)} if batch else {})
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim not in sizes and (spec.name, axis) in fixed:
                sizes[dim] = fixed[spec.name, axis]
    unsized = [s for s in signature.symbols() if s not in sizes]
    if unsized:
        raise OptimizerError(
            f"the free dimension '{unsized[0]}' has no size, and there are no inputs to take it from",
            f"say it: --dim {unsized[0]}=128, or give --input or --data",
        )
    return Inputs(synthetic_feeds(signature, sizes, wanted.seed), MADE, True)


def _fixed(opened: Sequence[Opened]) -> dict[tuple[str, int], int]:
    """(input, axis) -> the size at which a subject has it fixed; the batch dimension is not among them."""
    return {
        (spec.name, axis): dim
        for o in opened
        for spec in o.subject.artifact.signature.inputs
        for axis, dim in enumerate(spec.shape)
        if axis and isinstance(dim, int)
    }


def _sized(feeds: Feeds, opened: Sequence[Opened], dims: Mapping[str, int]) -> Feeds:
    """The inputs cut, or repeated, to the sizes that are asked for."""
    found = dict(feeds)
    for one in opened:
        for spec in one.subject.artifact.signature.inputs:
            for axis, dim in enumerate(spec.shape):
                size = dims.get(dim) if isinstance(dim, str) and axis else None
                array = np.asarray(found[spec.name])
                if size and array.ndim == len(spec.shape) and array.shape[axis] != size:
                    found[spec.name] = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return found


def at_batch(one: Opened, feeds: Feeds, batch: int) -> Feeds:
    """The inputs of a subject at a batch size."""
    return latency.shape_feeds(one.subject.artifact.signature, feeds, batch, {})
