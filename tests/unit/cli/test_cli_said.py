"""Lines that several commands print: progress with what it counts, and verdicts that name a candidate once."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bundle_lab
import pytest

from optimizer import console
from optimizer.commands import trials
from optimizer.console import Console
from optimizer.values import Verdict


@pytest.mark.parametrize(("counted", "line"), [("examples", "job  3/12 examples  25%  ETA"), (None, "job  25%  ETA")])
def test_progress_says_what_it_counts(counted: str | None, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 100))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(now)))
    screen = Console(err=io.StringIO())
    with screen.task("job", counted) as advance:
        advance(3, 12)
    assert str(screen.err.getvalue()).startswith(line)  # type: ignore[union-attr]  # a StringIO


def test_a_verdict_names_its_candidate_once(tmp_path: Path, capsys: Any) -> None:
    run = bundle_lab.run(bundle_lab.artifact(tmp_path))
    texts = ("int8@openvino: size <= 3MB", "@openvino: size <= 3MB", "size <= 3MB")
    verdicts = tuple(Verdict(text, "int8@openvino", "pass", "It is.") for text in texts)
    trials.verdicts(Console(), dataclasses.replace(run, verdicts=verdicts))
    assert capsys.readouterr().out.splitlines() == ["pass  int8@openvino  size <= 3MB: It is."] * 3
