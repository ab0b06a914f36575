"""Keeps the chatter of libraries off the screen, and hands it over for the record."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

LOGGERS = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxslim", "transformers", "ONNXSlim")


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collect what Python code prints, logs and warns meanwhile; the text is in the yielded buffer."""
    chatter = io.StringIO()
    handler = logging.StreamHandler(chatter)
    replaced = [logger for logger in _loggers() if logger.handlers]
    before = [(logger, logger.handlers) for logger in replaced]
    root = logging.getLogger()
    root.addHandler(handler)
    for logger in replaced:
        logger.handlers = [handler]
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(chatter),
            contextlib.redirect_stderr(chatter),
        ):
            warnings.simplefilter("always")
            yield chatter
    finally:
        root.removeHandler(handler)
        for logger, handlers in before:
            logger.handlers = handlers


def _loggers() -> list[logging.Logger]:
    """The loggers of the libraries that have handlers of their own; those of children write to the same screen."""
    known = logging.root.manager.loggerDict
    return [v for n, v in known.items() if isinstance(v, logging.Logger) and n.partition(".")[0] in LOGGERS]
