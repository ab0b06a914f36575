"""Exports of one test process share what the exporter reads from its own library, the sources of 500 functions."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


def read_once() -> Iterator[None]:
    """For a fixture: the exporter reads its functions anew for every model, half of the time that a tiny one takes."""
    from torch.onnx._internal.exporter import _registration

    library = _registration.onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "get_torchlib_ops", functools.cache(library.get_torchlib_ops))
        yield
