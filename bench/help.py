"""`optc --help`: seconds of the whole process.

python bench/help.py [--rounds 20] [--dry-run]
"""

from __future__ import annotations

import figures
from figures import OPTC

from optimizer.measure.quantiles import of_restarts


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=20)
    figures.cost([*OPTC, "--help"])
    seconds = of_restarts([figures.cost([*OPTC, "--help"]).seconds for _ in range(given.rounds)])
    figures.publish([figures.figure("cli.help.seconds", seconds, given.rounds, "s")], given.dry_run)


if __name__ == "__main__":
    main()
