"""Two runs side by side: what changed, by how much, beyond doubt or not, and what explains it."""

from optimizer.comparison.compare import compare
from optimizer.comparison.likeness import ACROSS
from optimizer.comparison.rules import rules
from optimizer.comparison.values import Comparison, Pair, Pairing, Rules

__all__ = ["ACROSS", "Comparison", "Pair", "Pairing", "Rules", "compare", "rules"]
