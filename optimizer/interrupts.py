"""^C and a polite kill: both unwind the program, and neither is lost when a library swallows it on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from optimizer.errors import EXIT_TERMINATED

_asked: list[int] = []  # signals that came, in order


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM SystemExit (143), so that what is half done is cleared away.

    A signal that is ignored stays so, as for a background job of a shell.
    """
    _asked.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {n: handler for n, handler in known.items() if handler in (signal.SIG_DFL, signal.default_int_handler)}
    owner = os.getpid()

    def heed(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork, whose end is none of our unwinding
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _asked.append(number)
        raise_asked()

    for number in before:
        signal.signal(number, heed)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_asked() -> None:
    """Raise what a signal asked for, again where the first time was swallowed: torch's imports, for one, carry on."""
    if signal.SIGTERM in _asked:
        raise SystemExit(EXIT_TERMINATED)
    if _asked:
        raise KeyboardInterrupt
