"""What libraries write is kept off the screen and handed over."""

from __future__ import annotations

import ctypes
import os

import pytest

from optimizer.formats.quiet import native


def test_native_output_is_kept_and_the_screen_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    with native() as lines:
        os.write(1, b"from the system\n")
        libc.printf(b"from C's buffer, without an end")
    assert lines == ["from the system", "from C's buffer, without an end"]
    with pytest.raises(ZeroDivisionError), native() as lines:
        os.write(1, b"before the fault\n")
        _ = 1 / 0
    assert lines == ["before the fault"]
    os.write(1, b"shown\n")
    assert capfd.readouterr().out == "shown\n"
