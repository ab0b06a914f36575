"""One step through the store: reuse, or stage, run, read back, check, commit."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import attempts, dataset, disk, equivalence, fingerprint, formats, ranks, registry, samples, schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.formats import torch as torch_format
from optimizer.interrupts import raise_asked
from optimizer.plan import Plan
from optimizer.protocols import Context, Dataset, Ratio, Session
from optimizer.steps import Onward, Other, Step, portable, roles
from optimizer.store import Store, StoredEntry
from optimizer.values import Artifact, Check, Signature, StepRecord, TensorSpec

if TYPE_CHECKING:
    from optimizer.dataset.stream import Stream


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
    check: Check | None  # against the step's source; None for a step without one, or that cannot be run here


@contextlib.contextmanager
def _named(step: Step) -> Iterator[None]:
    """A mistake that a step finds is told with the candidate and step; loading is the same for all of them."""
    try:
        yield
    except OptimizerError as error:
        if step.source is None or error.message.startswith(step.label):
            raise
        said = error.message.removeprefix(f"{step.use}: ")
        raise OptimizerError(f"{step.label}: {said}", error.hint) from error


class Producer:
    """Runs the steps of one plan in order; keeps opened data sets and reference outputs between steps."""

    def __init__(self, plan: Plan, store: Store, console: Console) -> None:
        self.plan, self.store, self.console = plan, store, console
        self.done: dict[str, Produced] = {}
        self._attempts: dict[str, Artifact] = {}  # what steps that measure try, and where it leads
        self._datasets: dict[str, Stream] = {}
        self._apart: dict[bool, tuple[Stream, dict[str, int]]] = {}  # training data without what is judged on
        self._samples: samples.Samples | None = None
        self._outputs: dict[str, list[dict[str, Any]]] = {}

    def following(self, plan: Plan) -> Producer:
        """A producer for another plan of the same model and data, which goes on with what this one has opened."""
        found = Producer(plan, self.store, self.console)
        found.done, found._datasets, found._outputs = self.done, self._datasets, self._outputs
        found._samples, found._apart = self._samples, self._apart
        return found

    def produce(self, step: Step) -> Produced:
        """The step's artifact: from the store when its key is there, else made now."""
        entry = self._reusable(step)
        found = self._from_entry(step, entry, cached=True) if entry else self._locked(step)
        self.store.remember(self.plan.slot(step), step.ingredients)
        self.done[step.key] = found
        return found

    def rehearse(self, step: Step, out: Path) -> None:
        """Run a step, whose source is made, into a folder: nothing is stored, checked or told."""
        source = self.done[step.source].artifact if step.source else None

        def unchecked(folder: Path) -> Check:
            found = self._look(step, source, folder).check
            assert found is not None
            return found

        context = self._context(step, source, {}, lambda text: None, unchecked, lambda done, total: None)
        step.plugin.run(source, step.options, context, out)

    def dataset(self, role: str) -> Stream:
        """The data set of a role, opened once, fitted to the model's signature; labels that metrics read, judged."""
        if role not in self._datasets:
            planned = self.plan.data[role]
            signature = self._signature()
            found = dataset.open(planned.spec, planned.name, signature, self.plan.recipe.seed)
            if role in ("evaluate", "select") and any(m.AGAINST == "labels" for m, _ in self.plan.metrics.values()):
                _ = next(found.batches(1, limit=1)).labels  # better judged now than after the steps
            self._datasets[role] = found
        return self._datasets[role]

    def samples(self, signature: Signature) -> samples.Samples:
        """The samples that every step of this plan is traced and checked with."""
        if self._samples is None:
            role = next((r for r in ("evaluate", "calibrate", "train") if r in self.plan.data), None)
            if role:
                self._samples = samples.real(self.dataset(role), signature)
            else:
                self._samples = samples.made(signature, self.plan.recipe.seed, self._dims())
        return self._samples

    def _dims(self) -> dict[str, tuple[int, int]]:
        """Sizes that the model is to support: as its file says, else as the recipe does."""
        first = next(iter(self.done.values()), None)
        if first and first.artifact.format == "torch":
            return torch_format.load_record(first.artifact.path).dims
        return self.plan.recipe.model.dims

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

    def _repointed(self, step: Step) -> StoredEntry | None:
        """The stored module of a step with the user's files where they are now: a moved folder costs no training."""
        entry = self.store.get(step.key)
        if entry is None or step.format != "torch" or step.source is None:
            return None
        with self.store.stage(step.key) as out:
            if not torch_format.repoint(entry.path, self._artifact(step.source).path, out):
                return None
            return self.store.commit(out, step.key, {k: v for k, v in entry.record.items() if k != "files"})

    def _locked(self, step: Step) -> Produced:
        def waiting() -> None:
            self.console.info(f"{step.label}  waits for another process that builds the same step")

        with self.store.lock(step.key, waiting):
            entry = self._reusable(step) or self._repointed(step)
            if entry:
                return self._from_entry(step, entry, cached=True)
            with self.console.task(step.label) as advance, self.store.stage(step.key) as out:
                entry = self._run(step, out, advance)
        return self._from_entry(step, entry, cached=False)

    def _run(self, step: Step, out: Path, advance: Callable[[int, int], None]) -> StoredEntry:
        source = self._artifact(step.source) if step.source else None
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
        context = self._context(step, source, notes, warn, check, advance)
        with _named(step):
            if source and getattr(step.options, "processes", 1) > 1:
                ranks.run(step, source, self._signature() or source.signature, context, out)
            else:
                step.plugin.run(source, step.options, context, out)
        raise_asked()  # a library that swallowed ^C made the best of it, which is not to be kept
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
            data=self._data(step, notes, advance),
            artifacts={name: self.done[other.key].artifact for name, other in step.others.items()},
            open=lambda name: self._opened(step.others[name]),
            work=self.store.work(step.key),
            caches=self.store.root / "caches",
            scheme=step.scheme,
            seed=self.plan.recipe.seed,
            threads=latency.threads if latency else 1,
            samples=given.feeds if given else (),
            synthetic=given.synthetic if given else True,
            note=notes.__setitem__,
            warn=warn,
            check=check if source else None,
            progress=advance,
            latency=partial(self._ratio, step.onward, source) if step.onward and source else None,
        )

    def _data(self, step: Step, notes: dict[str, Any], advance: Callable[[int, int], None]) -> dict[str, Dataset]:
        """The data that a step reads; what it trains on holds nothing that models are judged on."""
        read = roles(step.plugin, step.options, self.plan.data)
        found: dict[str, Dataset] = {role: self.dataset(role) for role in read}
        judging = [role for role in ("evaluate", "select") if role in self.plan.data]
        if "train" in found and judging:
            judged = {role: self.dataset(role) for role in judging}
            drop = getattr(step.options, "overlap", "refuse") == "drop"
            if drop not in self._apart:
                self._apart[drop] = dataset.apart(self.dataset("train"), judged, drop, advance)
            found["train"], notes["shared examples"] = self._apart[drop]
        return found

    def _artifact(self, key: str) -> Artifact:
        return self._attempts[key] if key in self._attempts else self.done[key].artifact

    def _ratio(self, onward: Onward, source: Artifact, folder: Path) -> Ratio:
        """Latency of the artifact in `folder` over that of the source, each at the end of its way to the target."""
        key = fingerprint.of_path(folder)
        attempt = Artifact(
            source.format, folder, key, key, formats.read(source.format, folder), formats.size(source.format, folder)
        )
        recipe = self.plan.recipe
        ends = self._taken_on(onward, source), self._taken_on(onward, attempt)
        feeds = self.samples(source.signature).feeds[0]
        options = onward.options.model_dump(mode="json")
        setting = recipe.measure.latency
        return attempts.ratio(ends, onward.target, options, feeds, setting, recipe.seed, self.plan.machine.digest)

    def _taken_on(self, onward: Onward, artifact: Artifact) -> Artifact:
        """What an attempt becomes on its way to the target; kept in the store, but no part of the plan."""
        quiet = self.following(self.plan)
        quiet.console, quiet._attempts = Console(level=0, err=io.StringIO()), self._attempts
        self._attempts[artifact.key] = artifact
        steps = onward.steps(artifact.key)
        for step in steps:
            entry = quiet._reusable(step)
            found = quiet._from_entry(step, entry, cached=True) if entry else quiet._locked(step)
            self._attempts[step.key] = found.artifact
        return self._attempts[steps[-1].key]

    def _opened(self, other: Other) -> AbstractContextManager[Session]:
        found: AbstractContextManager[Session] = other.target.open(self.done[other.key].artifact, other.options)
        return found

    def _look(self, step: Step, source: Artifact | None, folder: Path) -> Looked:
        """Read a folder back and run it against the step's source; files equal to the source's need neither."""
        if source is None:
            return Looked(formats.read(step.format, folder), formats.size(step.format, folder), None)
        away = step.plugin.away(source, step.options) if hasattr(step.plugin, "away") else None
        limit = away or getattr(step.options, "tolerance", None) or _limit(step, source)
        given = self.samples(source.signature)
        if not away and step.format == source.format and disk.same_files(folder, source.path):
            return Looked(source.signature, source.size, equivalence.identical(limit, given.synthetic))
        signature = equivalence.carry(step.label, formats.read(step.format, folder), source)
        size = formats.size(step.format, folder)
        target = registry.opener(step.format)
        options = step.options if target is step.plugin else target.Options()
        if registry.pending(target, options):
            return Looked(signature, size, None)  # its outputs are checked where it can be run
        artifact = Artifact(step.format, folder, step.key, "", signature, size)  # its digest is known once committed
        found = self._outputs[step.key] = _outputs(artifact, given, options)
        compared = equivalence.compare(self.reference(source), found, given.feeds, limit, given.synthetic)
        return Looked(signature, size, compared)

    def reference(self, source: Artifact) -> list[dict[str, Any]]:
        """Its outputs for each of the plan's samples; the model runs once."""
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
                options=portable(step.options.model_dump()),
                sources=(*([step.source] if step.source else []), *(other.key for other in step.others.values())),
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


def _limit(step: Step, source: Artifact) -> float | None:
    """How far the step's result may lie from its source, which may depend on the source."""
    found: float | None = step.plugin.limit(source) if hasattr(step.plugin, "limit") else step.plugin.LIMIT
    return found


def _outputs(artifact: Artifact, given: samples.Samples, options: Any = None) -> list[dict[str, Any]]:
    target = registry.opener(artifact.format)
    with target.open(artifact, options or target.Options()) as session:
        return equivalence.run_all(session, given.feeds)
