"""What a benchmark says a process tree took: pages shared with a forked copy are not counted again."""

from __future__ import annotations

import sys

import pytest

from optimizer import content

BENCH = content.root("examples").parent / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are in a checkout only")
HOLD = "import multiprocessing, time; block = bytearray(b'x') * 200_000_000; time.sleep(0.3); "


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import figures

    return lambda code: figures.cost([sys.executable, "-c", code]).peak / 1e6


def test_a_forked_copy_of_200_mb_adds_little(peak) -> None:
    fork = "p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(0.5,)); p.start(); p.join()"
    assert 200 < peak(HOLD + fork) < 300


def test_what_a_child_holds_for_itself_is_added(peak) -> None:
    grab = "x = bytearray(b'x') * 150_000_000; import time; time.sleep(0.6)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grab!r}])"
    assert peak(HOLD + child) > 345


def test_a_command_that_fails_is_no_figure(peak) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        peak("raise SystemExit(3)")
