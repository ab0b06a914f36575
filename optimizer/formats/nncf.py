"""The library `nncf`, which quantizes OpenVINO IR: loaded when it is needed, and quiet."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from optimizer.errors import missing_extra


@contextlib.contextmanager
def silent(who: str) -> Iterator[Any]:
    """The module `nncf` with its logger and its progress bars quiet. Raises OptimizerError when it is not installed.

    `who` needs it, such as "quantize.static for openvino".
    """
    try:
        import nncf
    except ImportError:
        raise missing_extra("nncf", "openvino", who) from None
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield nncf
    finally:
        logger.setLevel(before)
