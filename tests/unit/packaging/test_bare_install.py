"""`pip install optc` alone: without torch and every extra, what deploys and inspects bundles still works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bundle_lab
import pytest

from optimizer import registry, schema

ABSENT = ("torch", "openvino", "nncf", "onnxscript", "onnxslim", "safetensors", "transformers",
          "tokenizers", "pyarrow", "sklearn", "scikit_learn", "scipy")  # fmt: skip
# Neither importable nor, by its metadata, installed.
WITHOUT = """
import importlib.metadata, sys
absent = sys.argv.pop(1).split(",")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
real_version, real_distributions = importlib.metadata.version, importlib.metadata.distributions
def version(name):
    if name.replace("-", "_") in absent:
        raise importlib.metadata.PackageNotFoundError(name)
    return real_version(name)
def distributions(**options):
    return (d for d in real_distributions(**options) if d.metadata["Name"].replace("-", "_") not in absent)
importlib.metadata.version, importlib.metadata.distributions = version, distributions
from optimizer.cli import main
sys.exit(main(sys.argv[1:]))
"""


def optc(*arguments: str, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(ABSENT), *arguments],
        capture_output=True, text=True, check=False, timeout=120,
        env={"OPTC_STORE": str(store), "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )  # fmt: skip


def test_list_shows_what_is_missing(tmp_path: Path) -> None:
    done = optc("list", "--json", store=tmp_path)
    assert done.returncode == 0, done.stderr
    targets = {item["name"]: item["trouble"] for item in json.loads(done.stdout)["targets"]}
    assert targets["onnxruntime"] is None
    assert "optc[torch]" in targets["pytorch"]
    assert "optc[openvino]" in targets["openvino"]


def test_doctor_is_content_with_one_target(tmp_path: Path) -> None:
    done = optc("doctor", "--json", store=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    found = {(f["area"], f["name"]): f for f in json.loads(done.stdout)["findings"]}
    assert found["target", "pytorch"]["level"] == "absent"
    assert found["extra", "openvino"]["fix"] == "pip install 'optc[openvino]'"


def test_bundles_are_verified_and_inspected(tmp_path: Path) -> None:
    target = registry.load("targets", "onnxruntime")
    assert target.PRODUCES == "onnx"
    folder, archive = bundle_lab.packed(tmp_path / "made")
    for place in (folder, archive):
        done = optc("verify", str(place), store=tmp_path / "store")
        assert done.returncode == 0, done.stderr
        assert "verified" in done.stdout
        done = optc("inspect", str(place), "--json", store=tmp_path / "store")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["what"] == "bundle"


def test_models_and_runs_are_shown(tmp_path: Path) -> None:
    made = bundle_lab.artifact(tmp_path / "model")
    done = optc("inspect", str(made.path / "model.onnx"), "--dim", "batch=2", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MACs        24  at batch 2" in done.stdout
    (tmp_path / "run.json").write_bytes(schema.dump_run(bundle_lab.run(made)))
    done = optc("report", str(tmp_path / "run.json"), store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


def test_bundles_and_onnx_files_are_benched_and_compared(tmp_path: Path) -> None:
    folder, archive = bundle_lab.packed(tmp_path / "made")
    model = bundle_lab.artifact(tmp_path / "model").path / "model.onnx"
    quick = ("--seconds", "0.02", "--restarts", "2")
    done = optc("bench", str(archive), str(model), *quick, "--json", store=tmp_path / "store")
    assert done.returncode == 0, done.stderr
    run = schema.load_run(done.stdout.encode(), "stdout")
    assert {m.subject for m in run.measurements if m.metric == "latency.p50"} == {c.name for c in run.candidates}
    done = optc("compare", str(folder), str(archive), store=tmp_path / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    done = optc("bench", "net.py:Net", store=tmp_path / "store")
    assert done.returncode == 2
    assert "pip install 'optc[torch]'" in done.stderr


@pytest.mark.parametrize("document", ["recipe", "card", "run", "manifest"])
def test_schemas_are_printed(document: str, tmp_path: Path) -> None:
    done = optc("schema", document, store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["$schema"].startswith("https://json-schema.org/")


def test_a_build_names_the_extra_that_it_lacks(tmp_path: Path) -> None:
    done = optc("plan", "vision/digits-int8", store=tmp_path)
    assert done.returncode == 2
    assert "pip install 'optc[" in done.stderr
    assert "Traceback" not in done.stderr
