"""When to look at the numbers, and how sure each look must be, so that stopping early raises no false alarms.

Whoever looks at a 95 % interval after each restart and stops at the first good one is wrong far more often than
one time in twenty. The error that the whole measurement may make is therefore spent over its looks: a look at a
share t of all restarts may have spent 5 % * t ** 1.5 (a power family of Kim and DeMets 1987, Biometrika 74:149; the
idea is Lan and DeMets 1983, Biometrika 70:659). Looks are joined by Bonferroni's inequality, which needs no joint
distribution: the interval of look k has the level 1 - (spent so far - spent before), and all intervals of one
measurement hold together with 95 % (repeated confidence intervals, Jennison and Turnbull 1989, JRSS B 51:305).
The last look spends what is left, so a measurement that looks once has the plain 95 % interval.
"""

from __future__ import annotations

import math

ERROR = 0.05
GROWTH = 1.6
POWER = 1.5


def goals(least: int, most: int) -> tuple[int, ...]:
    """Numbers of restarts at which to look: `least`, then each 1.6 times the one before, `most` at last."""
    found = [min(least, most)]
    while found[-1] < most:
        following = max(found[-1] + 1, math.ceil(GROWTH * found[-1]))
        # A last look that closely follows another one would cost error and bring little.
        found.append(most if following * math.sqrt(GROWTH) > most else following)
    return tuple(found)


def level(goals: tuple[int, ...], look: int, last: bool) -> float:
    """The confidence level of the intervals of look number `look` (from 0); `last`: no other look will follow."""
    spent = _spent(goals[look - 1] / goals[-1]) if look else 0.0
    return 1 - ((ERROR if last else _spent(goals[look] / goals[-1])) - spent)


def _spent(share: float) -> float:
    return float(ERROR * share**POWER)
