"""Errors that the user sees, and the exit codes they end in (DESIGN section 7)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 3
EXIT_INCONCLUSIVE = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class OptimizerError(Exception):
    """The user's mistake or the environment's limit: what went wrong, and the next move.

    `message` says what, where and what was available; `hint` says what to do now.
    The command line prints both and exits with 2.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def suggestion(word: str, available: Iterable[str]) -> str | None:
    """The name in `available` that `word` most likely meant, or None."""
    close = difflib.get_close_matches(word, list(available), n=1, cutoff=0.6)
    return close[0] if close else None


def unknown(kind: str, word: str, available: Iterable[str], where: str = "") -> OptimizerError:
    """The error for a name that nothing answers to: with the nearest name and all there is."""
    names = sorted(available)
    place = f" in {where}" if where else ""
    meant = suggestion(word, names)
    listed = ", ".join(names) if names else "none"
    hint = f"did you mean '{meant}'?" if meant else ("use one of these names" if names else "there is none to name")
    return OptimizerError(f"unknown {kind} '{word}'{place}; available: {listed}", hint)


def elsewhere(what: str, reason: str) -> OptimizerError:
    """The error for what cannot run on this machine; `reason` as targets give it: why, `; `, what to do."""
    why, _, hint = reason.partition("; ")
    return OptimizerError(f"{what} cannot run here: {why}", hint or "run it on a machine with a GPU")


def missing_extra(package: str, extra: str, needed_by: str) -> OptimizerError:
    """The error for a library that an extra of this package would have brought."""
    return OptimizerError(
        f"{needed_by} needs the package '{package}', which is not installed",
        f"pip install 'optc[{extra}]'",
    )
