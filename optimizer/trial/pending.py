"""Bundles that wait for their measurements, measured where they run: numbers, verdicts, and the bundles completed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer import bundle, gates, registry, schema
from optimizer.bundle import outputs, provenance, renew, replay, samples
from optimizer.bundle.manifest import Manifest
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.recipe import LatencySpec, MeasureSpec
from optimizer.store import Store
from optimizer.subjects import Asked as HowOpened
from optimizer.subjects import Opened, open_all
from optimizer.trial import bench, evaluate
from optimizer.trial.inputs import Wanted
from optimizer.values import Run


@dataclass(frozen=True)
class Asked:
    """Bundles of one build, and what only the person at this machine knows."""

    bundles: Sequence[Path]
    data: str | None = None  # where the evaluation data lies here, when its name in the recipe says nothing
    label: str | None = None
    out: Path = Path("measured")


@dataclass(frozen=True)
class _Waiting:
    """One bundle whose bytes were checked, unpacked."""

    path: Path
    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Completed:
    """The record, and the bundles that now hold their numbers."""

    run: Run
    bundles: list[tuple[Path, Path]]


def complete(asked: Asked, store: Store, folder: Path, console: Console) -> Completed:
    """Check the samples of every bundle, evaluate and time all of them side by side, judge their recipe's gates.

    `folder` is empty and temporary. The bundles with their numbers are written below `asked.out`; the given ones stay
    as they are. Raises OptimizerError when they are not of one build, or one does not run here or gives other outputs.
    """
    waiting = [_unpacked(path, folder / f"bundle{place}", console) for place, path in enumerate(asked.bundles)]
    recipe = _recipe(waiting)
    for one in waiting:
        with console.task(f"{one.manifest.candidate}: samples"):
            replay.replay(one.manifest, one.folder)
    names = {one.manifest.candidate: one for one in waiting}
    texts = [f"{one.manifest.variant}={one.folder}" for one in waiting]
    (folder / "opened").mkdir()
    opened = open_all(texts, HowOpened(), store, folder / "opened", console)
    run = _measured(recipe, opened, asked, store, console)
    found = [_written(names[c.name], run, asked.out) for c in run.candidates if c.name in names and not c.skipped]
    return Completed(run, found)


def _unpacked(path: Path, into: Path, console: Console) -> _Waiting:
    into.mkdir(parents=True)
    with console.task(f"verify {path}") as advance:
        checked, folder = bundle.unpack(path, into, advance)
    return _Waiting(path, folder, checked.manifest)


def _recipe(waiting: Sequence[_Waiting]) -> dict[str, Any]:
    """The recipe of the build that all bundles come from."""
    first = waiting[0].manifest
    for one in waiting[1:]:
        if (one.manifest.name, one.manifest.provenance.recipe) != (first.name, first.provenance.recipe):
            raise OptimizerError(
                f"{one.path} is of another build than {waiting[0].path} ('{one.manifest.name}')",
                "measure the bundles of one build together; optc bench and optc eval compare any others",
            )
    candidates = [one.manifest.candidate for one in waiting]
    twice = next((name for name in candidates if candidates.count(name) > 1), None)
    if twice:
        raise OptimizerError(f"{twice} was given twice", "give each bundle once")
    return first.provenance.recipe


def _measured(recipe: Mapping[str, Any], opened: Sequence[Opened], asked: Asked, store: Store, console: Console) -> Run:
    """What the recipe measures, of all bundles side by side, judged by its gates."""
    measure = schema.parse(MeasureSpec, recipe.get("measure") or {}, f"the recipe of {asked.bundles[0]}, measure")
    baseline, seed = _baseline(recipe, opened), int(recipe.get("seed", 0))
    runs: list[Run] = []
    if measure.metrics:
        flags = _evaluation(recipe, measure, asked, baseline)
        runs.append(evaluate.evaluate(opened, flags, store, console).run)
    if measure.latency:
        runs.append(bench.bench(opened, _timing(measure.latency, seed, baseline), console).run)
    if not runs:
        raise OptimizerError("the recipe of these bundles measures nothing", "there is nothing to complete")
    last = runs[-1]
    sizes = [m for m in runs[0].measurements if m.metric == "size"]
    measurements = [*(m for run in runs for m in run.measurements if m.metric != "size"), *sizes]
    texts = [gates.parse(text) for text in recipe.get("gates") or []]
    variant = (recipe.get("baseline") or baseline.rpartition("@")[0]) if baseline else None
    verdicts = gates.judge(texts, measurements, last.candidates, variant)
    return dataclasses.replace(
        last,
        name=str(recipe.get("name", "measured")),
        recipe=dict(recipe),
        baseline=variant,
        measurements=tuple(measurements),
        verdicts=tuple(verdicts),
        data=tuple(record for run in runs for record in run.data),
        warnings=tuple(dict.fromkeys(text for run in runs for text in run.warnings)),
        seconds=sum(run.seconds for run in runs),
        outcome=gates.outcome(verdicts),
    )


def _baseline(recipe: Mapping[str, Any], opened: Sequence[Opened]) -> str:
    """The bundle that the others are compared with: the recipe's baseline where it is among them, else the first."""
    plain = [name for name, steps in (recipe.get("variants") or {}).items() if not steps]
    wanted = recipe.get("baseline") or next(iter(plain), None)
    found = next((o.subject.name for o in opened if wanted in (o.variant, o.subject.name)), None)
    return found or opened[0].subject.name


def _evaluation(recipe: Mapping[str, Any], measure: MeasureSpec, asked: Asked, baseline: str) -> evaluate.Flags:
    """The evaluation of the recipe, on its data where that has a name that means the same here."""
    known = (recipe.get("data") or {}).get("evaluate") or {}
    known = {"ref": known} if isinstance(known, str) else known
    reference = asked.data or known.get("ref")
    if not reference or (not asked.data and Path(reference.partition("#")[0]).suffix):
        raise OptimizerError(
            "the recipe of these bundles describes its evaluation data by a file of the machine that built them",
            "name the data here: --data card/split or a data file, with --label COLUMN",
        )
    label = asked.label or known.get("label")
    seed = int(recipe.get("seed", 0))
    return evaluate.Flags(reference, label, measure.metrics, baseline, None, measure.batch, seed)


def _timing(latency: LatencySpec, seed: int, baseline: str) -> bench.Flags:
    wanted = Wanted(latency.batch, latency.dims, seed=seed)
    return bench.Flags(
        wanted,
        threads=latency.threads,
        seconds=latency.seconds,
        restarts=latency.restarts,
        budget=latency.budget,
        baseline=baseline,
    )


def _written(one: _Waiting, run: Run, out: Path) -> tuple[Path, Path]:
    """The bundle with its numbers, and the outputs of its own model for its samples."""
    manifest, name = one.manifest, one.manifest.candidate
    plugin = registry.load("targets", manifest.target)
    options = schema.parse(plugin.Options, manifest.runtime.options, f"{manifest.bundle}: runtime.options")
    feeds = [samples.read(one.folder / s.inputs) for s in manifest.samples]
    told = outputs.of_model(plugin, options, replay.artifact(manifest, one.folder), feeds, name)
    verdicts = tuple(v for v in run.verdicts if v.subject == name)
    found = {
        "created": run.created,
        "runtime": manifest.runtime.model_copy(update={"precision": told.precision}),
        "tolerance": told.tolerance,
        "measurements": provenance.measurements(run, name),
        "verdicts": verdicts,
        "accepted": tuple(v.gate for v in verdicts if v.outcome != "pass"),
    }
    return renew.measured(one.folder, manifest, found, told.outputs, out)
