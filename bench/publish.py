"""Build shipped recipes for real and keep their run records as reports/published/NAME.json.

    python bench/publish.py [vision/digits-int8 ...]      # default: all; most need OPTC_DATA

A record is kept whatever its gates say, since an honest failure is a result too; errors keep nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from figures import HEADLINE, OPTC, ROOT

from optimizer import recipe
from optimizer.disk import write_atomically
from optimizer.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK

JUDGED = (EXIT_OK, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE)


def publish(reference: str) -> Path:
    """The record of one build with an empty store."""
    target = HEADLINE.parent / f"{recipe.load(reference).name}.json"
    with tempfile.TemporaryDirectory(prefix="optc-publish-") as folder:
        place = ["--store", f"{folder}/store", "--out", f"{folder}/out"]
        # Not figures.cost: watching the memory of all processes every 20 ms is half a core of foreign load.
        done = subprocess.run(
            [*OPTC, "build", reference, *place], check=False, capture_output=True, text=True, cwd=ROOT
        )
        if done.returncode not in JUDGED:
            sys.exit(f"{reference} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, (Path(folder) / "out" / "run.json").read_bytes())
    return target


def main() -> None:
    for reference in sys.argv[1:] or recipe.shipped():
        print(publish(reference))


if __name__ == "__main__":
    main()
