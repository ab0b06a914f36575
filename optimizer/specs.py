"""What a recipe may say of load (offline, server, the sweep over runtime settings) and of the search for the best."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from optimizer.errors import OptimizerError
from optimizer.schema import Strict
from optimizer.values import Signature

UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
BOUNDS = ("us", "µs", "ms", "s")  # units in which latency is bounded: "20m" would be a mistake there


def seconds(text: str) -> float:
    """Seconds of `30s`, `2m`, `2min`, `1.5h`, `500ms` or `30`; raises ValueError for text that is no duration."""
    return _number(text)[0] * UNITS[_number(text)[1]]


def milliseconds(text: str) -> float:
    """The bound in `20ms`, `0.5s` or `800us`; raises ValueError when it is none, or not above zero."""
    try:
        number, unit = _number(text)
    except ValueError:
        unit = ""
    if unit not in BOUNDS:
        raise ValueError("write a number with its unit, for example 20ms, 0.5s or 800us")
    if number == 0:
        raise ValueError("no answer takes no time at all; write for example 20ms")
    return 1000 * number * UNITS[unit]


def _number(text: str) -> tuple[float, str]:
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zµ]*)\s*", text)
    if not found or found[2] not in UNITS:
        raise ValueError("write a duration, for example 30s, 20m or 1.5h")
    return float(found[1]), found[2]


def duration_text(value: Any) -> Any:
    """A duration as it was written, once it is seen to be one."""
    if value is not None:
        milliseconds(str(value))
        return str(value)
    return None


def duration_seconds(value: Any) -> Any:
    """Seconds of a duration that may be written as text; anything else is left to the field's own checks."""
    return seconds(value) if isinstance(value, str) else value


AS_WRITTEN = WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]})
"""How an editor checks a duration: a number of seconds, or text such as 20m."""
SIZES = Annotated[int, Field(ge=1)]
DIMS = "sizes of the other free dimensions; default: as for latency"


def known_dims(signature: Signature, dims: Mapping[str, int], where: str) -> None:
    """Raise OptimizerError for a size of a free dimension that the model does not have; `where` names the scenario."""
    symbol = signature.batch_symbol()
    free = [name for name in signature.symbols() if name != symbol]
    for name in dims:
        if name not in free:
            raise OptimizerError(
                f"{where}.dims: no free dimension '{name}'; available: {', '.join(free) or 'none'}",
                f"the batch size is set by {where}.batch" if name == symbol else "correct or remove it",
            )


class OfflineSpec(Strict):
    """Throughput of several callers at once: see optimizer/measure/offline.py."""

    batch: list[SIZES] = Field([1], min_length=1, description="batch sizes, each measured by itself")
    streams: int = Field(2, ge=1, description="callers at once, each of which sends the next batch without a pause")
    seconds: float = Field(5.0, gt=0, description="time budget per candidate and batch size, warm-up not counted")
    restarts: int = Field(3, ge=1, description="fresh processes per candidate")
    dims: dict[str, int] | None = Field(None, description=DIMS)


class ServerSpec(Strict):
    """Latency under requests that arrive at random: see optimizer/measure/server.py and capacity.py."""

    rate: float | None = Field(None, gt=0, description="requests per second (Poisson) at which latency is measured")
    bound: Annotated[str | None, BeforeValidator(duration_text)] = Field(
        None, description="latency that must hold, e.g. 20ms; the highest rate that holds it is searched"
    )
    percentile: int = Field(99, ge=50, le=99, description="of the requests, that must be within the bound")
    streams: int = Field(1, ge=1, description="requests that are served at once")
    seconds: float = Field(5.0, gt=0, description="length of a run, and of a probe unless its requests need longer")
    restarts: int = Field(3, ge=1, description="fresh processes per candidate, which share the requests")
    probes: int = Field(10, ge=5, description="rates tried in search of the highest")
    dims: dict[str, int] | None = Field(None, description=DIMS)

    @property
    def bound_ms(self) -> float | None:
        """The bound in milliseconds."""
        return None if self.bound is None else milliseconds(self.bound)

    @model_validator(mode="after")
    def _something_to_do(self) -> ServerSpec:
        if self.rate is None and self.bound is None:
            raise ValueError("give a rate (requests per second), a bound (for example 20ms), or both")
        return self


class SweepSpec(Strict):
    """Which runtime settings are tried for what may be shipped: see optimizer/measure/sweep.py."""

    threads: list[SIZES] = Field([1], min_length=1, description="threads that one inference may use")
    streams: list[SIZES] = Field([1], min_length=1, description="callers at once, for throughput")
    batch: list[SIZES] = Field([1], min_length=1, description="batch sizes, for throughput; latency is taken at 1")
    seconds: float = Field(3.0, gt=0, description="time budget per setting, warm-up not counted")
    restarts: int = Field(4, ge=2, description="fresh processes per setting")
    dims: dict[str, int] | None = Field(None, description=DIMS)


OBJECTIVES = ("latency.p50", "throughput", "size", "memory")


class AutoSpec(Strict):
    """What is searched for, and how long: see optimizer/search."""

    objective: Literal["latency.p50", "throughput", "size", "memory"] = Field(
        "latency.p50", description="what is to be best among all that meets the recipe's gates"
    )
    budget: Annotated[float, BeforeValidator(duration_seconds), AS_WRITTEN] = Field(
        1200.0, gt=0, description="time for the search, e.g. 20m; optc build --budget takes its place"
    )
    at: dict[str, SIZES] = Field(
        {}, description="batch and other free sizes at which it counts, e.g. {batch: 1}; default: as for latency"
    )
    algorithms: list[str] | None = Field(None, description="steps that may be tried; default: all that fit")
    targets: list[str] | None = Field(None, description="of the recipe's targets; default: all that can be shipped")
