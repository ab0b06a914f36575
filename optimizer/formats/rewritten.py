"""ONNX files that a library has rewritten: what speaks against them, and the way back to the source."""

from __future__ import annotations

from pathlib import Path

from optimizer import formats
from optimizer.errors import OptimizerError
from optimizer.protocols import Context


def failure(library: str, error: Exception) -> str:
    """What a library said when it failed, in one line."""
    return f"{library} failed with {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def changed(ctx: Context, out: Path) -> str | None:
    """What the comparison with the source says against the result in `out`; None when it is the same model."""
    try:
        if ctx.check is None:
            formats.read("onnx", out)
            return None
        check = ctx.check(out)
    except OptimizerError as error:
        return error.message
    return check.reason if check.outcome == "fail" else None


def discard(out: Path) -> None:
    """Take away what was written, so that something else can be put there."""
    for file in out.iterdir():
        file.unlink()
