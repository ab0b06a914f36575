"""Keeps libraries from taking away the stack that signal handlers run on."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

SIZE = 24  # bytes of stack_t on 64-bit Linux: pointer, int, size_t


@contextlib.contextmanager
def own_signal_stack() -> Iterator[None]:
    """Give the calling thread its alternate signal stack back when the block ends.

    OpenVINO 2026.4 sets up another one while it compiles a model, in memory that goes away with the model. Python's
    handlers run on it: the next ^C then ended the process with a segmentation fault instead of an interrupt.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, saved = ctypes.CDLL(None), ctypes.create_string_buffer(SIZE)
    libc.sigaltstack(None, saved)
    try:
        yield
    finally:
        libc.sigaltstack(saved, None)
