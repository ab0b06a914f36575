"""Build shipped recipes for real and keep their run records as reports/published/NAME.json.

    python bench/publish.py [vision/digits-int8 ...]      # default: all; most need OPTC_DATA

A record is kept whatever its gates say, since an honest failure is a result too; errors keep nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import figures
from figures import HEADLINE, OPTC

from optimizer import recipe
from optimizer.disk import write_atomically


def publish(reference: str) -> Path:
    """The record of one build with an empty store."""
    target = HEADLINE.parent / f"{recipe.load(reference).name}.json"
    with tempfile.TemporaryDirectory(prefix="optc-publish-") as folder:
        place = ["--store", f"{folder}/store", "--out", f"{folder}/out"]
        figures.run([*OPTC, "build", reference, *place], figures.JUDGED)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, (Path(folder) / "out" / "run.json").read_bytes())
    return target


def main() -> None:
    for reference in sys.argv[1:] or recipe.shipped():
        print(publish(reference))


if __name__ == "__main__":
    main()
