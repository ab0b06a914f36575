"""The demo recipe through the command line, as a newcomer meets it: build, build again, verify, tamper, fail a gate.

The latency gate is left out and the time budget cut, so that nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import optc, shared_store

from optimizer import schema
from optimizer.values import Run

pytest.importorskip("torch")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

OPTC = [sys.executable, "-c", "import sys; from optimizer.cli import main; sys.exit(main())"]
QUICK = """
extends: vision/digits-int8
measure: {latency: {seconds: 0.2, restarts: 2, most_restarts: 2}}
targets: [onnxruntime, openvino]
gates: [top1 drop <= 1pp, agreement >= 98%, size ratio <= 0.4]
"""
FAILING = """
extends: quick.yaml
measure: {latency: false}
gates: [size ratio <= 0.01]
"""


@dataclass(frozen=True)
class Place:
    """A folder with recipes, a store and the output of the first build, which is a process of its own."""

    folder: Path
    store: Path
    first: subprocess.CompletedProcess[str]

    def run(self) -> Run:
        return schema.load_run((self.folder / "out" / "run.json").read_bytes(), "run.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, store = tmp_path_factory.mktemp("digits"), shared_store(tmp_path_factory)
    (folder / "quick.yaml").write_text(QUICK)
    (folder / "failing.yaml").write_text(FAILING)
    command = [*OPTC, "build", "quick.yaml", "--out", "out", "--store", str(store)]
    first = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=240)
    return Place(folder, store, first)


def test_every_gate_passes_and_the_exit_code_says_so(place: Place) -> None:
    assert place.first.returncode == 0, place.first.stdout + place.first.stderr
    run = place.run()
    assert run.outcome == "pass"
    assert {c.name for c in run.candidates if c.skipped is None} == {
        "fp32@onnxruntime", "int8@onnxruntime", "fp32@openvino", "int8@openvino",
    }  # fmt: skip
    assert {v.subject for v in run.verdicts} == {"int8@onnxruntime", "int8@openvino"}
    assert len(run.verdicts) == 6


def test_the_table_shows_each_candidate_and_ends_with_the_paths(place: Place) -> None:
    for name in ("fp32", "int8", "onnxruntime", "openvino", "pp [", "ms", "report.html", ".tar.gz"):
        assert name in place.first.stdout


def test_int8_really_runs_in_integers_on_both_targets(place: Place) -> None:
    precision = {c.name: c.precision for c in place.run().candidates}
    assert str(precision["int8@onnxruntime"]).startswith("int8")
    assert str(precision["int8@openvino"]).startswith("int8")
    assert precision["fp32@openvino"] == "float32", "not bfloat16, which OpenVINO takes by default on some CPUs"


def test_every_number_carries_its_samples_and_machine(place: Place) -> None:
    run = place.run()
    assert run.measurements
    for found in run.measurements:
        assert found.n >= 1
        assert found.machine == run.machine.digest
        if found.metric == "top1":
            assert found.n == 1007
            assert found.low is not None
            assert found.high is not None
            assert found.low <= found.value <= found.high


def test_no_place_of_this_machine_is_in_the_record(place: Place) -> None:
    text = (place.folder / "out" / "run.json").read_text()
    assert str(place.folder) not in text
    assert str(Path.home()) not in text


def test_a_second_build_makes_nothing_again(place: Place) -> None:
    command = ("build", "quick.yaml", "--out", "again", "--no-measure", "--json", "--store", str(place.store))
    again = optc(place.folder, *command)
    assert again.returncode == 0, again.stderr
    run = schema.load_run(again.stdout.encode(), "stdout")
    assert run.steps
    assert all(step.cached for step in run.steps)


def test_a_failed_gate_exits_1_and_its_candidate_is_not_packed(place: Place) -> None:
    failed = optc(place.folder, "build", "failing.yaml", "--out", "failed", "--store", str(place.store))
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "size ratio" in failed.stdout
    assert not list((place.folder / "failed").rglob("*int8-o*.tar.gz"))


def test_the_bundle_verifies_until_a_byte_is_flipped(place: Place) -> None:
    archives = sorted((place.folder / "out" / "bundles").glob("*.tar.gz"))
    assert len(archives) == 2
    for archive in archives:
        good = optc(place.folder, "verify", str(archive))
        assert good.returncode == 0, good.stdout + good.stderr
    unpacked = place.folder / "unpacked"
    with tarfile.open(archives[0]) as tar:
        tar.extractall(unpacked, filter="data")
    root = next(unpacked.iterdir())
    model = max((p for p in root.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    bad = optc(place.folder, "verify", str(root))
    assert bad.returncode == 2
    assert model.name in bad.stdout + bad.stderr


def test_the_bundle_runs_alone_and_states_licenses(place: Place) -> None:
    archive = min((place.folder / "out" / "bundles").glob("*onnxruntime*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(place.folder / "alone", filter="data")
    root = next((place.folder / "alone").iterdir())
    done = subprocess.run(
        [sys.executable, "-I", "run.py"], cwd=root, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((root / "manifest.json").read_text())
    assert "CC BY 4.0" in json.dumps(manifest)
    assert "Apache-2.0" in json.dumps(manifest)
