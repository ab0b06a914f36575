"""Who takes part in a trial, and who was refused before it began."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.console import Console
from optimizer.errors import OptimizerError, unknown
from optimizer.subjects import Opened, Refused


def named(text: str | None, subjects: Sequence[Opened | Refused]) -> str:
    """The subject that is meant as baseline: the first unless told; by name, name@target or as it was given."""
    if text is None:
        return subjects[0].name
    found = [o.name for o in subjects if text in (o.name, o.variant, o.origin)]
    if not found:
        raise unknown("baseline", text, [o.name for o in subjects], "the artifacts")
    return found[0]


def split(subjects: Sequence[Opened | Refused], console: Console) -> tuple[list[Opened], dict[str, OptimizerError]]:
    """Those that were opened, and why the others were not, which is said.

    Raises the first refusal as it is when not one was opened.
    """
    opened = [o for o in subjects if isinstance(o, Opened)]
    refused = [o for o in subjects if isinstance(o, Refused)]
    if refused and not opened:
        raise refused[0].error
    for one in refused:
        console.warn(f"{one.name} is left out: {one.error}")
    return opened, {o.name: OptimizerError(f"{o.name}: {o.error.message}", o.error.hint) for o in refused}
