"""Build shipped recipes for real and keep their run records as reports/published/NAME.json.

    python bench/publish.py [--store FOLDER] [vision/digits-int8 ...]      # default: all; most need OPTC_DATA

Each build starts from an empty store, unless one is named: a training that lies there is not done again.

A record is kept whatever its gates say, since an honest failure is a result too; errors keep nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import figures
from figures import HEADLINE, OPTC

from optimizer import recipe
from optimizer.disk import write_atomically


def publish(reference: str, store: str | None) -> Path:
    """The record of one build."""
    target = HEADLINE.parent / f"{recipe.load(reference).name}.json"
    with tempfile.TemporaryDirectory(prefix="optc-publish-") as folder:
        place = ["--store", store or f"{folder}/store", "--out", f"{folder}/out"]
        figures.run([*OPTC, "build", reference, *place], figures.JUDGED)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, (Path(folder) / "out" / "run.json").read_bytes())
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="default: all")
    parser.add_argument("--store", help="an artifact store; default: an empty one for each build")
    given = parser.parse_args()
    for reference in given.recipes or recipe.shipped():
        print(publish(reference, given.store))


if __name__ == "__main__":
    main()
