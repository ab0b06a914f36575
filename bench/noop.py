"""A second identical `optc build` without measuring: everything is in the store, nothing is made again.

    python bench/noop.py [--rounds 10] [--dry-run]

The figure is of the slowest recipe: the digits demo, and ResNet-20 and MiniLM where OPTC_DATA has their data.
"""

from __future__ import annotations

import os
import sys
import tempfile

import figures
from figures import OPTC

from optimizer.measure.quantiles import Estimate, of_restarts

RECIPES = ["vision/digits-int8"]
REAL = ["vision/cifar-resnet20-int8", "text/minilm-int8"]


def again(recipe: str, rounds: int) -> Estimate:
    """Seconds of builds that follow a first one into the same store."""
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        place = ["--store", f"{folder}/store", "--out", f"{folder}/out"]
        command = [*OPTC, "build", recipe, "--no-measure", *place]
        figures.cost(command)
        return of_restarts([figures.cost(command).seconds for _ in range(rounds)])


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=10)
    found = {recipe: again(recipe, given.rounds) for recipe in RECIPES + (REAL if "OPTC_DATA" in os.environ else [])}
    for recipe, seconds in found.items():
        print(f"{recipe}: {seconds}", file=sys.stderr)
    slowest = max(found.values(), key=lambda e: e.value)
    figures.publish([figures.figure("build.noop.seconds", slowest, given.rounds, "s")], given.dry_run)


if __name__ == "__main__":
    main()
