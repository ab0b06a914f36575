"""A threshold and measurements in, a verdict out: pass, fail or inconclusive, with the reason as a sentence.

    [[variant][@target]:] METRIC [drop|speedup|ratio] OP NUMBER[UNIT] [at batch N]

A verdict is decided by the pessimistic end of the 95 % interval: it passes when the whole interval lies on the
good side of the threshold, fails when the whole interval lies on the bad side, and is inconclusive otherwise.
Where one gate judges several candidates on the same examples, a pass must also survive Holm's correction.
"""

from optimizer.gates.feasible import Fact, check
from optimizer.gates.grammar import Gate, parse
from optimizer.gates.verdict import decided, judge, outcome

__all__ = ["Fact", "Gate", "check", "decided", "judge", "outcome", "parse"]
