"""What a gate may say: `[[variant][@target]:] METRIC [drop|speedup|ratio] OP NUMBER[UNIT] [at batch N]`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast

from optimizer.errors import OptimizerError, suggestion
from optimizer.values import Better, Relation

GRAMMAR = "[[variant][@target]:] METRIC [drop|speedup|ratio] OP NUMBER[UNIT] [at batch N]"
EXAMPLES = ("top1 drop <= 0.5pp", "latency.p50 speedup >= 2x", "size ratio <= 0.3", "int8@openvino: latency.p95 <= 5ms")
FORM = re.compile(
    r"""\s*(?:(?P<variant>[^\s:@]+)?(?:@(?P<target>[^\s:@]+))?\s*:)?\s*
    (?P<metric>[A-Za-z_][\w.\-]*)(?:\s+(?P<relation>[A-Za-z]+))?\s*
    (?P<op>[<>=!~≤≥]+)\s*
    (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>/s|1/s|%|[A-Za-zµ]+(?<!at))?
    (?:\s+at\s+batch\s+(?P<batch>\d+))?\s*""",
    re.VERBOSE,
)
SPELLINGS = {"=<": "<=", "=>": ">=", "≤": "<=", "≥": ">="}
UNITS: dict[str, tuple[str, float]] = {
    "%": ("%", 1.0), "pp": ("pp", 1.0), "x": ("x", 1.0),
    "us": ("ms", 1e-3), "µs": ("ms", 1e-3), "ms": ("ms", 1.0), "s": ("ms", 1e3),
    "B": ("B", 1.0), "kB": ("B", 1e3), "MB": ("B", 1e6), "GB": ("B", 1e9),
    "KiB": ("B", 2**10), "MiB": ("B", 2**20), "GiB": ("B", 2**30),
    "1/s": ("1/s", 1.0), "/s": ("1/s", 1.0),
}  # fmt: skip
"""Spelling -> unit of measurements, and the factor into it."""
LATENCIES = ("latency.p50", "latency.p90", "latency.p95", "latency.p99")

FAMILIES = ("latency", "throughput", "size", "memory", "load", "cold", "offline", "server")
"""First words of our own metrics: a name that begins with one of them is no metric of the user's."""

Operator = Literal["<=", "<", ">=", ">"]


@dataclass(frozen=True)
class Family:
    """What may be asked of a metric: its unit, which side is better, and how it compares with a baseline."""

    unit: str
    better: Better
    relation: Relation


TIMED = {
    **dict.fromkeys(LATENCIES, Family("ms", "lower", "speedup")),
    "throughput": Family("1/s", "higher", "ratio"),
    "load.time": Family("ms", "lower", "ratio"),
    "cold.start": Family("ms", "lower", "ratio"),
    "memory.peak": Family("B", "lower", "ratio"),
}
"""Metrics that exist when latency is measured."""
LOADED = {
    "offline.throughput": Family("1/s", "higher", "ratio"),
    **dict.fromkeys(("server.p50", "server.p90", "server.p99"), Family("ms", "lower", "speedup")),
    "server.rate": Family("1/s", "higher", "absolute"),
}
"""Metrics that exist when the scenario of their first name is measured."""
KNOWN = TIMED | LOADED | {"size": Family("B", "lower", "ratio")}


@dataclass(frozen=True)
class Gate:
    """A threshold on one metric; `threshold` is in `unit`, "" meaning the metric's own."""

    text: str
    metric: str
    relation: Relation
    op: Operator
    threshold: float
    unit: str
    batch: int | None = None
    variant: str | None = None  # None: every variant but the baseline
    target: str | None = None  # None: every target

    def __str__(self) -> str:
        return self.text

    @property
    def below(self) -> bool:
        """True when small values are good."""
        return self.op.startswith("<")


