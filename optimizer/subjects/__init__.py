"""Anything that can be measured, opened: model files, artifacts, bundles, the candidates of a run."""

from optimizer.subjects.open import Asked, Opened, Refused, open_all, open_each
from optimizer.subjects.reference import Reference, parse

__all__ = ["Asked", "Opened", "Reference", "Refused", "open_all", "open_each", "parse"]
