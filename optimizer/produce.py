"""One step through the store: reuse, or stage, run, read back, check, commit."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer import dataset, disk, equivalence, formats, registry, samples, schema
from optimizer.chain import Step, roles
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.plan import Plan
from optimizer.protocols import Context, Dataset
from optimizer.store import Store, StoredEntry
from optimizer.values import Artifact, Check, Signature, StepRecord, TensorSpec


@dataclasses.dataclass(frozen=True)
class Produced:
    """A step's artifact and what is to be told of it."""

    artifact: Artifact
    record: StepRecord


@dataclasses.dataclass(frozen=True)
class Looked:
    """What was found in a folder that a step has written."""

    signature: Signature
    size: int  # bytes that the runtime needs
    check: Check | None  # against the step's source; None for a step without one


class Producer:
    """Runs the steps of one plan in order; keeps opened data sets and reference outputs between steps."""

    def __init__(self, plan: Plan, store: Store, console: Console) -> None:
        self.plan, self.store, self.console = plan, store, console
        self.done: dict[str, Produced] = {}
        self._datasets: dict[str, Dataset] = {}
        self._samples: samples.Samples | None = None
        self._outputs: dict[str, list[dict[str, Any]]] = {}

    def following(self, plan: Plan) -> Producer:
        """A producer for another plan of the same model and data, which goes on with what this one has opened."""
        found = Producer(plan, self.store, self.console)
        found.done, found._datasets, found._outputs = self.done, self._datasets, self._outputs
        found._samples = self._samples
        return found

    def produce(self, step: Step) -> Produced:
        """The step's artifact: from the store when its key is there, else made now."""
        entry = self._reusable(step)
        found = self._from_entry(step, entry, cached=True) if entry else self._locked(step)
        self.store.remember(self.plan.slot(step), step.ingredients)
        self.done[step.key] = found
        return found

    def dataset(self, role: str) -> Dataset:
        """The data set of a role, opened once, fitted to the model's signature."""
        if role not in self._datasets:
            planned = self.plan.data[role]
            signature = self._signature()
            self._datasets[role] = dataset.open(planned.spec, planned.name, signature, self.plan.recipe.seed)
        return self._datasets[role]

    def samples(self, signature: Signature) -> samples.Samples:
        """The samples that every step of this plan is traced and checked with."""
        if self._samples is None:
            role = next((r for r in ("evaluate", "calibrate", "train") if r in self.plan.data), None)
            if role:
                self._samples = samples.real(self.dataset(role), signature)
            else:
                self._samples = samples.made(signature, self.plan.recipe.seed)
        return self._samples

    def _signature(self) -> Signature | None:
        """What the model takes: of the first finished step, else as the recipe writes it."""
        first = next(iter(self.done.values()), None)
        if first:
            return first.artifact.signature
        inputs = self.plan.recipe.model.inputs
        return Signature(tuple(TensorSpec.parse(n, t) for n, t in inputs.items()), ()) if inputs else None

    def _reusable(self, step: Step) -> StoredEntry | None:
        entry = self.store.get(step.key)
        if entry and hasattr(step.plugin, "stale") and step.plugin.stale(entry.path, step.options):
            return None  # refers to files outside the store that have moved
        if entry:
            self.store.touch(entry)
        return entry

    def _locked(self, step: Step) -> Produced:
        def waiting() -> None:
            self.console.info(f"{step.label}  waits for another process that builds the same step")

        with self.store.lock(step.key, waiting):
            entry = self._reusable(step)
            if entry:
                return self._from_entry(step, entry, cached=True)
            with self.console.task(step.label) as advance, self.store.stage(step.key) as out:
                entry = self._run(step, out, advance)
        return self._from_entry(step, entry, cached=False)

    def _run(self, step: Step, out: Path, advance: Callable[[int, int], None]) -> StoredEntry:
        source = self.done[step.source].artifact if step.source else None
        notes: dict[str, Any] = {}
        warnings: list[str] = []
        looked: dict[object, Looked] = {}

        def warn(text: str) -> None:
            warnings.append(text)
            self.console.warn(f"{step.label}: {text}")

        def look(folder: Path) -> Looked:
            state = disk.state(folder)
            if state not in looked:
                looked[state] = self._look(step, source, folder)
            return looked[state]

        def check(folder: Path) -> Check:
            found = look(folder).check
            if found is None:
                raise AssertionError(f"BUG: {step.label} has no source to be checked against")
            return found

        start = time.perf_counter()
        step.plugin.run(source, step.options, self._context(step, source, notes, warn, check, advance), out)
        result = look(out)
        if result.check and result.check.outcome == "fail":
            raise OptimizerError(
                f"{step.label}: the result was thrown away: {result.check.reason}",
                "leave the step out, or loosen its tolerance if you know why the outputs may differ",
            )
        record = {
            "use": step.use,
            "label": step.label,
            "format": step.format,
            "ingredients": step.ingredients,
            "signature": dataclasses.asdict(result.signature),
            "check": dataclasses.asdict(result.check) if result.check else None,
            "notes": notes,
            "warnings": warnings,
            "seconds": time.perf_counter() - start,
            "bytes": result.size,
        }
        return self.store.commit(out, step.key, record)

    def _context(
        self,
        step: Step,
        source: Artifact | None,
        notes: dict[str, Any],
        warn: Callable[[str], None],
        check: Callable[[Path], Check],
        advance: Callable[[int, int], None],
    ) -> Context:
        signature = source.signature if source else self._signature()
        given = self.samples(signature) if signature else None
        latency = self.plan.recipe.measure.latency
        return Context(
            data={role: self.dataset(role) for role in roles(step.plugin, step.options, self.plan.data)},
            scheme=step.scheme,
            seed=self.plan.recipe.seed,
            threads=latency.threads if latency else 1,
            samples=given.feeds if given else (),
            synthetic=given.synthetic if given else True,
            note=notes.__setitem__,
            warn=warn,
            check=check if source else None,
            progress=advance,
        )

    def _look(self, step: Step, source: Artifact | None, folder: Path) -> Looked:
        """Read a folder back and run it against the step's source; files equal to the source's need neither."""
        if source is None:
            return Looked(formats.read(step.format, folder), formats.size(step.format, folder), None)
        limit = getattr(step.options, "tolerance", None) or step.plugin.LIMIT
        given = self.samples(source.signature)
        if step.format == source.format and disk.same_files(folder, source.path):
            return Looked(source.signature, source.size, equivalence.identical(limit, given.synthetic))
        signature, size = _carry(step, formats.read(step.format, folder), source), formats.size(step.format, folder)
        artifact = Artifact(step.format, folder, step.key, "", signature, size)  # its digest is known once committed
        found = self._outputs[step.key] = _outputs(artifact, given)
        compared = equivalence.compare(self._reference(source), found, given.feeds, limit, given.synthetic)
        return Looked(signature, size, compared)

    def _reference(self, source: Artifact) -> list[dict[str, Any]]:
        if source.key not in self._outputs:
            self._outputs[source.key] = _outputs(source, self.samples(source.signature))
        return self._outputs[source.key]

    def _from_entry(self, step: Step, entry: StoredEntry, cached: bool) -> Produced:
        record = entry.record
        signature = schema.decode(Signature, record["signature"])
        artifact = Artifact(step.format, entry.path, step.key, entry.digest, signature, record["bytes"])
        return Produced(
            artifact,
            StepRecord(
                key=step.key,
                use=step.use,
                options=_portable(step.options.model_dump()),
                sources=(step.source,) if step.source else (),
                ingredients=step.ingredients,
                format=step.format,
                cached=cached,
                seconds=None if cached else record["seconds"],
                size=record["bytes"],
                digest=entry.digest,
                check=schema.decode(Check, record["check"]) if record["check"] else None,
                notes=record["notes"],
                warnings=tuple(record["warnings"]),
                signature=signature,
            ),
        )


