"""Keeps the chatter of libraries off the screen, and hands it over for the record."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

LOGGERS = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxslim", "transformers", "ONNXSlim", "neural_compressor")


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collect what Python code prints, logs and warns meanwhile.

    The yielded buffer holds what was printed and logged; on leaving, the warnings are added to it.
    """
    chatter = io.StringIO()
    handler = logging.StreamHandler(chatter)
    replaced = [logger for logger in _loggers() if logger.handlers]
    before = [(logger, logger.handlers) for logger in replaced]
    root = logging.getLogger()
    root.addHandler(handler)
    for logger in replaced:
        logger.handlers = [handler]
    caught: list[warnings.WarningMessage] = []
    try:
        with (
            warnings.catch_warnings(record=True) as recorded,
            contextlib.redirect_stdout(chatter),
            contextlib.redirect_stderr(chatter),
        ):
            caught = recorded
            warnings.simplefilter("always")
            yield chatter
    finally:
        chatter.writelines(f"{w.filename}:{w.lineno}: {w.category.__name__}: {w.message}\n" for w in caught)
        root.removeHandler(handler)
        for logger, handlers in before:
            logger.handlers = handlers


@contextlib.contextmanager
def native() -> Iterator[list[str]]:
    """Keep what native code writes to the process's standard output meanwhile off the screen.

    The lines are in the list once the block has ended. torch.onnx's tracer prints the whole graph from C++ when it
    fails (torch 2.13 tests a function for truth where it means to call it, so its switch has no effect), TensorRT-RTX
    1.7 its doubts about 16-bit constants beside its logger.
    """
    lines: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 1)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            ctypes.CDLL(None).fflush(None)  # C's own buffers
            os.dup2(kept, 1)
            os.close(kept)
            heard.seek(0)
            lines += heard.read().decode(errors="replace").splitlines()


def _loggers() -> list[logging.Logger]:
    """The loggers of the libraries that have handlers of their own; those of children write to the same screen."""
    known = logging.root.manager.loggerDict
    return [v for n, v in known.items() if isinstance(v, logging.Logger) and n.partition(".")[0] in LOGGERS]
