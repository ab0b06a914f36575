"""What a manifest takes from the run: one candidate's part, without the paths of the machine that built it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from bundle_lab import artifact, run

from optimizer.bundle import provenance
from optimizer.errors import OptimizerError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/net.py:Net", "net.py:Net"),
        ("/home/me/my data/x.npz", "x.npz"),
        ("/home/me/folder/", "folder"),
        ("~/weights.pt", "weights.pt"),
        ("C:\\Users\\me\\x.npz", "x.npz"),
        ("refused by /opt/x/y.py:3, see there", "refused by y.py:3, see there"),
        ("file '/home/b c.txt' is odd", "file 'b c.txt' is odd"),
        ("pkg.module:Net", "pkg.module:Net"),
        ("digits/test", "digits/test"),
        ("https://example.com/a/b", "https://example.com/a/b"),
        ("python:package/weights.bin", "python:package/weights.bin"),
        ("float32[batch,3]", "float32[batch,3]"),
        ("1/s", "1/s"),
        ("top1 drop <= 0.5pp", "top1 drop <= 0.5pp"),
        ("nodes /conv1/Conv and /Add", "nodes /conv1/Conv and /Add"),
        ("/conv1/Conv", "/conv1/Conv"),
        ("see ~/a/b and ~/c/d", "see b and d"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_portable_text(text: str, expected: str) -> None:
    assert provenance.portable(text) == expected


def test_portable_values() -> None:
    given = {"a": [Path("/tmp/y"), math.nan, 1, True, None], 3: (math.inf, "/tmp/z")}
    assert provenance.portable(given) == {"a": ["y", None, 1, True, None], "3": [None, "z"]}


def test_steps_leave_out_what_differs_between_equal_builds(tmp_path: Path) -> None:
    record = run(artifact(tmp_path))
    again = dataclasses.replace(
        record, steps=tuple(dataclasses.replace(s, seconds=None, cached=True) for s in record.steps)
    )
    found = provenance.steps(record, record.candidates[0])
    assert found == provenance.steps(again, again.candidates[0])
    assert "/home" not in json.dumps(found)
    assert found[0]["key"] == record.steps[0].key


def test_only_the_candidates_own_finite_numbers(tmp_path: Path) -> None:
    record = run(artifact(tmp_path))
    odd = dataclasses.replace(record.measurements[0], value=math.nan)
    found = provenance.measurements(
        dataclasses.replace(record, measurements=(*record.measurements, odd)), "fp32@onnxruntime"
    )
    assert [m.metric for m in found] == ["latency.p50", "size"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "other"}, "not the one that was measured"),
        ({"digest": "other"}, "not the one that was measured"),
    ],
)
def test_another_artifact_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = artifact(tmp_path)
    with pytest.raises(OptimizerError, match=message):
        provenance.candidate(run(made), "fp32@onnxruntime", dataclasses.replace(made, **change))


def test_unknown_and_skipped_candidates_are_refused(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    record = run(made)
    with pytest.raises(OptimizerError, match="available: fp32@onnxruntime"):
        provenance.candidate(record, "int8@onnxruntime", made)
    skipped = dataclasses.replace(record.candidates[0], skipped="no kernel")
    with pytest.raises(OptimizerError, match="was not built: no kernel"):
        provenance.candidate(dataclasses.replace(record, candidates=(skipped,)), "fp32@onnxruntime", made)
