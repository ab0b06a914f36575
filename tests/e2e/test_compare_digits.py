"""A small build of the digits compared: with itself, with a known regression, as a bundle, and measured anew."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from command_line import optc, shared_store

from optimizer import schema
from optimizer.values import Measurement, Run

pytest.importorskip("torch")

SMALL = """
extends: vision/digits-int8
targets: [onnxruntime]
variants: {fp32: []}
measure: {metrics: [top1], latency: {seconds: 0.1, restarts: 2, most_restarts: 2}}
gates: []
"""


@dataclass(frozen=True)
class Place:
    """A folder with a build in `now` and the same, had it been 10 % slower, in `slow`."""

    folder: Path
    store: Path

    def optc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return optc(self.folder, *arguments, "--store", str(self.store))


def steady(run: Run, factor: float) -> Run:
    """The run with quiet restarts, `factor` times as slow: what a busy test machine measured must not decide."""

    def change(m: Measurement) -> Measurement:
        if m.relation != "absolute" or not m.metric.startswith(("latency.", "throughput")):
            return m
        value = m.value / factor if m.metric == "throughput" else m.value * factor
        protocol = {**m.protocol, "noise_floor": 0.005}
        if "restart_p50" in protocol:
            protocol["restart_p50"] = [value * x for x in (0.998, 1.0, 1.002)]
        return dataclasses.replace(m, value=value, low=0.995 * value, high=1.005 * value, protocol=protocol)

    return dataclasses.replace(run, measurements=tuple(map(change, run.measurements)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = Place(tmp_path_factory.mktemp("compare"), shared_store(tmp_path_factory))
    (found.folder / "small.yaml").write_text(SMALL)
    built = found.optc("build", "small.yaml", "--out", "now", "--bundle", "all")
    assert built.returncode == 0, built.stdout + built.stderr
    run = schema.load_run((found.folder / "now" / "run.json").read_bytes(), "run.json")
    for name, factor in (("quiet", 1.0), ("slow", 1.10), ("near", 1.02)):
        (found.folder / name).mkdir()
        (found.folder / name / "run.json").write_bytes(schema.dump_run(steady(run, factor)))
    return found


def test_a_build_equals_itself_and_its_bundle(place: Place) -> None:
    bundle = next((place.folder / "now" / "bundles").glob("*.tar.gz"))
    for after in ("now", f"now/bundles/{bundle.name}"):
        done = place.optc("compare", "now", after)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Passed: none of" in done.stdout


def test_ten_percent_slower_exits_1_and_two_percent_does_not(place: Place) -> None:
    done = place.optc("compare", "quiet", "slow", "--out", "verdict")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "latency.p50 at batch 1 is 1.100x of before" in done.stdout
    assert (place.folder / "verdict" / "compare.md").read_text().startswith("### ❌ ")
    root = ET.parse(place.folder / "verdict" / "compare.xml").getroot()  # written by us
    assert {f.get("type") for f in root.iter("failure")} == {"fail"}
    assert place.optc("compare", "quiet", "near").returncode == 0
    assert place.optc("compare", "quiet", "slow", "--max-slowdown", "15%").returncode == 0


def test_a_stored_baseline_and_a_new_evaluation_of_it_are_paired(place: Place) -> None:
    assert place.optc("compare", "--save-baseline", "main", "quiet").returncode == 0
    done = place.optc("eval", "now", "--data", "digits/test", "--out", "evaluated")
    assert done.returncode == 0, done.stderr
    paired = place.optc("compare", "main", "evaluated", "--json", "--inconclusive", "pass")
    assert paired.returncode == 0, paired.stderr
    top1 = next(c for c in json.loads(paired.stdout)["changes"] if c["metric"] == "top1")
    assert top1["method"].startswith("paired on 1,007 examples")
    assert top1["value"] == 0


def test_both_are_measured_anew_from_bundle_and_store(place: Place) -> None:
    bundle = next((place.folder / "now" / "bundles").glob("*.tar.gz"))
    limits = ("--max-slowdown", "10x", "--inconclusive", "pass", "--tolerance", "memory.peak=100%")
    done = place.optc(
        "compare", f"now/bundles/{bundle.name}", "now", "--rerun", "--seconds", "0.05", "--restarts", "2", *limits
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs: the samples of now/bundles" in done.stderr