def _portable(value: Any) -> Any:
    """Options for the record: a file by its name alone (its digest is an ingredient), the rest as JSON."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str) and re.fullmatch(r"/.*\.py:\w+", value):
        return value.rpartition("/")[2]
    if isinstance(value, dict):
        return {str(k): _portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(v) for v in value]
    return value


def _outputs(artifact: Artifact, given: samples.Samples) -> list[dict[str, Any]]:
    target = registry.opener(artifact.format)
    with target.open(artifact, target.Options()) as session:
        return equivalence.run_all(session, given.feeds)


def _carry(step: Step, found: Signature, source: Artifact | None) -> Signature:
    """The signature read back, with the source's names for free dimensions; they must otherwise agree."""
    if source is None:
        return found
    return Signature(
        _carried(step, "input", found.inputs, source.signature.inputs),
        _carried(step, "output", found.outputs, source.signature.outputs),
    )


def _carried(
    step: Step, kind: str, found: tuple[TensorSpec, ...], source: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    by_name = {t.name: t for t in found}
    if set(by_name) != {t.name for t in source}:
        wanted, got = ", ".join(t.name for t in source), ", ".join(by_name)
        raise OptimizerError(f"{step.label}: the result has the {kind}s {got}, its source has {wanted}")
    carried = []
    for spec in source:
        new = by_name[spec.name]
        if new.dtype != spec.dtype or len(new.shape) != len(spec.shape):
            raise OptimizerError(f"{step.label}: {kind} '{spec.name}' became {new}, it was {spec}")
        dims = zip(spec.shape, new.shape, strict=True)
        carried.append(dataclasses.replace(spec, shape=tuple(a if isinstance(b, str) else b for a, b in dims)))
    return tuple(carried)
