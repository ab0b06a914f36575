"""A noisy neighbour: one process that works and rests in bursts, through the caches and the memory bus.

python bench/neighbour.py [SEED]     # until it is ended
"""

from __future__ import annotations

import random
import sys
import time

import numpy as np


def main() -> None:
    drawn = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    here, there = np.zeros(4 << 20), np.ones(4 << 20)  # 32 MiB each, beyond a second-level cache
    while True:
        end = time.monotonic() + drawn.uniform(0.05, 2.0)
        while time.monotonic() < end:
            np.copyto(here, there)
            here.sum()
        time.sleep(drawn.uniform(0.05, 2.0))


if __name__ == "__main__":
    main()
