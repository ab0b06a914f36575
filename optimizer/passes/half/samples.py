"""What the guard looks at: calibration data, else evaluation data, else the inputs that every step is checked with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from optimizer.formats import caution
from optimizer.formats.calibration import Calibration
from optimizer.passes.half.options import SEEN_ON, Options
from optimizer.protocols import Context, Feeds
from optimizer.values import Artifact


@dataclass(frozen=True)
class Samples:
    """Inputs that may be read any number of times, and how they are called in the record."""

    look: Callable[[], Iterable[Feeds]]
    progress: Callable[[int], None]
    name: str
    count: int
    made_up: bool


def samples(source: Artifact, options: Options, ctx: Context) -> Samples:
    """The best samples that there are."""
    role = next((role for role in SEEN_ON if role in ctx.data), None)
    if role is None:
        name = "made-up inputs" if ctx.synthetic else "the inputs that the step is checked with"
        return Samples(lambda: ctx.samples, lambda done: None, name, len(ctx.samples), ctx.synthetic)
    data = Calibration(ctx.data[role], source.signature, options.samples)
    count = len(data)
    caution.few(data, ctx.warn)
    caution.constant(data, ctx.warn)
    return Samples(
        lambda: data.feeds(together=True),
        lambda done: ctx.progress(min(done, count), count),
        f"{role} data '{ctx.data[role].name}'",
        count,
        False,
    )
