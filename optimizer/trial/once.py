"""One run of one artifact in a process of its own: what it gives for some inputs, and how it died if it did.

The folder named on the command line holds `task.json` and `feeds.npz`; `outputs.npz` and `answer.json` are written
there. A crash of a runtime thus ends this process and not the command that asked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from optimizer import registry, schema
from optimizer.errors import OptimizerError
from optimizer.measure.process import PATIENCE, THREAD_VARIABLES, Subject, load_feeds, save_feeds
from optimizer.protocols import Feeds
from optimizer.values import Artifact


@dataclass(frozen=True)
class Answer:
    """What one run gave."""

    outputs: dict[str, np.ndarray]
    precision: str


def run_once(subject: Subject, feeds: Feeds, threads: int) -> Answer:
    """The outputs of a subject for some inputs. Raises OptimizerError naming it, with its last words, when it fails."""
    with tempfile.TemporaryDirectory(prefix="optc-once-") as temporary:
        folder = Path(temporary)
        save_feeds(feeds, folder / "feeds.npz")
        artifact = TypeAdapter(Artifact).dump_python(subject.artifact, mode="json")
        task = {"target": subject.target, "artifact": artifact, "options": subject.options}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603  # our own interpreter, our own module
                [sys.executable, "-P", "-m", "optimizer.trial.once", str(folder)],
                capture_output=True, text=True, errors="replace", check=False, timeout=PATIENCE,
                env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise OptimizerError(f"'{subject.name}': no answer from its process for {PATIENCE:.0f} s") from None
        if done.returncode:
            raise OptimizerError(f"'{subject.name}': its process {_ending(done.returncode)}{_last_words(done.stderr)}")
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        if "error" in answer:
            raise OptimizerError(f"'{subject.name}': {answer['error']}", answer["hint"])
        return Answer(dict(load_feeds(folder / "outputs.npz")), answer["precision"])


def main(folder: Path) -> None:
    """The child's side."""
    try:
        answer = _serve(folder)
    except OptimizerError as error:
        answer = {"error": error.message, "hint": error.hint}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _serve(folder: Path) -> dict[str, str | None]:
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    target = registry.load("targets", task["target"])
    options = schema.parse(target.Options, task["options"], f"target '{task['target']}'")
    with target.open(schema.decode(Artifact, task["artifact"]), options) as session:
        save_feeds(session(load_feeds(folder / "feeds.npz")), folder / "outputs.npz")
        return {"precision": session.precision}


def _ending(code: int) -> str:
    names = {s.value: s.name for s in signal.Signals}
    return f"ended with exit status {code}" if code > 0 else f"was killed by {names.get(-code, f'signal {-code}')}"


def _last_words(stderr: str) -> str:
    said = stderr.strip().splitlines()[-5:]
    return "; its last words:\n  " + "\n  ".join(said) if said else " without a word"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
