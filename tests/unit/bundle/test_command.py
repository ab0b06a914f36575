"""optc verify: the result as text and as JSON; refusals reach the error boundary as they are."""

from __future__ import annotations

import json
from pathlib import Path

import bundle_lab
import pytest
import typer
from bundle_lab import packed
from typer.testing import CliRunner

from optimizer.commands.verify import verify
from optimizer.errors import OptimizerError


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target())
    found = typer.Typer()
    found.command()(verify)
    return found


def test_shows_digest_files_samples_and_findings(app: typer.Typer, tmp_path: Path) -> None:
    folder, archive = packed(tmp_path)
    for path in (folder, archive):
        done = CliRunner().invoke(app, [str(path)])
        assert done.exit_code == 0, done.output
        assert "bytes    11 files" in done.stdout
        assert "samples  2 run as float32: largest difference 0, tolerance 0.001" in done.stdout
        assert json.loads((folder / "manifest.json").read_bytes())["digest"] in done.stdout
        assert done.stdout.splitlines()[-1] == "verified"


def test_without_samples(app: typer.Typer, tmp_path: Path) -> None:
    _, archive = packed(tmp_path)
    done = CliRunner().invoke(app, [str(archive), "--no-run"])
    assert done.exit_code == 0
    assert "samples  not run (--no-run)" in done.stdout


def test_json(app: typer.Typer, tmp_path: Path) -> None:
    _, archive = packed(tmp_path)
    found = json.loads(CliRunner().invoke(app, [str(archive), "--json"]).stdout)
    assert found["candidate"] == "fp32@onnxruntime"
    assert found["files"] == 11
    assert found["samples"]["count"] == 2
    assert found["samples"]["max_error"] == 0.0
    assert isinstance(found["findings"], list)


def test_a_refusal_is_an_error_for_the_user(app: typer.Typer, tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    (folder / "run.py").write_text("print('mine')")
    done = CliRunner().invoke(app, [str(folder)])
    assert isinstance(done.exception, OptimizerError)
    assert "run.py" in done.exception.message
    assert "verified" not in done.stdout
