"""Writes the views of a run into a folder, each complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from optimizer import schema
from optimizer.console import Console
from optimizer.disk import disk_errors, write_atomically
from optimizer.report.junit import junit
from optimizer.report.markdown import markdown
from optimizer.report.page import html
from optimizer.values import Run


def record(place: Path, run: Run) -> dict[str, Path]:
    """Write the run record `place` and the reports made from it beside it; returns all of them by kind."""
    with disk_errors(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, schema.dump_run(run))
        return {"run": place, **render(run, place.parent)}


def render(run: Run, out: Path) -> dict[str, Path]:
    """Write report.html, report.md and junit.xml into `out`; returns them by kind.

    Where the environment names a GITHUB_STEP_SUMMARY file, the Markdown is appended to it.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(run)
    made = {"html": ("report.html", html(run)), "markdown": ("report.md", text), "junit": ("junit.xml", junit(run))}
    for name, document in made.values():
        write_atomically(out / name, document.encode())
    append_summary(text)
    return {kind: out / name for kind, (name, _) in made.items()}


def append_summary(text: str) -> None:
    """Append Markdown to the file that GITHUB_STEP_SUMMARY names, if any; warns where that cannot be written."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    try:
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        Console().warn(f"no summary in {summary}, which GITHUB_STEP_SUMMARY names ({error.strerror})")
