"""What the benchmarks share: whole processes timed, and figures kept in reports/published/headline.json."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from optimizer import console, machine
from optimizer.disk import write_atomically
from optimizer.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK
from optimizer.measure.quantiles import Estimate

ROOT = Path(__file__).resolve().parent.parent
HEADLINE = ROOT / "reports" / "published" / "headline.json"
# The interpreter of this benchmark, so that a console script of another installation is never measured.
OPTC = [sys.executable, "-c", "import sys; from optimizer.cli import main; sys.exit(main())"]
JUDGED = (EXIT_OK, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE)  # of optc build: an honest failure is a result, too
SAMPLING = 0.02  # seconds between two looks at the process tree


@dataclass(frozen=True)
class Cost:
    """What a command took, its children included."""

    seconds: float  # wall time from start to end of the process
    peak: int  # bytes: the largest memory of the whole process tree, shared pages counted once


def cost(command: Sequence[str], accept: tuple[int, ...] = (0,)) -> Cost:
    """Run a command in a fresh process and measure it; raises with its last words when it fails.

    The peak is the larger of two numbers. One, looked at every 20 ms: the resident set of the process and what its
    descendants hold for themselves alone. A sum of resident sets would count a forked copy's pages again: OpenVINO's
    telemetry forks, and made bare calls of 0.6 GB look like 1.8 GB. The other is the kernel's own high-water mark of
    the process (VmHWM), which no short spike escapes. Not ru_maxrss: it survives exec, so a large parent is its floor.
    """
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=words, stderr=words, cwd=ROOT)
        tree = _Tree(process.pid)
        process.wait()
        seconds = time.perf_counter() - start
        peak = tree.finish()
        if process.returncode not in accept:
            words.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{words.read().decode()[-3000:]}")
    return Cost(seconds, peak)


def run(command: Sequence[str], accept: tuple[int, ...] = (0,)) -> None:
    """A command in a process of its own; ends with its last words when it fails.

    Nothing watches it, unlike `cost`: looking at all processes every 20 ms is half a core of foreign load.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in accept:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


class _Tree:
    """The largest memory of a process and all its descendants, sampled by a thread until `finish`."""

    def __init__(self, pid: int) -> None:
        self._root, self._peak, self._over = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def finish(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(SAMPLING):
            try:
                alone = sum(map(_private, self._root.children(recursive=True)))
                now = int(self._root.memory_info().rss) + alone
                self._peak = max(self._peak, now, _high_water(self._root.pid))
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                return


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # gone, or not Linux
        return 0
    found = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return int(found) * 1024


def _private(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def figure(name: str, estimate: Estimate, n: int, unit: str) -> dict[str, Any]:
    """One entry of headline.json: value with its 95 % interval, number of processes, machine, and how to repeat it."""
    here = machine.here()
    return {
        "name": name,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": n,
        "unit": unit,
        "machine": f"{here.cpu}, {here.cores} cores, {console.size(here.memory)}, {here.os}, Python {here.python}",
        "command": f"python bench/{Path(sys.argv[0]).name}",
    }


def arguments(about: str, rounds: int) -> argparse.Namespace:
    """`--rounds` and `--dry-run`, as every benchmark takes them."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, default=rounds, help="fresh processes per subject (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the figures, leave headline.json as it is")
    return parser.parse_args()


def publish(figures: list[dict[str, Any]], dry_run: bool) -> None:
    """Print the figures, and put them into headline.json in the place of older ones of the same name."""
    print(json.dumps(figures, indent=1))
    if dry_run:
        return
    old = json.loads(HEADLINE.read_text()) if HEADLINE.is_file() else []
    merged = {f["name"]: f for f in [*old, *figures]}
    HEADLINE.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(HEADLINE, (json.dumps([merged[name] for name in sorted(merged)], indent=1) + "\n").encode())
