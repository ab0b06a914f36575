"""One training step in several processes of this machine, under torchrun: each takes its share of every batch.

The parent writes down what the step needs, starts the processes, and passes on what the first of them says; every
process runs the same pass with its data opened anew, and only the first writes the artifact.

    optimizer.ranks.run(step, source, ...)      the parent's side
    torchrun ... -m optimizer.ranks JOB.json    a process's side
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from optimizer import dataset, machine, registry, schema
from optimizer.dataset.stream import Stream
from optimizer.disk import write_atomically
from optimizer.errors import OptimizerError
from optimizer.protocols import Context, Session
from optimizer.recipe import DataSpec
from optimizer.scheme import QuantScheme
from optimizer.steps import Step
from optimizer.values import Artifact, Signature

LOOK = 0.2  # seconds between two looks at what the first process has said
PATIENCE = datetime.timedelta(days=2)  # that a process waits for the others: the first may ask a teacher for hours
Say = Callable[[str, list[Any]], None]
"""("note", [name, value]), ("warn", [text]) or ("progress", [done, total])."""


@dataclass(frozen=True)
class OpenedData:
    """A data set as another process opens it again."""

    name: str
    spec: dict[str, Any]
    seed: int
    order: str  # file with the rows of its source, in order


@dataclass(frozen=True)
class Beside:
    """A further artifact of a step, and the target that opens it."""

    artifact: Artifact
    target: str  # module of the target
    options: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A pass and its whole context, as JSON."""

    use: str
    options: dict[str, Any]
    source: Artifact
    signature: Signature
    seed: int
    threads: int
    work: str
    out: str
    scheme: QuantScheme | None = None
    data: dict[str, OpenedData] = field(default_factory=dict)
    others: dict[str, Beside] = field(default_factory=dict)


def run(step: Step, source: Artifact, signature: Signature, context: Context, out: Path) -> None:
    """Run a step in as many processes as its options say; `signature` is what its data is fitted to.

    Raises OptimizerError where one fails.
    """
    given: dict[str, Callable[..., None]] = {"note": context.note, "warn": context.warn, "progress": context.progress}
    with tempfile.TemporaryDirectory(prefix="optc-ranks-") as place:
        job = Job(
            use=step.use,
            options=step.options.model_dump(mode="json"),
            source=source,
            signature=signature,
            seed=context.seed,
            threads=context.threads,
            work=str(context.work),
            out=str(out),
            scheme=context.scheme,
            data={role: _written(role, data, context.seed, Path(place)) for role, data in context.data.items()},
            others={
                name: Beside(context.artifacts[name], other.target.__name__, other.options.model_dump(mode="json"))
                for name, other in step.others.items()
            },
        )
        _run(job, int(getattr(step.options, "processes", 1)), Path(place), lambda kind, values: given[kind](*values))


def _written(role: str, data: Any, seed: int, folder: Path) -> OpenedData:
    """A data set so that another process can open it: what was left out stays out."""
    np.save(folder / f"{role}.npy", data.order)
    return OpenedData(data.name, data.spec.model_dump(mode="json"), seed, str(folder / f"{role}.npy"))


def _run(job: Job, processes: int, folder: Path, say: Say) -> None:
    write_atomically(folder / "job.json", schema.dump(job))
    said = folder / "said.jsonl"
    said.touch()
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "optimizer.ranks", str(folder / "job.json")]
    threads = str(max(1, machine.here().cores // processes))
    with tempfile.TemporaryFile() as words, said.open(encoding="utf-8") as stream:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            stdout=words,
            stderr=words,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            start_new_session=True,  # ^C reaches the parent alone, which then ends them all
        )
        try:
            fault = _followed(process, stream, say)
        finally:
            _end(process)
        if fault:
            raise OptimizerError(*fault)
        if process.returncode:
            raise OptimizerError(
                f"a training process ended with {process.returncode}: {_last(words)}",
                "processes: 1 says more of what is wrong",
            )


def _last(words: IO[bytes]) -> str:
    """The error in what the processes have printed."""
    words.seek(0)
    lines = words.read().decode(errors="replace").splitlines()
    return next((line for line in lines if re.match(r"(\[rank\d+\]: )?[\w.]*(Error|Exception)\b", line)), "no word")


def _followed(process: subprocess.Popen[bytes], stream: Any, say: Say) -> tuple[str, str | None] | None:
    """Pass on what is said until the processes have ended; the fault that the user can mend, if one was told."""
    fault = None
    while True:
        ended = process.poll() is not None
        for line in stream:
            kind, values = json.loads(line)
            if kind == "error":
                fault = fault or (values[0], values[1])
            else:
                say(kind, values)
        if ended:
            return fault
        time.sleep(LOOK)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: torchrun and the processes that it has started."""
    for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def main(path: Path) -> int:
    """One process of the group."""
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        return _take_part(path, dist.get_rank() == 0)
    finally:
        dist.destroy_process_group()


def _take_part(path: Path, first: bool) -> int:
    job = schema.decode(Job, json.loads(path.read_bytes()))
    plugin = registry.load("passes", job.use)
    with (path.parent / "said.jsonl").open("a", encoding="utf-8") as stream, tempfile.TemporaryDirectory() as scratch:

        def say(kind: str, values: list[Any]) -> None:
            if first or kind == "error":
                stream.write(json.dumps([kind, values]) + "\n")
                stream.flush()

        out = Path(job.out) if first else Path(scratch)
        try:
            plugin.run(job.source, plugin.Options.model_validate(job.options), _context(job, say), out)
        except OptimizerError as error:
            say("error", [error.message, error.hint])
            return 1
    return 0


def _context(job: Job, say: Say) -> Context:
    return Context(
        data={role: _opened(given, job.signature) for role, given in job.data.items()},
        scheme=job.scheme,
        artifacts={name: other.artifact for name, other in job.others.items()},
        seed=job.seed,
        threads=job.threads,
        note=lambda name, value: say("note", [name, value]),
        warn=lambda text: say("warn", [text]),
        progress=lambda done, total: say("progress", [done, total]),
        open=lambda name: _session(job.others[name]),
        work=Path(job.work),
    )


def _opened(given: OpenedData, signature: Signature) -> Stream:
    stream = dataset.open(DataSpec.model_validate(given.spec), given.name, signature, given.seed)
    stream.order = np.load(given.order)
    return stream


@contextlib.contextmanager
def _session(other: Beside) -> Iterator[Session]:
    target = sys.modules.get(other.target) or __import__(other.target, fromlist=["open"])
    with target.open(other.artifact, target.Options.model_validate(other.options)) as session:
        yield session


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
