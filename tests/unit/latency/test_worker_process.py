"""A real worker process around a small target of our own: what it answers, and how it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from latency_lab import SAMPLES, SIGNATURE

from optimizer.errors import OptimizerError
from optimizer.measure.latency import Subject, measure, shape_feeds
from optimizer.measure.process import Worker, load_feeds, save_feeds
from optimizer.recipe import LatencySpec
from optimizer.values import Artifact
from optimizer.worker import time_calls

TARGET = '''
"""A target that chatters on stdout, and does on demand whatever a runtime may do to us."""
import ctypes, os, sys, time
from contextlib import contextmanager
from pydantic import BaseModel
from optimizer.errors import OptimizerError


class Options(BaseModel, extra="forbid"):
    threads: int = 1
    on_open: str = ""
    on_call: str = ""


def act(what):
    if what == "refuse":
        raise OptimizerError("the runtime refuses this file", "convert it anew")
    if what == "crash":
        raise RuntimeError("kernel not found")
    if what == "kill":
        os.kill(os.getpid(), 9)
    if what == "hang":
        time.sleep(60)


@contextmanager
def open(artifact, options):
    print("chatter from Python")
    ctypes.CDLL(None).puts(b"chatter from C")
    sys.stdout.flush()
    act(options.on_open)
    yield Session(artifact, options)


class Session:
    def __init__(self, artifact, options):
        self.signature, self.options = artifact.signature, options
        self.precision = f"fp32, OMP {os.environ['OMP_NUM_THREADS']}"

    def __call__(self, feeds):
        assert sys.stdin.read() == ""
        assert feeds["x"].shape == (2, 4) and self.signature.inputs[0].name == "x"
        act(self.options.on_call)
        return {"y": feeds["x"]}
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A third-party target "rig", installed where only worker processes see it."""
    site = tmp_path / "site"
    info = site / "rig-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rig\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[optimizer.targets]\nrig = rig_target\n")
    (site / "rig_target.py").write_text(TARGET)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    before = set(psutil.Process().children(recursive=True))
    yield tmp_path
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [p for p in left if p.is_running() and p.status() != "zombie"]


def rig(**options: Any) -> Subject:
    return Subject("int8@rig", "rig", Artifact("fake", Path("/nowhere"), "k", "d", SIGNATURE, 1), options)


def start(folder: Path, patience: float = 30.0, threads: int = 1, **options: Any) -> Worker:
    save_feeds(shape_feeds(SIGNATURE, SAMPLES, 2, {}), folder / "feeds.npz")
    return Worker(rig(**options), folder / "feeds.npz", threads, patience=patience)


def test_a_worker_opens_runs_and_reports(plugin: Path) -> None:
    worker = start(plugin, threads=3)
    try:
        assert worker.opened.precision == "fp32, OMP 3"
        assert worker.opened.load_ns > 0
        times = worker.run(2, 0.0, 7)
        assert len(times) == 7
        assert all(t > 0 for t in times)
        assert len(worker.run(0, 0.02, 1)) > 1
        assert worker.stop() >= worker.opened.rss_before > 1_000_000
    finally:
        worker.close()
    worker.close()


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"on_open": "refuse"}, "measuring 'int8@rig': the runtime refuses this file", "convert it anew"),
        ({"on_open": "crash"}, "ended with exit status 1; its last words:", "optc doctor"),
        ({"on_open": "crash"}, "RuntimeError: kernel not found", "optc doctor"),
        ({"on_open": "kill"}, "was killed by SIGKILL", "out of memory"),
        ({"wrong": 1}, "unknown key 'wrong'", ""),
    ],
)
def test_a_worker_that_cannot_open_says_why(plugin: Path, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        start(plugin, **options)
    assert message in caught.value.message
    assert "int8@rig" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot keep a process on a core")
def test_a_worker_stays_on_the_cores_it_was_given(plugin: Path) -> None:
    save_feeds(shape_feeds(SIGNATURE, SAMPLES, 2, {}), plugin / "feeds.npz")
    core = min(os.sched_getaffinity(0))
    worker = Worker(rig(), plugin / "feeds.npz", 1, [core])
    try:
        assert os.sched_getaffinity(worker.pid) == {core}
    finally:
        worker.close()


def test_a_worker_that_hangs_is_given_up(plugin: Path) -> None:
    with pytest.raises(OptimizerError, match="no answer from its process for 2 s"):
        start(plugin, patience=2.0, on_open="hang")


@pytest.mark.parametrize("what", ["crash", "kill"])
def test_a_worker_that_dies_in_a_call_fails_the_measurement(plugin: Path, what: str) -> None:
    spec = LatencySpec(batch=[2], seconds=0.1, restarts=1)
    with pytest.raises(OptimizerError, match="measuring 'int8@rig': its process"):
        measure([rig(on_call=what)], {}, SAMPLES, spec, 0, "")


def test_an_unknown_target_is_named(plugin: Path) -> None:
    lost = Subject("int8@lost", "lost", rig().artifact)
    save_feeds(shape_feeds(SIGNATURE, SAMPLES, 2, {}), plugin / "feeds.npz")
    with pytest.raises(OptimizerError, match="measuring 'int8@lost': unknown target 'lost'"):
        Worker(lost, plugin / "feeds.npz", 1)


def test_measuring_through_real_processes(plugin: Path) -> None:
    spec = LatencySpec(batch=[2], seconds=0.1, restarts=2)
    found = {(m.metric, m.relation): m for m in measure([rig()], {}, SAMPLES, spec, 0, "here")}
    p50 = found["latency.p50", "absolute"]
    assert p50.low is not None
    assert p50.high is not None
    assert 0 < p50.low <= p50.value <= p50.high
    assert p50.protocol["precision"] == "fp32, OMP 1"
    assert found["memory.peak", "absolute"].value > 1e6
    assert found["load.time", "absolute"].n == 2


def test_workers_end_with_their_parent(plugin: Path) -> None:
    code = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import test_worker_process as t
        worker = t.start(Path({str(plugin)!r}), on_call="hang")
        print(worker.pid, flush=True)
        worker.run(0, 0.0, 1)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)  # into the hanging call
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """^C raises here even where SIGINT is ignored, as in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_measuring_leaves_no_process(plugin: Path, interruptible: None) -> None:
    def interrupt(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        measure([rig()], {}, SAMPLES, LatencySpec(batch=[2], seconds=1.0), 0, "", interrupt)


def test_time_calls_runs_what_was_asked() -> None:
    calls: list[int] = []

    class Counting:
        signature, precision = SIGNATURE, "fp32"

        def __call__(self, feeds: Any) -> dict[str, np.ndarray]:
            calls.append(1)
            return {}

    assert len(time_calls(Counting(), {}, warmup=3, seconds=0.0, min_iterations=4)) == 4
    assert len(calls) == 7


def test_feeds_travel_whatever_their_names(tmp_path: Path) -> None:
    feeds = {"file": np.arange(3), "a/b:0": np.array(["x", "yy"], dtype=object), "allow_pickle": np.ones((2, 2))}
    save_feeds(feeds, tmp_path / "f.npz")
    back = load_feeds(tmp_path / "f.npz")
    assert list(back) == list(feeds)
    assert all((back[name] == feeds[name]).all() for name in feeds)
