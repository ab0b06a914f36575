"""Which layers harm the task metric: screened by the outputs' error, measured on examples, put back one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain import prices, search, task
from optimizer.explain.clock import Clock
from optimizer.explain.judge import FEWEST, Errors, Judge
from optimizer.explain.keep import selector, selectors
from optimizer.explain.proxy import Proxy, decibel
from optimizer.explain.subject import Part, Subject
from optimizer.explain.task import Task
from optimizer.explain.variants import Variants
from optimizer.protocols import Feeds
from optimizer.values import Measurement, Sensitivity

MOST = 24  # layers and types that are reported
SCREEN, SEARCH, MEASURE = 0.35, 0.65, 0.95  # of the budget: until when each stage may go on
EVALUATIONS = 16  # that the budget should at least allow
ENLARGED = 4  # times the examples that are asked for, where those show no loss for certain
WORTH = 0.5  # share of the loss from which an incomplete choice is advised


@dataclass(frozen=True)
class Ranking:
    """The layers by harm, and what to leave in float."""

    sensitivities: tuple[Sensitivity, ...]
    keep: tuple[str, ...]
    sentences: tuple[str, ...]


def rank(
    subject: Subject, variants: Variants, samples: Sequence[Feeds], examples: int, clock: Clock, console: Console
) -> Ranking:
    """Screen, search and measure within the budget of the clock."""
    if not variants.layers:
        return Ranking((), (), (*variants.notes, "no layer reads a rounded tensor that could be left in float"))
    return _Ranker(subject, variants, clock, console).rank(samples, examples)


class _Ranker:
    def __init__(self, subject: Subject, variants: Variants, clock: Clock, console: Console) -> None:
        self.subject, self.variants, self.clock, self.console = subject, variants, clock, console
        self.layers = variants.layers
        self.every = frozenset(layer.name for layer in variants.layers)
        self.sentences: list[str] = list(variants.notes)
        self.judge: Judge | None = None

    def rank(self, samples: Sequence[Feeds], examples: int) -> Ranking:
        try:
            proxy = Proxy(self.variants, self._affordable(samples))
        except OptimizerError as error:
            return Ranking((), (), (*self.sentences, f"its layers cannot be left in float one by one: {error.message}"))
        if proxy.error(frozenset()) == 0:
            return Ranking((), (), (*self.sentences, "rounding changes no output on the samples"))
        suspicion = self._screen(proxy)
        self._begin(examples)
        keep = self._search(proxy, suspicion)
        return Ranking(tuple(self._measured(proxy, suspicion)), keep, tuple(self.sentences))

    def _affordable(self, samples: Sequence[Feeds]) -> Sequence[Feeds]:
        """As many samples as let every layer be screened in time."""
        session = self.variants.session(frozenset())
        session(samples[0])
        begin = time.perf_counter()
        session(samples[0])
        each = time.perf_counter() - begin
        room = (SCREEN * self.clock.seconds - self.clock.spent()) / (each * (len(self.layers) + 1))
        return samples[: max(1, min(len(samples), int(room)))]

    def _screen(self, proxy: Proxy) -> dict[str, float]:
        """Layer -> the error of the outputs when it alone is quantized; those that time did not allow are left out."""
        with self.console.task(f"{self.subject.name}: screening {len(self.layers)} layers", "layers") as advance:
            found = search.screen(self.layers, proxy, lambda: self.clock.before(SCREEN + 0.1), advance)
        told = [f"'{name}' cannot be quantized alone here: {fault}" for name, fault in found.faults.items()]
        self.sentences += told[:1]
        missed = len(self.layers) - len(found.errors) - len(found.faults)
        if missed:
            self.sentences.append(f"{missed} of {len(self.layers)} layers were not screened: the budget was spent")
        return dict(found.errors)

    def _begin(self, examples: int) -> None:
        """The metric of the float model and of the candidate, on as many examples as the budget allows."""
        name = task.chosen(self.subject.metrics)
        data = self.subject.data
        if name is None or data is None:
            self.sentences.append("no task metric was given: layers are ranked by the error of the outputs")
            return
        count = self._examples(min(examples, len(data)))
        if count < 2:
            self.sentences.append(f"the data has {count} example(s), too few for a task metric")
            return
        subject = self.subject
        first = Task(
            name=name,
            metric=subject.metrics[name],
            data=Part(data, 0, count),
            batch=subject.batch,
            against=str(subject.against),
            machine=subject.machine.digest,
            seed=subject.seed,
        )
        self.judge = Judge(first, self.variants, data, subject.name)
        with self.console.task(f"{subject.name}: {name} on {count} examples"):
            most = min(len(data), ENLARGED * count)
            while not self.judge.certain() and len(self.judge.task.data) < most and self.clock.before(SEARCH - 0.1):
                self.judge.enlarge(min(most, 2 * len(self.judge.task.data)))
            told = self.judge.drop(frozenset(), subject.name)
        self.sentences.append(f"{told_as(told)} on {told.n} examples")

    def _examples(self, asked: int) -> int:
        data = self.subject.data
        assert data is not None
        first = next(iter(data.batches(self.subject.batch, self.subject.batch)))
        begin = time.perf_counter()
        with self.variants.real(self.every) as session:  # in float: the slowest variant
            task.tried(session, first)
            opening = time.perf_counter() - begin
            begin = time.perf_counter()
            task.tried(session, first)
        each = (time.perf_counter() - begin) / max(len(first.indices), 1)
        room = int(((MEASURE - SCREEN) * self.clock.seconds / EVALUATIONS - opening) / max(each, 1e-9))
        count = min(asked, max(room, FEWEST))
        if count < asked:
            self.sentences.append(f"{count} of {asked} examples are used for the metric, so that the budget holds")
        return count

    def _search(self, proxy: Proxy, suspicion: Mapping[str, float]) -> tuple[str, ...]:
        if self.judge is not None and not self.judge.likely():
            self.sentences.append("these examples show no drop that could not be chance: nothing to restore")
            return ()
        judge = self.judge or Errors(proxy)
        if self.judge is None and judge.content(frozenset()):
            now = decibel(proxy.error(frozenset()))
            self.sentences.append(f"the outputs are {now:.1f} dB above their error: nothing to restore")
            return ()
        until = max(SEARCH, self.clock.spent() / self.clock.seconds + 0.25)
        with self.console.task(f"{self.subject.name}: what to leave in float"):
            given = (self.layers, suspicion, proxy, judge.content)
            found = search.greedy(*given, lambda: self.clock.before(until), prices.counted(self.layers))
        keep = selectors(found.kept, self.layers)
        if found.kept == self.every:
            self.sentences.append("the error is spread over all layers: leaving some of them in float restores nothing")
            return ()
        if found.restored or (self.judge is not None and found.kept and self.judge.share(found.kept) >= WORTH):
            self._say_keep(found, keep, proxy)
            return keep
        self.sentences.append("no choice of layers was found in the budget that restores the metric: raise --budget")
        return ()

    def _say_keep(self, found: search.Found, keep: Sequence[str], proxy: Proxy) -> None:
        cost = 100 * prices.counted(self.layers).share(found.kept)
        what = (
            f"{len(found.kept)} of {len(self.layers)} layers in float ({cost:.1f} % of the quantized multiplications)"
        )
        kept = ", ".join(keep)
        if self.judge is None:
            gain = decibel(proxy.error(found.kept)) - decibel(proxy.error(frozenset()))
            self.sentences.append(f"{what} take {gain:.1f} dB off the error of the outputs: keep {kept}")
            return
        judge, told = self.judge, self.judge.drop(found.kept, self.subject.name)
        only, more = ("", "") if found.restored else ("only ", "; a larger --budget may find more")
        self.sentences.append(
            f"{what} give back {only}{100 * judge.share(found.kept):.0f} % of the lost {judge.task.name} "
            f"({told_as(told)}, n = {told.n}): keep {kept}{more}"
        )
        sure = judge.confirmed
        if found.restored and sure:
            self.sentences.append(
                f"on {sure.examples} other examples, which took no part in the choice: {100 * sure.share:.0f} % given "
                f"back ({told_as(sure.drop)})"
            )
        elif found.restored:
            self.sentences.append("the data has no other examples to confirm this on")

    def _measured(self, proxy: Proxy, suspicion: Mapping[str, float]) -> list[Sensitivity]:
        """Types and layers, the most harmful first, as many as time allows."""
        by_name = {layer.name: layer for layer in self.layers}
        sets = {name: frozenset(names) for name, names in search.groups(self.layers).items()}
        worst = sorted((n for n in suspicion if suspicion[n] > 0), key=lambda n: -suspicion[n])
        chosen = [(name, by_name[min(names)].op, names) for name, names in sets.items()]
        chosen += [(selector(n), by_name[n].op, frozenset({n})) for n in worst]
        total = min(len(chosen), MOST)
        found: list[Sensitivity] = []
        with self.console.task(f"{self.subject.name}: sensitivity of {total} layers", "layers") as advance:
            for name, op, names in chosen[:total]:
                if found and not self.clock.before(MEASURE):
                    self.sentences.append(
                        f"{len(found)} of {len(chosen)} layers and types were measured: the budget was spent"
                    )
                    break
                alone = self._effect(f"only {name} quantized", self.every - names, proxy)
                without = self._effect(f"all but {name} quantized", names, proxy)
                found.append(Sensitivity(name, op, alone, without))
                advance(len(found), total)
        return sorted(found, key=_harm, reverse=True)

    def _effect(self, what: str, kept: frozenset[str], proxy: Proxy) -> Measurement | None:
        """The effect of a variant; None for one that cannot run here."""
        if proxy.fault(kept):
            return None
        subject = f"{self.subject.name}: {what}"
        if self.judge is not None:
            return self.judge.drop(kept, subject)
        return Measurement(
            subject=subject,
            metric="output.sqnr",
            relation="absolute",
            value=decibel(proxy.error(kept)),
            low=None,
            high=None,
            n=proxy.count,
            unit="dB",
            better="higher",
            against=self.subject.against,
            protocol={"of": "the worst output"},
            machine=self.subject.machine.digest,
        )


def _harm(found: Sensitivity) -> float:
    """How bad a layer is when it alone is quantized."""
    alone = found.alone
    if alone is None:
        return -math.inf
    return alone.value if alone.better == "lower" else -alone.value


def told_as(measured: Measurement) -> str:
    """A measurement in words: `spearman drop 0.052 [0.045, 0.059]`."""
    interval = f" [{measured.low:.4g}, {measured.high:.4g}]" if measured.low is not None else ""
    relation = " drop" if measured.relation == "drop" else ""
    return f"{measured.metric}{relation} {measured.value:.4g}{interval} {measured.unit}".rstrip()
