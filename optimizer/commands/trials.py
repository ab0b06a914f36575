"""What build, bench and eval say after their table."""

from __future__ import annotations

from pathlib import Path

from optimizer.console import Console, duration
from optimizer.trial import views
from optimizer.values import Run


def verdicts(screen: Console, run: Run) -> None:
    """Each verdict on a line, its outcome in colour. The subject says whom its gate is about, so the gate does not."""
    for verdict in run.verdicts:
        colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[verdict.outcome]
        gate = verdict.gate.rpartition(":")[2].strip()
        screen.print(f"{screen.style(verdict.outcome, colour)}  {verdict.subject}  {gate}: {verdict.reason}")


def finish(screen: Console, run: Run, failed: list[str], paths: dict[str, Path]) -> None:
    """What follows the table of a trial: warnings, failures, verdicts, places."""
    for text in run.warnings:
        screen.print(f"note     {text}")
    if failed:
        screen.print(views.failures(failed))
    verdicts(screen, run)
    screen.print(f"took     {duration(run.seconds)}, brackets hold 95 % intervals; baseline {run.baseline}")
    for name, path in paths.items():
        screen.print(f"{name:8} {path}")
