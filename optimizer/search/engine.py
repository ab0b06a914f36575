"""The search itself: presets of every target, soon in turns with changes around what stands out, while time allows.

A batch is built and compared with the baseline's outputs on calibration data (cheap), then timed together with the
yardstick in one interleaved session, then judged on the select data, the fastest first (dear). What is seen to be
hopeless on the way is rejected and costs nothing more. After every trial the best so far is known, and written down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optimizer.errors import OptimizerError
from optimizer.gates import Gate
from optimizer.search import leaders, pareto
from optimizer.search.effects import ordered
from optimizer.search.hopeless import RUINED, doubtful, hopeless, inaccurate, ruined
from optimizer.search.journal import Journal
from optimizer.search.leaders import CONFIDENT, cost
from optimizer.search.points import Point
from optimizer.search.runner import Runner, Space, Timed
from optimizer.values import Trial

BATCH = 8  # trials that are timed together
FIRST = 4  # of them in the first batch: soon something is known, also how long a trial takes
RESERVE = 0.15  # of the budget, for measuring the best again before one of them is chosen
FINALISTS = 3  # per target
ATTEMPTS = 3  # sittings that a trial may end before it is taken to be what ends them
MENDING = 6  # trials in whose time harmful layers may be looked for
LONGER = 1.5  # times that a final session takes longer per trial than one that screens
HOPELESS = 1e6  # the excess of what is noise: more than of anything that was judged


@dataclass(frozen=True)
class Told:
    """Whom the search reports to."""

    finished: Callable[[Trial, Engine], None] = lambda trial, engine: None
    improved: Callable[[list[Point]], None] = lambda points: None


@dataclass
class Engine:
    """One search, in any number of sittings."""

    space: Space
    runner: Runner
    journal: Journal
    budget: float  # seconds, all sittings together
    accuracy: Gate  # the first gate about accuracy
    told: Told = Told()
    clock: Callable[[], float] = time.monotonic
    trials: dict[str, Trial] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)
    ended: str = ""  # why the search stopped
    _begun: float = 0.0
    _last: float = 0.0
    _best: tuple[str, ...] = ()
    _asked: set[str] = field(default_factory=set)  # whose harmful layers were looked for
    _why: dict[str, str] = field(default_factory=dict)  # what makes a point worth trying, where that is known

    def run(self) -> list[Trial]:
        """Search until the budget is spent or nothing is left to try; all trials, those chosen marked."""
        if not self._begun:
            self.begin()
        self._last = self.clock()
        waiting = self.space.presets()
        batch = waiting[:FIRST]
        while batch and (self._left() > self._expected(1) or self._resumed(batch)):
            waiting = [point for point in waiting if point not in batch]
            self._round(batch)
            batch = self._next(waiting)
        spent = batch or self._left() <= 0
        self.ended = "the budget is spent" if spent else "nothing is left to try around the best"
        self._finals()
        return self._settled()

    def begin(self) -> None:
        """Start the clock, where something is prepared that counts."""
        self._begun = self.clock() - self.journal.spent

    def spent(self) -> float:
        """Seconds of the search so far, earlier sittings included."""
        return self.clock() - self._begun

    def eta(self) -> float:
        """Seconds of the budget that are left."""
        return max(0.0, self.budget - self.spent())

    def best(self) -> list[Trial]:
        """Per target the best that meets the gates, the best of all first; empty where nothing does."""
        return leaders.best(self._all())

    def closest(self) -> Trial | None:
        """What comes nearest to meeting the gates, where nothing meets them."""
        return leaders.closest(self._all())

    def _all(self) -> list[Trial]:
        return list(self.trials.values())

    def _left(self) -> float:
        return self.budget * (1 - RESERVE) - self.spent()

    def _expected(self, count: int) -> float:
        """Seconds that so many trials may take, as far as earlier ones tell."""
        took = [t.seconds for t in self.trials.values() if t.objective]
        return count * sum(took) / len(took) if took else 0.0

    def _resumed(self, points: Sequence[Point]) -> bool:
        """Whether an earlier sitting has found out something of these, which costs no time to take up."""
        return any(self.journal.known(self.runner.key(p)) for p in points if p.name not in self.trials)

    def _round(self, batch: Sequence[Point]) -> None:
        """One batch from building to judging. The first trial is made in any case, later ones while time is left."""
        live: list[Point] = []
        for point in batch:
            if point.name in self.trials:
                continue
            known = self.journal.known(self.runner.key(point))
            if not known and self.trials and self._left() <= self._expected(len(live) + 1):
                continue
            self.points[point.name] = point
            if known and known.outcome != "open":
                self._note(known)
                continue
            trial = known or self._built(point)
            self.trials[point.name] = trial
            live += [point] if trial.outcome == "open" else []
        self._time([p for p in live if self.trials[p.name].objective is None])
        open_ = [t for p in live if (t := self.trials[p.name]).outcome == "open" and t.objective]
        for trial in sorted(open_, key=lambda t: cost(t).value):
            self._judge(trial)

    def _built(self, point: Point) -> Trial:
        trial = Trial(point.name, point.target, point.written(), "open", "not finished", 0.0, 0.0)
        if self._deadly(point):
            return self._finish(
                trial, "failed", f"the search ended {ATTEMPTS} times while it was built (out of memory?)"
            )
        try:
            built = self.runner.build(point)
        except OptimizerError as error:
            return self._finish(trial, "failed", error.message)
        trial = replace(
            trial, measurements=built.measurements, error=built.error, digest=built.digest, precision=built.precision
        )
        twin = next((t for t in self.trials.values() if t.digest == built.digest and t.target == point.target), None)
        if twin:
            return self._finish(trial, "rejected", f"the same files as {twin.name}")
        why = hopeless(trial, self._all(), self.accuracy)
        return self._finish(trial, "rejected", why) if why else self._took(trial)

    def _deadly(self, point: Point) -> bool:
        """Whether several sittings have begun to build a point and none has lived to see it built."""
        key = f"{self.runner.key(point)}/begun"
        begun = self.journal.noted(key) or 0
        if begun < ATTEMPTS:
            self.journal.note(key, begun + 1, self.spent())
        return begun >= ATTEMPTS

    def _time(self, points: Sequence[Point]) -> None:
        if not points:
            return
        found = self.runner.time(points, thorough=False)
        each = self._since() / len(points)
        for point in points:
            trial, own = self.trials[point.name], found[point.name]
            trial = replace(trial, seconds=trial.seconds + each)
            if isinstance(own, str):
                self._finish(trial, "failed", own)
            else:
                self._keep(
                    replace(trial, objective=own.objective, measurements=(*trial.measurements, *own.measurements))
                )

    def _judge(self, trial: Trial) -> None:
        """The metric on the select data, unless it is clear that the trial will not be chosen."""
        best = leaders.incumbent(self._all(), trial.target)
        if best and best.standing in CONFIDENT and cost(trial).low > cost(best).high:
            self._finish(trial, "rejected", f"worse by the objective than {best.name}, which meets the gates")
            return
        if self.spent() > self.budget and self.best():
            return  # stays open: another sitting may judge it
        if ruined(trial):  # no metric is needed to see it; leaving a layer in float may mend it
            self._finish(replace(trial, standing="broken", gap=RUINED, excess=HOPELESS), "rejected", RUINED)
            return
        point = self.points[trial.name]
        held = self.runner.stand(point, trial.measurements)
        if held.level == "broken":
            self._finish(replace(trial, standing="broken", gap=held.gap, excess=held.excess), "rejected", held.gap)
            return
        try:
            trial = replace(trial, measurements=(*trial.measurements, *self.runner.judge(point)))
        except OptimizerError as error:
            self._finish(trial, "failed", error.message)
            return
        held = self.runner.stand(point, trial.measurements)
        trial = replace(trial, standing=held.level, gap=held.gap, excess=held.excess)
        if held.level == "broken":
            self._finish(trial, "rejected", held.gap)
            return
        self._finish(trial, "kept", MEETS[held.level])

    def _next(self, presets: Sequence[Point]) -> list[Point]:
        """Half a batch of what was not tried at all, and for the rest changes of what stands out so far."""
        new = list(presets[: BATCH // 2])
        moves = [point for point in self._moves(BATCH - len(new)) if point not in presets]
        return [*moves, *new, *presets[len(new) : BATCH - len(moves)]]

    def _moves(self, count: int) -> list[Point]:
        """Changes of each target's best, and of what is faster or more accurate than it, in turns."""
        sources = [self._untried(parent) for parent in leaders.parents(self._all())]
        found: dict[str, Point] = {}
        while sources and len(found) < count:
            for source in list(sources):
                point = next(source, None)
                if point is None:
                    sources.remove(source)
                elif len(found) < count:
                    found.setdefault(point.name, point)
        return list(found.values())

    def _untried(self, parent: Trial) -> Iterator[Point]:
        point = self.points[parent.name]
        broken = parent.standing == "broken" and (ruined(parent) or inaccurate(parent, self.accuracy))
        harmed = broken or doubtful(parent, self.accuracy)
        if harmed and parent.name not in self._asked:
            self._asked.add(parent.name)
            yield from (p for p in self._restored(point) if p.name not in self.trials)
        around = [p for p in self.space.neighbours(point) if p.name not in self.trials]
        yield from ordered(point, around, self.trials, self.points)

    def _restored(self, point: Point) -> list[Point]:
        """The point with harmful layers in float; remembered, since ranking them takes long."""
        key = f"{self.runner.key(point)}/restored"
        known = self.journal.noted(key)
        if known is None:
            if self._left() <= 0:
                return []
            try:
                each = self._expected(1)
                found = self.runner.restored(point, min(self._left() / 4, MENDING * each if each else math.inf))
            except OptimizerError:
                found = []  # its layers cannot be told apart here: the other moves remain
            known = [[[[name, dict(options)] for name, options in r.point.steps], r.why] for r in found]
            self.journal.note(key, known, self.spent())
        points = []
        for steps, why in known:
            points.append(replace(point, steps=tuple((name, options) for name, options in steps)))
            self._why[points[-1].name] = why
        return points

    def _finals(self) -> None:
        """What cannot be told apart from a target's best is measured with it once more, with more restarts."""
        found = [t for best in self.best() for t in self._rivals(best)]
        keys = {t.name: self.runner.key(self.points[t.name]) + "/final" for t in found}
        known = {t.name: again for t in found if (again := self.journal.known(keys[t.name]))}
        timed: Mapping[str, Timed | str] = {}
        if len(known) < len(found) and self.eta() > LONGER * self._expected(len(found)):
            timed = self.runner.time([self.points[t.name] for t in found], thorough=True)
        for trial in found:
            own = timed.get(trial.name)
            if isinstance(own, Timed):
                others = {(m.metric, m.relation) for m in own.measurements}
                kept = [m for m in trial.measurements if (m.metric, m.relation) not in others]
                known[trial.name] = replace(trial, objective=own.objective, measurements=(*kept, *own.measurements))
                self.journal.write(keys[trial.name], known[trial.name], self.spent())
        self.trials |= known
        self._improve()

    def _rivals(self, best: Trial) -> list[Trial]:
        """A target's best and what may be as good; nothing where it has no rival."""
        found = [t for t in leaders.able(self._all(), best.target) if cost(t).low <= cost(best).high]
        return found[:FINALISTS] if len(found) > 1 else []

    def _settled(self) -> list[Trial]:
        """All trials with what became of them."""
        chosen = [t.name for t in self.best()]
        edge = {t.name for t in pareto.front(self._all(), self.accuracy)}
        for place, name in enumerate(chosen):
            trial = self.trials[name]
            why = f"best of all: {trial.reason}" if place == 0 else f"best on {trial.target}: {trial.reason}"
            self.trials[name] = replace(trial, outcome="chosen", reason=why)
        for name, trial in self.trials.items():
            if trial.outcome == "open":
                trial = replace(trial, outcome="rejected", reason="the budget was spent before it was judged")
            self.trials[name] = replace(trial, front=name in edge)
        return list(self.trials.values())

    def _since(self) -> float:
        now = self.clock()
        took, self._last = now - self._last, now
        return took

    def _took(self, trial: Trial) -> Trial:
        return replace(trial, seconds=trial.seconds + self._since())

    def _keep(self, trial: Trial) -> None:
        """An intermediate state, for the next sitting."""
        self.trials[trial.name] = trial
        self.journal.write(self.runner.key(self.points[trial.name]), trial, self.spent())

    def _finish(self, trial: Trial, outcome: str, reason: str) -> Trial:
        told = "; ".join(filter(None, (self._why.get(trial.name), reason)))
        trial = replace(self._took(trial), outcome=outcome, reason=told, elapsed=self.spent())  # type: ignore[arg-type]  # a Literal
        self.journal.write(self.runner.key(self.points[trial.name]), trial, self.spent())
        self._note(trial)
        return trial

    def _note(self, trial: Trial) -> None:
        self.trials[trial.name] = trial
        self._improve()
        self.told.finished(trial, self)

    def _improve(self) -> None:
        """Tell the best so far where it has changed: the best per target, or what is closest."""
        closest = self.closest()
        best = self.best() or ([closest] if closest else [])
        names = tuple(t.name for t in best)
        if names != self._best:
            self._best = names
            self.told.improved([self.points[name] for name in names])


MEETS = {
    "sure": "meets the gates with all of its interval",
    "likely": "meets the gates, foretold for the evaluation data",
    "possible": "meets the gates, the evaluation data may not confirm it",
}