def parse(text: str, metrics: Collection[str] | None = None) -> Gate:
    """Read a gate; raises OptimizerError with the grammar and examples for whatever it cannot mean.

    `metrics`: what is measured besides our own; the unit of another one is not looked at, since `check` refuses it.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise fault(text, "cannot be read")
    op = SPELLINGS.get(found["op"], found["op"])
    if op not in ("<=", "<", ">=", ">"):
        raise fault(text, f"'{op}' is no comparison for a measured value", "use <=, <, >= or >")
    metric = _metric(text, found["metric"])
    relation = _relation(text, metric, found["relation"])
    unit, threshold = "", float(found["number"])
    if metrics is None or metric in KNOWN or metric in metrics:
        unit, threshold = _threshold(text, metric, relation, threshold, found["unit"] or "")
    batch = int(found["batch"]) if found["batch"] else None
    if batch is not None and metric not in TIMED and metric != "offline.throughput":
        raise fault(text, f"'{metric}' does not depend on the batch size", "leave 'at batch' out")
    _refuse_direction(text, metric, relation, op)
    return Gate(
        " ".join(text.split()),
        metric,
        relation,
        cast("Operator", op),
        threshold,
        unit,
        batch,
        found["variant"],
        found["target"],
    )


def fault(text: str, what: str, hint: str | None = None) -> OptimizerError:
    grammar = f"a gate is {GRAMMAR}, for example: {'; '.join(EXAMPLES)}"
    return OptimizerError(f"gate '{text}': {what}", f"{hint}; {grammar}" if hint else grammar)


def _metric(text: str, name: str) -> str:
    if name == "latency":
        return "latency.p50"
    if name in ("drop", "speedup", "ratio"):
        whose = {"drop": "top1", "speedup": "latency.p50", "ratio": "size"}[name]
        raise fault(
            text, f"'{name}' of what?", f"put the metric before it: '{text.replace(name, f'{whose} {name}', 1)}'"
        )
    root = name.partition(".")[0]
    if name in KNOWN or root not in FAMILIES:
        return name
    meant = suggestion(name, KNOWN)
    raise fault(text, f"unknown metric '{name}'; available: {', '.join(KNOWN)}", meant and f"did you mean '{meant}'?")


def _relation(text: str, metric: str, word: str | None) -> Relation:
    usual: Relation = KNOWN[metric].relation if metric in KNOWN else "drop"
    if word is None:
        return "absolute"
    if word == usual:
        return usual
    if usual == "absolute":
        raise fault(text, f"'{metric}' is not compared with a baseline", f"leave '{word}' out")
    if word in ("drop", "speedup", "ratio"):
        raise fault(text, f"'{metric}' has no {word}", f"compare it with the baseline by '{metric} {usual}'")
    meant = suggestion(word, ("drop", "speedup", "ratio"))
    raise fault(text, f"unknown word '{word}'; available: {usual}", f"did you mean '{meant}'?" if meant else None)


def _threshold(text: str, metric: str, relation: Relation, number: float, word: str) -> tuple[str, float]:
    """The unit in which the metric is measured, and the number in it."""
    if word and word not in UNITS:
        meant = suggestion(word, UNITS) or next((u for u in UNITS if u.lower() == word.lower()), None)
        raise fault(
            text, f"unknown unit '{word}'; available: {', '.join(UNITS)}", f"did you mean '{meant}'?" if meant else None
        )
    unit, factor = UNITS[word] if word else ("", 1.0)
    if relation in ("speedup", "ratio"):
        if unit == "%" and relation == "ratio":
            return "x", number / 100
        expected: tuple[str, ...] = ("x", "")
    elif metric in KNOWN:
        expected = (KNOWN[metric].unit,)
    else:
        expected = ("pp", "") if relation == "drop" else ("%", "")
    if unit not in expected:
        raise fault(text, _wrong_unit(metric, relation, word), _right_unit(text, expected, word))
    return "x" if relation in ("speedup", "ratio") else unit, number * factor


def _wrong_unit(metric: str, relation: Relation, word: str) -> str:
    what = metric if relation == "absolute" else f"{metric} {relation}"
    return f"'{what}' is not measured in '{word}'" if word else f"'{what}' needs a unit"


def _right_unit(text: str, expected: Collection[str], word: str) -> str:
    if word == "%" and "pp" in expected:
        return f"a drop is a difference: did you mean '{text.replace('%', 'pp')}' (percentage points)?"
    spelled = [name for name, (unit, _) in UNITS.items() if unit in expected]
    return f"write one of {', '.join(spelled)}" + (", or no unit" if "" in expected else "")


def _refuse_direction(text: str, metric: str, relation: Relation, op: str) -> None:
    better = _better(metric, relation)
    if better is None or op.startswith("<") == (better == "lower"):
        return
    other = op.replace(">", "<") if ">" in op else op.replace("<", ">")
    asked = "at least" if ">" in op else "at most"
    what = metric if relation == "absolute" else relation
    raise fault(text, f"asks for {what} of {asked} the limit, but {better} is better", f"did you mean {other}?")


def _better(metric: str, relation: Relation) -> Better | None:
    """Which side is better; None where only the metric itself knows."""
    if relation == "drop":
        return "lower"
    if relation == "speedup":
        return "higher"
    return KNOWN[metric].better if metric in KNOWN else None
