"""A fresh process that opens one artifact on one target and runs it on command.

Line by line, JSON on stdin and stdout (the parent's side is `optimizer/measure/process.py`):

    {"target", "artifact", "options", "feeds", "cores"} ->  {"load_ns", "precision", "rss_before"}, and
                                                        {"clock", "boundary"} of a session that times itself
    {"warmup", "seconds", "min_iterations"}         ->  {"times": [ns per call, ...]}
    {"scenario": "offline" or "server", ...}        ->  see optimizer/measure/load.py
    {}                                              ->  {"peak": bytes}, and the process ends

A fault that the user can mend is answered by {"error", "hint"}; anything else ends the process with a
traceback on stderr. When stdin closes, the parent is gone, and so is this process.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from optimizer import registry, schema
from optimizer.errors import OptimizerError
from optimizer.measure import load
from optimizer.measure.callers import no_collector
from optimizer.measure.process import load_feeds
from optimizer.protocols import Clock, Feeds, Session
from optimizer.values import Artifact

Message = dict[str, Any]


def main() -> None:
    """Serve one parent until it says stop or goes away."""
    receive, reply = _channel()
    try:
        _serve(receive, reply)
    except OptimizerError as error:
        reply({"error": error.message, "hint": error.hint})


def _serve(receive: Callable[[], Message], reply: Callable[[Message], None]) -> None:
    start = receive()
    if start.get("cores"):
        os.sched_setaffinity(0, start["cores"])  # before the runtime starts threads and counts cores
    feeds = load_feeds(Path(start["feeds"]))
    artifact = TypeAdapter(Artifact).validate_python(start["artifact"])
    target = registry.load("targets", start["target"])
    options = schema.parse(target.Options, start["options"], f"target '{start['target']}'")
    before = peak_rss()
    begin = time.perf_counter_ns()
    with target.open(artifact, options) as session:
        ready = time.perf_counter_ns() - begin
        own = _clock(session)
        how = {"clock": own.name, "boundary": own.boundary} if own else {}
        reply({"load_ns": ready, "precision": session.precision, "rss_before": before, **how})
        gc.freeze()  # what the runtime's import left behind need not be walked before every block
        while command := receive():
            if "scenario" in command:
                reply(load.answer(session, feeds, **command))
            else:
                reply({"times": time_calls(session, feeds, **command)})
        reply({"peak": peak_rss()})


def time_calls(session: Session, feeds: Feeds, warmup: int, seconds: float, min_iterations: int) -> list[int]:
    """Nanoseconds of each call, after `warmup` calls that do not count: by the session's own clock where it has one.

    Else, and for calls that its clock is not for, from host arrays in to host arrays out. Runs at least
    `min_iterations` calls, and on until `seconds` have passed. The collector is off meanwhile, as in timeit: its pauses
    belong to the harness, not to the model.
    """
    clock, own = time.perf_counter_ns, _clock(session)
    times: list[int] = []
    with no_collector():
        for _ in range(warmup):
            session(feeds)
        end = clock() + int(seconds * 1e9)
        while len(times) < min_iterations or clock() < end:
            begin = clock()
            session(feeds)
            taken = clock() - begin
            inside = own.last() if own else None
            times.append(taken if inside is None else inside)
    return times


def _clock(session: Session) -> Clock | None:
    found: Clock | None = getattr(session, "clock", None)
    return found


def peak_rss() -> int:
    """The largest resident memory of this process so far, in bytes.

    Linux: VmHWM, which starts afresh at exec; ru_maxrss would begin with the peak of the parent that forked.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _channel() -> tuple[Callable[[], Message], Callable[[Message], None]]:
    """The line of talk with the parent, out of reach of runtimes that write to stdout or read from stdin."""
    commands = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands, inbox), daemon=True).start()

    def reply(message: Message) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    return inbox.get, reply


def _listen(commands: IO[str], inbox: queue.SimpleQueue[Message]) -> None:
    # A thread that sleeps in read() costs the timed calls nothing, and notices a dead parent even in a long call.
    for line in commands:
        inbox.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
