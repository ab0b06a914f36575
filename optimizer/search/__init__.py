"""`auto`: a recipe with a search in it -> the concrete recipe that the search found, and a record of all trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from optimizer import gates
from optimizer.console import Console, duration
from optimizer.disk import disk_errors, write_atomically
from optimizer.errors import OptimizerError
from optimizer.recipe import Recipe
from optimizer.relocation import relocated
from optimizer.search import board, points, space
from optimizer.search.asked import Asked, find
from optimizer.search.engine import FIRST, Engine, Told
from optimizer.search.journal import Journal
from optimizer.search.points import Point, start
from optimizer.search.trial import Trials
from optimizer.store import Store
from optimizer.values import Trial

__all__ = ["FIRST", "Asked", "Searched", "find", "moves", "search", "start"]

BEST = "best.yaml"
TRIALS = "trials"
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Searched:
    """What a search found."""

    recipe: Recipe  # concrete: the best point per target stands in the place of the search
    trials: tuple[Trial, ...]
    path: Path  # of that recipe as a file
    gap: str | None  # what nothing met, None where something meets the gates


def moves(asked: Asked) -> list[tuple[Point, list[Point]]]:
    """The presets in the order in which they are tried, each with what may be tried around it."""
    found = space.of(asked)
    return [(point, found.neighbours(point)) for point in found.presets()]


def search(asked: Asked, store: Store, console: Console, folder: Path) -> Searched:
    """Search until the budget is spent; trials, journal and the best so far lie below `folder`.

    Raises OptimizerError where the budget does not even allow one trial to be judged.
    """
    return _Search(asked, store, console, folder).run()


class _Search:
    """One search with the files that it writes."""

    def __init__(self, asked: Asked, store: Store, console: Console, folder: Path) -> None:
        self.asked, self.console, self.folder = asked, console, folder
        # What is said about single steps would drown what is said about trials.
        inner = console if console.level >= 2 else Console(level=0, err=io.StringIO())
        self.runner = Trials(asked, store, inner)
        named = [gate for gate in map(gates.parse, asked.recipe.gates) if gate.metric in self.runner.base.metrics]
        self.accuracy = named[0]
        self.count = 0
        self.draw: Callable[[Sequence[str]], None] = lambda lines: None

    def run(self) -> Searched:
        asked, spec = self.asked, self.asked.spec
        self.console.info(f"search for '{asked.variant}': {asked.goal}, {duration(spec.budget)}")
        journal = Journal(self.folder / TRIALS / JOURNAL, self.runner.scope(), self.console.warn)
        if len(journal):
            self.console.info(
                f"{len(journal)} trials of an earlier search are taken over, and the {duration(journal.spent)} that it "
                f"took; remove {journal.path} to search anew"
            )
        found = space.of(asked)
        for name, roles in found.missing.items():
            self.console.info(f"not tried: {name}, which needs data: {', '.join(f'{{{role}: ...}}' for role in roles)}")
        engine = Engine(found, self.runner, journal, spec.budget, self.accuracy, Told(self._finished, self._improved))
        engine.begin()
        with self.console.task("search: the baseline"):
            self.runner.prepare()
        self._refuse_short(engine, journal)
        with self.console.board() as self.draw:
            self._show(engine)
            trials = engine.run()
        return self._concluded(engine, trials)

    def _show(self, engine: Engine) -> None:
        """What stands out so far, below the lines of the trials."""
        best = [t.name for t in engine.best()]
        left = f"search: {len(engine.trials)} trials, {duration(engine.eta())} of {duration(engine.budget)} left"
        self.draw(["", *board.standings(list(engine.trials.values()), self.accuracy, best), left])

    def _refuse_short(self, engine: Engine, journal: Journal) -> None:
        spent, budget = engine.spent(), self.asked.spec.budget
        if spent >= budget and not len(journal):
            raise OptimizerError(
                f"the search's budget of {duration(budget)} is too small: building and evaluating the baseline alone "
                f"took {duration(spent)}, and a trial takes about as long",
                f"give it time for ten trials or more: --budget {max(1, round(spent / 6))}m",
            )

    def _concluded(self, engine: Engine, trials: Sequence[Trial]) -> Searched:
        best, closest = engine.best(), engine.closest()
        kept = best or ([closest] if closest else [])
        if not kept:
            took = max((t.seconds for t in trials), default=0.0)
            failed = next((t for t in trials if t.outcome == "failed"), None)
            told = f"; {failed.name} failed: {failed.reason}" if failed else ""
            raise OptimizerError(
                f"no trial was judged in {duration(engine.spent())}; a trial takes up to {duration(took)}{told}",
                "give the search more time: --budget; what was built is kept and not built again",
            )
        found = points.concrete(self.asked, [engine.points[t.name] for t in kept])
        self._improved([engine.points[t.name] for t in kept])
        for trial in trials:
            self._written(trial, engine.points[trial.name])
        self._tell(engine, trials, best)
        gap = None if best or not closest else f"nothing met the gates; closest: {closest.name}, {closest.gap}"
        if gap:
            self.console.warn(gap)
        return Searched(found, tuple(trials), self.folder / BEST, gap)

    def _tell(self, engine: Engine, trials: Sequence[Trial], best: Sequence[Trial]) -> None:
        for text in board.standings(trials, self.accuracy, [t.name for t in best]):
            self.console.info(text)
        self.console.info(f"search   {len(trials)} trials in {duration(engine.spent())}: {engine.ended}")
        if best:
            self.console.info(f"chosen   {', '.join(f'{t.name} ({board.told_as(t.objective)})' for t in best)}")
        self.console.info(f"recipe   {self.folder / BEST}")

    def _finished(self, trial: Trial, engine: Engine) -> None:
        self.count += 1
        self._written(trial, engine.points[trial.name])
        self.draw(())
        self.console.info(board.line(trial, self.count, self.accuracy, engine.eta()))
        self._show(engine)

    def _written(self, trial: Trial, point: Point) -> None:
        path = self.folder / TRIALS / f"{trial.name}.yaml"
        self._write(points.trial(self.asked, point), path, f"{trial.outcome}: {trial.reason}")

    def _improved(self, found: list[Point]) -> None:
        names = ", ".join(point.name for point in found)
        name = f"{self.asked.recipe.name}-best"  # building it leaves the report of the search in peace
        self._write(points.concrete(self.asked, found), self.folder / BEST, f"the best so far: {names}", name=name)

    def _write(self, recipe: Recipe, path: Path, comment: str, **changes: str) -> None:
        """A recipe that can be built from where it lies."""
        document = relocated(recipe.document() | changes, path.parent.resolve(), self.asked.recipe.base)
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, f"# {' '.join(comment.split())}\n{text}".encode())
