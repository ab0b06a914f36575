"""The command line inside the process of a test: what it says and its exit code, without starting an interpreter."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from pathlib import Path

import pytest

from optimizer import cli


def optc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `optc` in `folder`, as subprocess.run would give it back. Exit codes and streams are those of the process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(arguments))
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def shared_store(factory: pytest.TempPathFactory) -> Path:
    """A store that all processes of one test run share: the digits model is loaded, exported and quantized once."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits-store"
