"""Where the content folders are: in a checkout at the top level, in a wheel under `optimizer/_content`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["recipes", "calibration", "reports", "examples"]


def root(kind: Kind) -> Path:
    """The directory that holds the shipped content of this kind."""
    package = Path(__file__).resolve().parent
    installed = package / "_content" / kind
    return installed if installed.is_dir() else package.parent / kind
