"""`optc plan` of a shipped recipe with an empty store: seconds of the whole process.

    python bench/plan.py [--rounds 15] [--dry-run]

The figure is of the slowest recipe: the digits demo, and ResNet-20 and MiniLM where OPTC_DATA has their data.
"""

from __future__ import annotations

import os
import sys
import tempfile

import figures
from figures import OPTC
from noop import REAL, RECIPES

from optimizer.measure.quantiles import Estimate, of_restarts


def planning(recipe: str, rounds: int) -> Estimate:
    """Seconds of `optc plan`, after one run that is not counted."""
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        command = [*OPTC, "plan", recipe, "--store", f"{folder}/store"]
        figures.cost(command)
        return of_restarts([figures.cost(command).seconds for _ in range(rounds)])


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=15)
    recipes = RECIPES + (REAL if "OPTC_DATA" in os.environ else [])
    found = {recipe: planning(recipe, given.rounds) for recipe in recipes}
    for recipe, seconds in found.items():
        print(f"{recipe}: {seconds}", file=sys.stderr)
    slowest = max(found.values(), key=lambda e: e.value)
    figures.publish([figures.figure("plan.seconds", slowest, given.rounds, "s")], given.dry_run)


if __name__ == "__main__":
    main()
