"""A search through the command line: killed in the middle, taken up again, confirmed, and reproducible by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from command_line import optc, shared_store

from optimizer import schema
from optimizer.values import Run

pytest.importorskip("torch")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

OPTC = [sys.executable, "-c", "import sys; from optimizer.cli import main; sys.exit(main())"]
# Settings of the runtimes are fixed, so that the presets are the models as they are and quantize.static. The baseline
# is on one target alone, as in the shipped searches whose gates compare runtimes.
RECIPE = """
extends: vision/digits-auto
variants: {fp32: {onnxruntime: []}, best: [{auto: {budget: BUDGET, algorithms: [quantize.static]}}]}
baseline: fp32@onnxruntime
targets: [{onnxruntime: {graph_optimization: all}}, {openvino: {precision: f32}}]
measure: {latency: {seconds: 0.1, restarts: 2, most_restarts: 2}}
gates: [top1 drop <= 1pp, agreement >= 98%, size ratio <= 0.4]
bundle: none
"""


@dataclass(frozen=True)
class Place:
    folder: Path
    store: Path
    journal: Path
    second: subprocess.CompletedProcess[str]
    before: str  # the journal as the kill left it

    def run(self) -> Run:
        return schema.load_run((self.folder / "out" / "run.json").read_bytes(), "run.json")

    def optc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return optc(self.folder, *arguments, "--store", str(self.store))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, store = tmp_path_factory.mktemp("search"), shared_store(tmp_path_factory)
    (folder / "long.yaml").write_text(RECIPE.replace("BUDGET", "10m"))
    journal = folder / "out" / "trials" / "journal.jsonl"
    with (folder / "first.log").open("w") as log:
        command = [*OPTC, "build", "long.yaml", "--out", "out", "--store", str(store)]
        first = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        for _ in range(1200):
            if first.poll() is not None or (journal.is_file() and '"kept"' in journal.read_text()):
                break
            time.sleep(0.1)
    assert first.poll() is None, (folder / "first.log").read_text()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = journal.read_text()
    # The budget of the first sitting is as good as spent: the second only finishes what is in hand.
    second = optc(folder, "build", "long.yaml", "--out", "out", "--budget", "9s", "--store", str(store))
    return Place(folder, store, journal, second, before)


def test_the_second_sitting_takes_the_trials_over_and_is_confirmed(place: Place) -> None:
    assert place.second.returncode == 0, place.second.stdout + place.second.stderr
    assert "of an earlier search are taken over" in place.second.stderr
    assert place.journal.read_text().startswith(place.before), "nothing that was found is lost or made again"


def test_best_and_trials_are_recipes_that_stand_on_their_own(place: Place) -> None:
    document = yaml.safe_load((place.folder / "out" / "best.yaml").read_text())
    assert "quantize.static" in str(document["variants"]["best"])
    trials = sorted((place.folder / "out" / "trials").glob("*.yaml"))
    assert {"as-is@onnxruntime.yaml", "quantize.static@openvino.yaml"} <= {path.name for path in trials}
    for path in (place.folder / "out" / "best.yaml", place.folder / "out" / "trials" / "quantize.static@openvino.yaml"):
        planned = place.optc("plan", str(path))
        assert planned.returncode == 0, planned.stderr
        assert " 0 to build" in planned.stdout, "it is what the search made"


def test_the_run_holds_the_concrete_recipe_and_every_trial(place: Place) -> None:
    run = place.run()
    assert "auto" not in str(run.recipe["variants"])
    by_name = {t.name: t for t in run.trials}
    assert by_name["quantize.static@onnxruntime"].precision.startswith("int8")
    assert {t.outcome for t in run.trials} >= {"chosen", "rejected"}
    chosen = [t for t in run.trials if t.outcome == "chosen"]
    for trial in chosen:
        assert trial.objective is not None
        assert {m.metric for m in trial.measurements} >= {"top1", "agreement", "size", "latency.p50"}
        assert {m.against for m in trial.measurements if m.relation != "absolute"} == {"fp32@onnxruntime"}
    candidates = {c.name for c in run.candidates if c.skipped is None}
    assert {f"best@{t.target}" for t in chosen} <= candidates
    assert {v.outcome for v in run.verdicts} == {"pass"}
    assert {m.n for m in run.measurements if m.metric == "top1"} == {1007}, "the verdict is spoken on the test images"
    assert 'id="search"' in (place.folder / "out" / "report.html").read_text()


def test_where_nothing_meets_the_gates_the_exit_code_is_1_and_the_gap_is_printed(place: Place) -> None:
    text = (place.folder / "long.yaml").read_text().replace("size ratio <= 0.4", "size ratio <= 0.01")
    (place.folder / "never.yaml").write_text(text)
    done = place.optc("build", "never.yaml", "--out", "never", "--budget", "4s", "--target", "onnxruntime")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nothing met the gates; closest: quantize.static" in done.stderr
    assert "the gate asks <= 0.01x" in done.stderr
    assert (place.folder / "never" / "best.yaml").is_file()


def test_a_budget_too_small_for_the_baseline_says_how_long_one_takes(place: Place) -> None:
    done = place.optc("build", "long.yaml", "--out", "short", "--budget", "10ms")
    assert done.returncode == 2
    assert "is too small: building and evaluating the baseline alone took" in done.stderr
