"""Anything that can be measured, opened: model files, artifacts, bundles, the candidates of a run."""

from optimizer.subjects.open import Asked, Opened, open_all
from optimizer.subjects.reference import Reference, parse

__all__ = ["Asked", "Opened", "Reference", "open_all", "parse"]
