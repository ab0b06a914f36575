"""auto: the steps, their options and the runtime's that are best within the gates, found by measuring.

It stands as the only step of a variant. `optc build` first searches (see optimizer/search), then builds the recipe in
which the steps that were found stand in its place.
"""

from __future__ import annotations

from pathlib import Path

from optimizer.protocols import Context
from optimizer.specs import AutoSpec
from optimizer.values import Artifact

VERSION = 1
CONSUMES = ("torch", "onnx", "openvino")
PRODUCES = None
TOOLS: tuple[str, ...] = ()
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = None
SEARCH: tuple[dict[str, object], ...] = ()  # no search within a search
Options = AutoSpec


def run(source: Artifact, options: AutoSpec, ctx: Context, out: Path) -> None:  # noqa: ARG001  # the protocol's signature
    """Nothing: a plan holds no such step."""
    raise AssertionError("BUG: a plan holds the step 'auto'")
