"""A run with all that a record may hold: A/A, diagnosis, slices, explanations and recommended settings."""

from __future__ import annotations

import math
from dataclasses import replace

import sample

from optimizer.values import (
    Explanation,
    Measurement,
    OpTime,
    Profile,
    Run,
    Sensitivity,
    Setting,
    StepRecord,
    TensorError,
)

SUBJECT, BASE = "int8@onnxruntime", "fp32@onnxruntime"
CONDITIONS = {"foreign_load": 0.7, "steal": 0.0, "mhz": [2600.0, 2600.0], "throttled": True}


def everything(ops: int = 40) -> Run:
    """The rich sample with evidence of every kind; `ops` kernels in its profile."""
    run = sample.rich()
    measured = tuple(_diagnosed(m) for m in run.measurements)
    return replace(
        run,
        steps=tuple(_taught(step) if step.use == "distill" else step for step in run.steps),
        measurements=(*measured, *(_noise(base, batch) for base in (BASE, "fp32@openvino") for batch in (1, 16))),
        slices=tuple(m for name in ("int8@onnxruntime", "int8@openvino") for m in _slices(name)),
        explanations=(_explanation(ops),),
        settings=(
            Setting(SUBJECT, "latency", {"threads": 2}, 1, 0.31, 0.30, 0.32, "ms"),
            Setting(SUBJECT, "throughput", {"threads": 1, "streams": 2}, 16, 5120.0, 5000.0, 5230.0, "1/s"),
        ),
    )


def hostile() -> Run:
    """Names from models and data that try to leave their place."""
    evil = '<script>alert("x")</script></pre>"><img src=x>|`*\n\x00'
    run = everything()
    e = run.explanations[0]
    assert e.profile is not None
    ops = tuple(replace(op, name=evil, op=evil, dtype=evil, implementation=evil) for op in e.profile.ops)
    bad = replace(
        e,
        data=evil,
        advice=(evil,),
        keep=(evil,),
        tensors=tuple(replace(t, name=f"{evil}{t.place}", op=evil, against=evil) for t in e.tensors),
        sensitivities=tuple(replace(s, layer=evil, op=evil) for s in e.sensitivities),
        profile=replace(e.profile, ops=ops, findings=(evil,)),
    )
    return replace(
        run,
        steps=tuple(
            replace(
                s,
                notes={
                    **s.notes,
                    "learns": [evil],
                    "training": {
                        **s.notes["training"],
                        "judged_by": evil,
                        "scores": {evil: s.notes["training"]["scores"]["top1"]},
                    },
                },
            )
            if s.use == "distill"
            else s
            for s in run.steps
        ),
        explanations=(bad,),
        slices=tuple(replace(m, at={"column": evil, "value": f"{evil}{m.at['value']}"}) for m in run.slices),
        settings=tuple(replace(s, options={evil: evil}) for s in run.settings),
    )


def _taught(step: StepRecord) -> StepRecord:
    """The curves of a training that went well."""
    steps = list(range(10, 410, 10))
    loss = [2.3 * math.exp(-s / 90) + 0.05 + 0.02 * math.sin(s) for s in steps]
    at = [0, 100, 200, 300, 400]
    training = {
        "total": 400, "per_epoch": 100, "examples": 6400, "held_back": 700, "steps": steps, "loss": loss,
        "parts": {"outputs": loss}, "rates": [0.01 for _ in steps], "validated": at, "judged_by": "top1",
        "scores": {"top1": [11.0, 71.5, 84.25, 88.1, 87.9], "loss": [2.4, 1.0, 0.4, 0.2, 0.19]},
        "better": "higher", "best": 300, "stopped": None, "device": "cpu",
    }  # fmt: skip
    return replace(step, notes={"teacher": "fp32 (torch)", "learns": ["'scores' by kl"], "training": training})


def _diagnosed(m: Measurement) -> Measurement:
    if m.metric != "latency.p50" or m.relation != "absolute":
        return m
    quantiles = [m.value * (0.9 + 0.1 * math.tan(0.015 * share)) for share in range(101)]
    facts = {
        "quantiles": quantiles,
        "drift": 0.08 if m.subject == BASE else 0.001,
        "autocorrelation": 0.6 if m.subject == BASE else 0.01,
        "effective_n": 40 if m.subject == BASE else m.n,
        "modes": [m.value, 1.4 * m.value] if m.subject == SUBJECT else [m.value],
        "conditions": CONDITIONS,
        "stopped": "budget",
        "looks": 2,
    }
    return replace(m, protocol=m.protocol | facts)


def _noise(base: str, batch: int) -> Measurement:
    return Measurement(
        base, "latency.aa", "speedup", 1.004, 0.97, 1.04, 4000, "x", "higher", base,
        {"batch": batch, "threads": 1}, {"defined": "itself"}, sample.MACHINE.digest,
    )  # fmt: skip


def _slices(name: str) -> list[Measurement]:
    found = []
    for place, value in enumerate("airplane automobile bird cat deer dog frog horse ship truck".split()):  # noqa: SIM905
        at, drop = {"column": "class", "value": value}, 0.2 * (place - 3)
        found += [
            Measurement(name, "top1", "absolute", 88.0 - drop, 86.0, 90.0, 1000, "%", "higher", None, at),
            Measurement(name, "top1", "drop", drop, drop - 0.8, drop + 0.8, 1000, "pp", "lower", BASE, at,
                        {"simultaneous": [drop - 1.1, drop + 1.1], "comparisons": 20}),
        ]  # fmt: skip
    return found


def _explanation(ops: int) -> Explanation:
    kinds = ("quantized", "float", "convert", "layout", "other")
    kernels = tuple(
        OpTime(
            f"node_{n}", "Conv" if n % 2 else "QuantizeLinear", kinds[n % 5], "int8" if n % 2 else "float32",  # type: ignore[arg-type]
            1 / (n + 1), 1 / ops, "brgemm_avx512_int8", 1_000_000 * n, 4_000 * n, "compute", min(1.0, n / ops),
        )
        for n in range(ops)
    )  # fmt: skip
    profile = Profile(
        0.5, kernels, dict.fromkeys(kinds, 0.2), {"int8": 400.0, "f32": 100.0, "memory": 20.0},
        {"batch": 1, "threads": 1}, ("3 QuantizeLinear were not fused: Pad has no int8 kernel.",),
    )  # fmt: skip
    tensors = tuple(
        TensorError(
            f"tensor_{n}", "Conv", f"tensor_{n}", "name", n, 40.0 - n / 2, 1 - n / 1000, 0.01, -1.0, 1.0, n == 12
        )
        for n in range(30)
    )
    harm = Measurement(SUBJECT, "top1", "drop", 1.2, 0.8, 1.6, 500, "pp", "lower", BASE)
    return Explanation(
        SUBJECT, BASE, "cifar10/test, 64 samples", profile, tensors, "tensor_12",
        (Sensitivity("op:Add", "Add", harm, replace(harm, value=0.1, low=-0.2, high=0.4)),
         Sensitivity("node_3", "Conv", replace(harm, value=0.3, low=0.0, high=0.6), None)),
        ("op:Add", "node_3"),
        ("Keeping op:Add in float gives back 92 % of the drop.",
         'next, in the recipe: - {quantize.static: {keep: ["op:Add", "node_3"]}}'), 12.0,
    )  # fmt: skip
