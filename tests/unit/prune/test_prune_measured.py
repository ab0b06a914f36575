"""Goals of latency: attempts go on to the target, are timed there, and decide how much leaves."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import prune_lab
import pytest
from prune_lab import MODELS, Bench

from optimizer import attempts, machine, schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats.torch import open_model
from optimizer.passes import prune_channels
from optimizer.plan import Plan, plan
from optimizer.produce import Producer
from optimizer.protocols import Feeds, Ratio
from optimizer.recipe import LatencySpec, parse
from optimizer.store import Store
from optimizer.values import Artifact


def parameters(folder: Path) -> int:
    return sum(p.numel() for p in open_model(folder).module.parameters())


def pruned_at(bench: Bench, name: str, clock: Any, **options: Any) -> Artifact:
    """A model pruned where the latency of an attempt is what `clock` says of its folder."""
    source, out = bench.load(name), bench.folder()
    context = dataclasses.replace(bench.context(source), latency=clock)
    prune_channels.run(source, schema.parse(prune_channels.Options, options, "step"), context, out)
    return prune_lab.artifact(out)


def test_the_smallest_removal_that_is_fast_enough_is_found_in_few_attempts(bench: Bench) -> None:
    whole = parameters(bench.load("Residual").path)
    tried: list[float] = []

    def clock(folder: Path) -> Ratio:
        tried.append(parameters(folder) / whole)
        return Ratio(tried[-1], 0.9 * tried[-1], 1.1 * tried[-1])

    result = pruned_at(bench, "Residual", clock, latency="0.6x", round_to=1, probes=7)
    assert len(tried) <= 7
    left = parameters(result.path) / whole
    assert 0.45 < left <= 0.6
    assert not [share for share in tried if left < share <= 0.6], "a smaller removal was measured to be fast enough"
    kept = [value for name, value in bench.notes.items() if name.startswith("attempt.")]
    assert len(kept) == len(tried) and all(len(value["latency"]) == 3 for value in kept)


def test_an_unattainable_latency_keeps_the_fastest_and_names_it(bench: Bench) -> None:
    pruned_at(bench, "Residual", lambda folder: Ratio(0.8, 0.7, 0.9), latency=0.5, round_to=1)
    assert "latency 0.5x cannot be reached: 0.8x is left" in bench.warnings[0]
    assert bench.notes["macs"]["after"] < 0.2 * bench.notes["macs"]["before"]


def test_the_rounding_that_the_target_is_fastest_with_is_taken(bench: Bench) -> None:
    """Half of 8, 12, 16 channels is 4, 8, 8 in multiples of 4; 8, 8, 8 in those of 8; all of them in those of 16."""

    def clock(folder: Path) -> Ratio:
        module = open_model(folder).module
        value = 0.5 if (module.stem.out_channels, module.wide.out_channels) == (8, 8) else 0.9
        return Ratio(value, value, value)

    result = pruned_at(bench, "Residual", clock, ratio=0.5, scope="layer", round_to="auto")
    assert bench.notes["round_to"] == {"chosen": 8, "latency": {"4": 0.9, "8": 0.5, "16": 0.9}}
    assert prune_lab.widths(result)["inner.weight"] == (8, 8, 3, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", image=images, label=np.arange(32) % 5)
    return tmp_path


def planned(folder: Path, **options: Any) -> Plan:
    data = {"source": {"npz": {"path": "d.npz"}}, "label": "label"}
    steps: list[Any] = [{"prune.channels": {"round_to": 1, **options}}, "quantize.static"]
    document = {
        "schema": 1,
        "model": {"entry": f"{MODELS}:Residual", "inputs": prune_lab.IMAGE},
        "data": {"calibrate": data},
        "variants": {"fp32": [], "small": steps},
        "targets": ["onnxruntime", "openvino"],
    }
    return plan(parse(document, "test", folder))


def step(found: Plan, candidate: str, use: str) -> Any:
    keys = next(c.steps for c in found.candidates if c.name == candidate)
    return next(s for key in keys if (s := found.step(key)).use == use)


def test_what_is_measured_belongs_to_its_target_and_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(found: Plan, target: str) -> str:
        return str(step(found, f"small@{target}", "prune.channels").key)

    counted = planned(folder, macs=0.5)
    assert key(counted, "onnxruntime") == key(counted, "openvino"), "what is counted is shared by targets"
    timed = planned(folder, latency=0.5)
    assert key(timed, "onnxruntime") != key(timed, "openvino")
    assert key(timed, "onnxruntime") != key(planned(folder, latency=0.5, through=["quantize.static"]), "onnxruntime")
    here = machine.here()
    monkeypatch.setattr(machine, "here", lambda: dataclasses.replace(here, digest="another"))
    assert key(timed, "onnxruntime") != key(planned(folder, latency=0.5), "onnxruntime")


def test_attempts_go_through_the_steps_that_are_asked_for(folder: Path, store: Store, monkeypatch) -> None:
    """Only the clock is replaced: it counts weights, and looks whether what it is given is the INT8 model."""
    seen = []

    def ratio(ends: tuple[Artifact, Artifact], target: str, options: dict[str, Any], feeds: Feeds, *_: Any) -> Ratio:
        graphs = [onnx_format.load(end.path).graph for end in ends]
        assert all(any(n.op_type == "QuantizeLinear" for n in g.node) for g in graphs)
        assert target == "onnxruntime" and options["threads"] == 1 and set(feeds) == {"image"}
        value = ends[1].size / ends[0].size
        seen.append(value)
        return Ratio(value, value, value)

    monkeypatch.setattr(attempts, "ratio", ratio)
    found = planned(folder, latency="0.7x", through=["quantize.static"], probes=2)
    errors = io.StringIO()
    producer = Producer(found, store, Console(level=0, err=errors))
    wanted = step(found, "small@onnxruntime", "prune.channels")
    for key in next(c.steps for c in found.candidates if c.name == "small@onnxruntime"):
        producer.produce(found.step(key))
    assert len(seen) == 2 and min(seen) < 0.7
    record = producer.done[wanted.key].record
    assert record.ingredients["measured"]["target"][0] == "onnxruntime"
    assert sum(name.startswith("attempt.") for name in record.notes) == 2
    again = Producer(planned(folder, latency="0.7x", through=["quantize.static"], probes=2), store, Console(level=0))
    for key in next(c.steps for c in found.candidates if c.name == "small@onnxruntime"):
        assert again.produce(found.step(key)).record.cached
    assert len(seen) == 2


def test_attempts_start_behind_their_own_step_whatever_follows_it(folder: Path, store: Store, monkeypatch) -> None:
    """The chain has gone on to the INT8 model by the time that an attempt of its first step is timed."""
    ends: list[Artifact] = []

    def ratio(given: tuple[Artifact, Artifact], *_: Any) -> Ratio:
        ends.extend(given)
        return Ratio(0.5, 0.5, 0.5)

    monkeypatch.setattr(attempts, "ratio", ratio)
    found = planned(folder, latency="0.7x", probes=1)
    producer = Producer(found, store, Console(level=0, err=io.StringIO()))
    for key in next(c.steps for c in found.candidates if c.name == "small@onnxruntime")[:2]:
        producer.produce(found.step(key))
    assert ends and {end.format for end in ends} == {"onnx"}
    for end in ends:
        assert not onnx_format.quantized(end.path) and onnx_format.load(end.path).graph.node


def test_a_step_after_an_attempt_that_cannot_be_is_refused_before_anything_runs(folder: Path) -> None:
    with pytest.raises(OptimizerError, match=r"prune.depth takes torch, the model is onnx by then"):
        planned(folder, latency=0.5, through=["quantize.static", {"prune.depth": {"drop": 1}}])
    with pytest.raises(OptimizerError, match="through is for what is measured"):
        planned(folder, macs=0.5, through=["quantize.static"])
    with pytest.raises(OptimizerError, match="needs the data role 'train'"):
        planned(folder, ratio=0.5, importance="taylor", data="train")


def test_the_ratio_is_that_of_two_interleaved_artifacts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the runtime is replaced by one that knows: the attempt takes a quarter of the source's time."""
    asked: dict[str, Any] = {}

    def measure(subjects, baseline_of, feeds, spec, seed, digest):
        asked.update(names=[s.name for s in subjects], spec=spec, against=baseline_of)
        name = subjects[1].name
        from optimizer.values import Measurement

        return [Measurement(name, "latency.p50", "speedup", 4.0, 3.2, 5.0, 100, "x", "higher", subjects[0].name)]

    monkeypatch.setattr("optimizer.measure.latency.measure", measure)
    artifact = bench.load("Residual")
    spec = LatencySpec(batch=[8, 2], threads=2)
    found = attempts.ratio((artifact, artifact), "onnxruntime", {}, {}, spec, 0, "here")
    assert (found.value, found.low, found.high) == (0.25, 0.2, 0.3125)
    assert asked["spec"].batch == [2] and asked["spec"].threads == 2
    assert asked["against"] == {"source@onnxruntime": None, "attempt@onnxruntime": "source@onnxruntime"}
