"""The parent's side of a worker: start it, ask it, end it, and say clearly how it failed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import TypeAdapter

from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.values import Artifact

PATIENCE = 900.0
"""Seconds until an answer is given up. Opening may compile for minutes, but nothing may hang for ever."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Subject:
    """What is measured: one artifact on one target with its options; `name` is "variant@target"."""

    name: str
    target: str
    artifact: Artifact
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """What a worker says once its session is ready."""

    load_ns: int  # from the call of target.open to the ready session, the import of the runtime included
    precision: str  # what really runs, in the runtime's own words
    rss_before: int  # bytes that Python, numpy and the feeds had taken before
    clock: str = "time.perf_counter_ns"  # that calls are timed by
    boundary: str = "one call: host arrays in, host arrays out"


class Worker:
    """One subject open in a process of its own; `close` ends it whatever state it is in.

    `cores`: the only ones that the process may use; none: the scheduler chooses.
    """

    def __init__(
        self, subject: Subject, feeds: Path, threads: int, cores: Sequence[int] = (), patience: float = PATIENCE
    ) -> None:
        self._name = subject.name
        self._patience = patience
        self._buffer = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "optimizer.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)),
            start_new_session=True,  # ^C reaches the parent alone, which then ends its workers
        )
        try:
            self.opened = Opened(**self._ask(_introduction(subject, feeds, cores)))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, warmup: int, seconds: float, min_iterations: int) -> list[int]:
        """Nanoseconds per call; see `optimizer.worker.time_calls`."""
        answer = self._ask({"warmup": warmup, "seconds": seconds, "min_iterations": min_iterations})
        return list(answer["times"])

    def load(self, scenario: str, **settings: Any) -> dict[str, Any]:
        """Put several callers on the session; see `optimizer.measure.load`."""
        return self._ask({"scenario": scenario, **settings})

    def stop(self) -> int:
        """Close the session; the process's peak memory in bytes."""
        return int(self._ask({})["peak"])

    def close(self) -> None:
        """End the process now; does nothing when it has ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            _close(stream)

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise OptimizerError(f"measuring '{self._name}': {answer['error']}", answer["hint"])
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + self._patience
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise OptimizerError(
                    f"measuring '{self._name}': no answer from its process for {self._patience:.0f} s",
                    "the runtime hangs on this artifact: try another target option, or leave the variant out",
                )
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> OptimizerError:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-5:]
        tail = "; its last words:\n  " + "\n  ".join(said) if said else " without a word"
        return OptimizerError(f"measuring '{self._name}': its process {_ending(code)}{tail}", _advice(code))


def save_feeds(feeds: Feeds, path: Path) -> None:
    """Write inputs for a worker to read; names travel as data, since any string may name an input."""
    arrays = [a.astype(np.str_) if a.dtype == object else a for a in feeds.values()]
    np.savez(path, np.array(list(feeds)), *arrays, allow_pickle=False)


def load_feeds(path: Path) -> Feeds:
    """What `save_feeds` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return {str(name): stored[f"arr_{place + 1}"] for place, name in enumerate(stored["arr_0"])}


def _introduction(subject: Subject, feeds: Path, cores: Sequence[int]) -> dict[str, Any]:
    return {
        "cores": list(cores),
        "target": subject.target,
        "artifact": TypeAdapter(Artifact).dump_python(subject.artifact, mode="json"),
        "options": subject.options,
        "feeds": str(feeds),
    }


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _advice(code: int) -> str:
    if code == -signal.SIGKILL:
        return "probably out of memory: measure fewer variants or a smaller batch at a time"
    return "the artifact does not run on this target here; optc doctor shows what is usable"


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except BrokenPipeError:
            return  # closing flushes; a process that has ended takes no more
