"""What TensorRT says while it works. A process has one logger for its life, so logs take turns at listening to it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from collections.abc import Iterator
from typing import Any

LEVELS = ("internal error", "error", "warning", "info", "verbose")


class Log:
    """What was said, as (level, text) in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def faults(self) -> list[str]:
        """What was called an error, oldest first, on one line each and without places in the library's own sources."""
        return [_plain(" ".join(text.split())) for level, text in self.lines if level in LEVELS[:2]]

    def reason(self) -> str:
        """The last errors in a sentence."""
        return "; ".join(dict.fromkeys(self.faults()[-2:]))[:500] or "it gave no reason"

    def text(self) -> str:
        """All of it but the part for the library's own authors."""
        return "".join(f"{level}: {text}\n" for level, text in self.lines if level != "verbose")


def _plain(text: str) -> str:
    """`IBuilder::build: Error Code 1: Myelin ([pass.cpp:337: check] Why. In compile at /_src/x.cpp:20)` -> `Why`."""
    inner = re.search(r"Error Code \d+: [\w ]+\((.*)\)$", text)
    found = inner[1] if inner else text
    found = re.sub(r"^\[[^\]]*\] ", "", re.sub(r"^\w+: \[[^\]]*\] ", "", found))
    return re.sub(r"\.? In \w+ at /_?src/.*$", "", found).strip()


@contextlib.contextmanager
def listening(trt: Any) -> Iterator[Log]:
    """A log of all that the library says while the block runs."""
    log, listeners = Log(), logger(trt).listeners
    listeners.append(log)
    try:
        yield log
    finally:
        listeners.remove(log)


def logger(trt: Any) -> Any:
    """The logger of a library in this process: the first one given to it stays registered, and must stay alive."""
    return _logger(trt.__name__)


@functools.cache
def _logger(module: str) -> Any:
    trt = importlib.import_module(module)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # the module is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listeners: list[Log] = []

        def log(self, severity: Any, message: str) -> None:
            number = int(severity)
            for listener in list(self.listeners):
                listener.lines.append((LEVELS[min(number, len(LEVELS) - 1)], message))

    return Logger()
