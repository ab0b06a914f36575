"""What bench, eval and compare share: writing a trial's record, and what is said after its table."""

from __future__ import annotations

from pathlib import Path

from optimizer import report, schema
from optimizer.console import Console, duration
from optimizer.disk import disk_errors, write_atomically
from optimizer.trial import views
from optimizer.values import Run


def write(run: Run, out: Path) -> dict[str, Path]:
    """run.json and the reports made from it, in the folder `out`."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "run.json", schema.dump_run(run))
        return {"run": out / "run.json", **report.render(run, out)}


def finish(screen: Console, run: Run, failed: list[str], paths: dict[str, Path]) -> None:
    """What follows the table of a trial: warnings, failures, verdicts, places."""
    for text in run.warnings:
        screen.print(f"note     {text}")
    if failed:
        screen.print(views.failures(failed))
    for verdict in run.verdicts:
        colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[verdict.outcome]
        screen.print(f"{screen.style(verdict.outcome, colour)}  {verdict.subject}  {verdict.gate}: {verdict.reason}")
    screen.print(f"took     {duration(run.seconds)}, brackets hold 95 % intervals; baseline {run.baseline}")
    for name, path in paths.items():
        screen.print(f"{name:8} {path}")
