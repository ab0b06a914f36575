"""Is the latency gate right? A/A and A/B trials with a known truth: the rate of false failures, and the power.

Each trial is a measurement as `optc bench` makes it, with 30 s of wall time, judged by the gate
`latency.p50 speedup >= 0.975x`. In an A/A trial both sides are the same model, and `fail` is a false alarm. In an A/B
trial the candidate does 5 % more work (21 equal convolutions instead of 20), and `fail` is right. Trials run alone and
beside a noisy neighbour (bench/neighbour.py), all kinds in one random order. No clock is faked.

    python bench/calibrate.py [--aa 200] [--ab 100] [--budget 30] [--only noisy] [--minutes 60]

Every trial is written to reports/published/calibration.json at once; a second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import figures
import numpy as np
from figures import ROOT

from optimizer import gates, machine
from optimizer.disk import write_atomically
from optimizer.measure import latency, statistics
from optimizer.measure.process import Subject
from optimizer.measure.quantiles import Estimate
from optimizer.recipe import LatencySpec
from optimizer.values import Artifact, Candidate, Measurement, Signature, TensorSpec

KEEP = ROOT / "reports" / "published" / "calibration.json"
GATE = gates.parse("latency.p50 speedup >= 0.975x")
LAYERS = {"aa": 20, "ab": 21}
CHANNELS, SIDE = 16, 32
BASE, OTHER = "before@onnxruntime", "after@onnxruntime"


def chain(layers: int, folder: Path) -> Artifact:
    """A model of equal convolutions, so that one more of 20 is 5 % more work."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, weights = np.random.default_rng(0), [], []
    for place in range(layers):
        kernel = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * np.sqrt(2 / (9 * CHANNELS))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{place}"))
        nodes.append(helper.make_node("Conv", [f"t{place}", f"w{place}"], [f"c{place}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"t{place + 1}"]))
    shape = ["batch", CHANNELS, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("t0", f"t{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / str(layers)
    path.mkdir()
    onnx.save(model, path / "model.onnx")
    size = f"float32[{','.join(map(str, shape))}]"
    signature = Signature((TensorSpec.parse("t0", size),), (TensorSpec.parse(f"t{layers}", size),))
    return Artifact("onnx", path, str(layers), str(layers), signature, (path / "model.onnx").stat().st_size)


@contextmanager
def neighbour(noisy: bool, seed: int) -> Iterator[None]:
    """With `noisy`, a process that disturbs until the block ends."""
    if not noisy:
        yield
        return
    process = subprocess.Popen([sys.executable, str(ROOT / "bench" / "neighbour.py"), str(seed)])
    try:
        time.sleep(0.5)  # it imports numpy first
        yield
    finally:
        process.kill()
        process.wait()


def trial(kind: str, noisy: bool, number: int, artifacts: dict[str, Artifact], budget: float) -> dict[str, Any]:
    """One measurement and its verdict."""
    subjects = [
        Subject(BASE, "onnxruntime", artifacts["aa"], {"threads": 1}),
        Subject(OTHER, "onnxruntime", artifacts[kind], {"threads": 1}),
    ]
    candidates = [Candidate(*s.name.split("@"), (), {}) for s in subjects]
    feeds = {"t0": np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)}
    spec = LatencySpec(seconds=5.0, restarts=4, most_restarts=12, precision=None, budget=budget)

    def enough(found: Any) -> bool:
        return gates.decided([GATE], found, candidates, "before")

    start = time.monotonic()
    with neighbour(noisy, number):
        found = latency.measure(
            subjects, {BASE: None, OTHER: BASE}, feeds, spec, number, machine.here().digest, enough=enough
        )
    seconds = time.monotonic() - start
    (verdict,) = gates.judge([GATE], found, candidates, "before")
    ratio = one(found, OTHER, "latency.p50", "speedup")
    noise = one(found, BASE, "latency.aa", "speedup")
    told = ("restarts", "looks", "stopped", "conditions")
    return {
        "kind": kind,
        "noisy": noisy,
        "number": number,
        "outcome": verdict.outcome,
        "speedup": [ratio.value, ratio.low, ratio.high],
        "aa": [noise.value, noise.low, noise.high],
        "seconds": round(seconds, 2),
        **{name: ratio.protocol[name] for name in told},
    }


def one(found: list[Measurement], subject: str, metric: str, relation: str) -> Measurement:
    return next(m for m in found if (m.subject, m.metric, m.relation) == (subject, metric, relation))


def schedule(aa: int, ab: int) -> list[tuple[str, bool, int]]:
    """Half of each kind with the neighbour, all in one random order."""
    planned = [(kind, n % 2 == 1, n) for kind, count in (("aa", aa), ("ab", ab)) for n in range(count)]
    random.Random(0).shuffle(planned)
    return planned


def rates(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The published figures: shares of `fail` with Wilson's interval, in percent."""
    found = []
    for name, kind in (("measure.aa_false_fail_rate", "aa"), ("measure.detect_5pct_rate", "ab")):
        for suffix, chosen in (("", (False, True)), (".idle", (False,)), (".noisy", (True,))):
            own = [t["outcome"] for t in trials if t["kind"] == kind and t["noisy"] in chosen]
            if own:
                low, high = statistics.wilson(own.count("fail"), len(own))
                share = Estimate(100 * own.count("fail") / len(own), 100 * low, 100 * high)
                found.append(figures.figure(name + suffix, share, len(own), "%"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--aa", type=int, default=200)
    parser.add_argument("--ab", type=int, default=100)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of wall time per trial")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no trial after this")
    parser.add_argument("--only", choices=["idle", "noisy"], help="trials of one condition")
    parser.add_argument("--keep", type=Path, default=KEEP, help="file of all trials")
    parser.add_argument("--dry-run", action="store_true", help="print the figures, leave headline.json as it is")
    given = parser.parse_args()
    trials = json.loads(given.keep.read_text())["trials"] if given.keep.is_file() else []
    done = {(t["kind"], t["noisy"], t["number"]) for t in trials}
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="optc-calibrate-") as folder:
        artifacts = {kind: chain(layers, Path(folder)) for kind, layers in LAYERS.items()}
        for kind, noisy, number in schedule(given.aa, given.ab):
            other = given.only is not None and noisy != (given.only == "noisy")
            if other or (kind, noisy, number) in done or time.monotonic() > end:
                continue
            trials.append(trial(kind, noisy, number, artifacts, given.budget))
            document = {"gate": GATE.text, "budget_seconds": given.budget, "trials": trials}
            write_atomically(given.keep, (json.dumps(document, indent=1) + "\n").encode())
            last = trials[-1]
            print(
                f"{len(trials)}: {kind} {'noisy' if noisy else 'idle'} {last['outcome']} "
                f"{last['speedup'][0]:.4f} [{last['speedup'][1]:.4f}, {last['speedup'][2]:.4f}] "
                f"{last['restarts']} restarts, {last['seconds']:.1f} s, foreign {last['conditions']['foreign_load']}",
                file=sys.stderr,
                flush=True,
            )
    figures.publish(rates(trials), given.dry_run)


if __name__ == "__main__":
    main()
