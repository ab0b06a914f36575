"""Who takes part in a trial, and who was refused before it began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    return opened, left_out({o.name: o.error for o in refused}, console)


def left_out(errors: Mapping[str, OptimizerError], console: Console) -> dict[str, OptimizerError]:
    """Say who is left out and why; returns the reasons with the names in them."""
    for name, error in errors.items():
        console.warn(f"{name} is left out: {error}")
    return {name: OptimizerError(f"{name}: {error.message}", error.hint) for name, error in errors.items()}
