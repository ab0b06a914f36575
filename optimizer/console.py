"""The one module that prints. Results go to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
Advance = Callable[[int, int], None]
"""Progress: called with (done, total) in any unit, as often as the work likes."""


@dataclass(frozen=True)
class Console:
    """How much to say and where. `level`: 0 quiet (errors and results), 1 normal, 2 verbose."""

    level: int = 1
    out: TextIO | None = None
    err: TextIO | None = None

    def print(self, text: str = "") -> None:
        """A result: always shown, on stdout."""
        stream = self.out or sys.stdout
        stream.write(text + "\n")
        stream.flush()

    def info(self, text: str) -> None:
        """What is happening, on stderr, unless quiet."""
        if self.level >= 1:
            self._say(text)

    def detail(self, text: str) -> None:
        """What only -v shows."""
        if self.level >= 2:
            self._say(self.style(text, "dim"))

    def warn(self, text: str) -> None:
        """Something the user should know; shown even when quiet."""
        self._say(self.style("warning: ", "yellow") + text)

    def error(self, message: str, hint: str | None = None) -> None:
        """What went wrong and the next move."""
        self._say(self.style("error: ", "red") + message)
        if hint:
            self._say(self.style("  next: ", "bold") + hint)

    def style(self, text: str, *names: str) -> str:
        """`text` in colour where the stream is a terminal and NO_COLOR is unset."""
        if not _colours(self.err or sys.stderr):
            return text
        codes = ";".join(STYLES[n] for n in names)
        return f"\x1b[{codes}m{text}\x1b[0m"

    @contextmanager
    def task(self, label: str, counted: str | None = None) -> Iterator[Advance]:
        """Show `label` with progress and an ETA while the block runs; plain lines when not a terminal.

        `counted` is what the numbers count, in the plural; without it they are a share alone.
        """
        stream = self.err or sys.stderr
        live = self.level >= 1 and stream.isatty()
        start = shown = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if self.level < 1 or now - shown < (0.1 if live else 10.0):
                return
            shown = now
            eta = (now - start) / done * (total - done) if done else 0.0
            count = f"{done}/{total} {counted}  " if counted else ""
            line = f"{label}  {count}{100 * done // max(total, 1)}%  ETA {duration(eta)}"
            stream.write(f"\r\x1b[2K{line}" if live else line + "\n")
            stream.flush()

        if live:
            stream.write(f"{label} ...")
            stream.flush()
        try:
            yield advance
        finally:
            if live:
                stream.write("\r\x1b[2K")
                stream.flush()
        self.info(f"{label}  {duration(time.monotonic() - start)}")

    @contextmanager
    def board(self) -> Iterator[Callable[[Sequence[str]], None]]:
        """Lines that are drawn anew in their place while the block runs; nothing where stderr is no terminal.

        Whatever else is printed meanwhile must go through the function as well: call it with no lines first.
        """
        stream = self.err or sys.stderr
        live = self.level >= 1 and stream.isatty()
        height = 0

        def draw(lines: Sequence[str]) -> None:
            nonlocal height
            if not live:
                return
            width = shutil.get_terminal_size().columns - 1
            up = f"\x1b[{height}A" if height else ""
            stream.write(f"{up}\r\x1b[J" + "".join(f"{line[:width]}\n" for line in lines))
            stream.flush()
            height = len(lines)

        try:
            yield draw
        finally:
            draw(())

    def _say(self, text: str) -> None:
        stream = self.err or sys.stderr
        stream.write(text + "\n")
        stream.flush()


def _colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    """`850 ms`, `3.2 s`, `4 min 05 s`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def size(count: int) -> str:
    """`512 B`, `1.5 MB`: bytes in powers of 1000."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def table(rows: Sequence[Sequence[str]], header: Sequence[str], right: Sequence[int] = ()) -> str:
    """Aligned text columns with a rule below the header; columns in `right` are right-aligned."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
