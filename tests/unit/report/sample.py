"""Runs built by hand for the report tests: a rich one, and the corners of it."""

from __future__ import annotations

from dataclasses import replace

from optimizer.values import (
    Candidate,
    Check,
    DataRecord,
    Machine,
    Measurement,
    Run,
    StepRecord,
    Verdict,
)

MACHINE = Machine(
    cpu="AMD EPYC 9R14 96-Core Processor",
    architecture="x86_64",
    cores=2,
    isa=("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    memory=8_217_006_080,
    os="Linux 6.8.0",
    python="3.11.9",
    digest="5f1c0de5f1c0de55",
)
TOOLS = {"torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.32.0", "openvino": "2026.4.1", "nncf": "3.4.0"}
SPREAD = (0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.993, 0.996, 0.998, 0.999, 1.0,
          1.002, 1.005, 1.01, 1.016, 1.024, 1.04, 1.06, 1.10, 1.21, 1.9)  # fmt: skip
LATENCY_PROTOCOL = {
    "boundary": "session call, host arrays in and out",
    "restarts": 4,
    "warmup_seconds": 1.0,
    "order": "blocks in random order, interleaved with the baseline",
    "interval": "bootstrap of restart medians, 10000 resamples",
}
ACCURACY_PROTOCOL = {"batch": 32, "interval": "Wilson score, 95 %", "data": "cifar10/test"}
DROP_PROTOCOL = {"pairing": "same 10,000 examples", "interval": "paired bootstrap, 95 %", "resolves": "0.27 pp"}

#            top1, drop (value, low, high), p50 at batch 1 and 16, size, precision
FIGURES = {
    "fp32@pytorch": (88.32, None, (3.71, 21.4), 1_093_000, "float32"),
    "fp32@onnxruntime": (88.32, None, (0.891, 13.5), 1_071_000, "float32 (CPUExecutionProvider)"),
    "fp32@openvino": (88.24, None, (0.63, 7.83), 1_068_000, "bf16 (INFERENCE_PRECISION_HINT default)"),
    "int8@onnxruntime": (88.28, (0.04, -0.21, 0.29), (0.498, 7.14), 312_400, "int8 Q/DQ, 20 of 22 Conv"),
    "int8@openvino": (88.19, (0.05, -0.19, 0.30), (0.53, 5.77), 301_800, "int8 (NNCF), bf16 elsewhere"),
    "small-distilled-int8@onnxruntime": (86.91, (1.41, 0.98, 1.84), (0.352, 4.41), 171_300, "int8 Q/DQ"),
    "small-distilled-int8@openvino": (87.90, (0.34, 0.02, 0.66), (0.41, 3.92), 168_900, "int8 (NNCF)"),
}
CHAINS = {
    "fp32": ("load", "export", "simplify"),
    "int8": ("load", "export", "simplify", "quantize.static"),
    "small-distilled-int8": ("load", "prune.channels", "distill", "export", "simplify", "quantize.static"),
}
REASON = "pytorch runs no ONNX Q/DQ graph: quantize.static produces onnx, pytorch takes torch"
SKIPPED = {"int8@pytorch": REASON, "small-distilled-int8@pytorch": REASON}


def _key(*parts: str) -> str:
    return "".join(f"{sum(map(ord, '/'.join(parts))) * 2654435761 % 2**32:08x}" for _ in range(8))


def _step_key(variant: str, target: str, index: int) -> str:
    uses = (*CHAINS[variant], target)[: index + 1]
    shared = index < len(CHAINS[variant]) and uses[-1] != "quantize.static"
    return _key(*uses, "" if shared else target)


def _check(use: str) -> Check | None:
    if use in ("load", "prune.channels", "distill"):
        return None
    if use == "quantize.static":
        return Check("recorded", 0.0713, None, 31.4, 0.9987, (3, 7), False)
    return Check("pass", 8.9e-7, 1e-4, 124.6, 0.9999999, (3, 7), False)


def _step(variant: str, target: str, index: int) -> StepRecord:
    use = (*CHAINS[variant], target)[index]
    options = {
        "export": {"exporter": "dynamo", "opset": 20, "external_data": False},
        "quantize.static": {"method": "percentile", "percentile": 99.99, "samples": 512, "exclude": [], "bias": True},
        "prune.channels": {"latency": "0.5x", "round": 8, "importance": "magnitude"},
        "distill": {"teacher": "fp32", "epochs": 4, "temperature": 4.0},
    }.get(use, {})
    notes = {
        "export": {"exporter": "torch.onnx dynamo", "renamed outputs": 1},
        "quantize.static": {"calibrated on": 512, "nodes quantized": 41, "left in float": "Softmax, Gemm"},
        "prune.channels": {"channels removed": 212, "MACs": "0.47x"},
    }.get(use, {})
    warnings = (
        ("layer2.0.shortcut was rolled back: the forward after pruning raised a shape error",)
        if use == "prune.channels"
        else ()
    )
    cached = use in ("load", "export") and variant != "small-distilled-int8"
    return StepRecord(
        key=_step_key(variant, target, index), use=use, options=options,
        sources=() if index == 0 else (_step_key(variant, target, index - 1),),
        ingredients={"version": 1}, format="torch" if use in ("load", "prune.channels", "distill") else "onnx",
        cached=cached, seconds=None if cached else 1.7 + 3 * index, size=1_071_000 // (1 + index // 3),
        digest=_key(use, "digest"), check=_check(use), notes=notes, warnings=warnings,
    )  # fmt: skip


def _candidates() -> tuple[Candidate, ...]:
    found = []
    for variant, chain in CHAINS.items():
        for target in ("pytorch", "onnxruntime", "openvino"):
            name = f"{variant}@{target}"
            if name in SKIPPED:
                found.append(Candidate(variant, target, (), {}, skipped=SKIPPED[name]))
                continue
            keys = tuple(_step_key(variant, target, i) for i in range(len(chain) + 1))
            _, _, _, size, precision = FIGURES[name]
            found.append(
                Candidate(variant, target, keys, {"threads": 1}, keys[-1], f"/store/{keys[-1]}", size, precision)
            )
    return tuple(found)


def _measure(name: str) -> list[Measurement]:
    target = name.partition("@")[2]
    base = f"fp32@{target}"
    top1, drop, p50s, size, _ = FIGURES[name]
    here = {"machine": MACHINE.digest}
    found = [
        Measurement(name, "top1", "absolute", top1, top1 - 0.64, top1 + 0.62, 10_000, "%", "higher",
                    protocol=ACCURACY_PROTOCOL, **here),
        Measurement(name, "size", "absolute", size, None, None, 1, "B", "lower", **here),
    ]  # fmt: skip
    if drop:
        found.append(
            Measurement(name, "top1", "drop", *drop, 10_000, "pp", "lower", base, protocol=DROP_PROTOCOL, **here)
        )
        found.append(Measurement(name, "agreement", "absolute", 98.7 - drop[0], 98.4 - drop[0], 98.9 - drop[0], 10_000,
                                 "%", "higher", base, protocol=ACCURACY_PROTOCOL, **here))  # fmt: skip
        found.append(
            Measurement(name, "size", "ratio", size / FIGURES[base][3], None, None, 1, "x", "lower", base, **here)
        )
    for batch, p50 in zip((1, 16), p50s, strict=True):
        found += _latency(name, base, {"batch": batch, "threads": 1}, p50, FIGURES[base][2][0 if batch == 1 else 1])
    return found


def _latency(name: str, base: str, at: dict[str, int], p50: float, base_p50: float) -> list[Measurement]:
    protocol = {**LATENCY_PROTOCOL, "quantiles": [p50 * s for s in SPREAD]}
    common = {"n": 2400, "at": at, "machine": MACHINE.digest}
    found = [
        Measurement(name, "latency.p50", "absolute", p50, p50 * 0.985, p50 * 1.021, unit="ms", better="lower",
                    protocol=protocol, **common),
        Measurement(name, "latency.p95", "absolute", p50 * 1.21, p50 * 1.15, p50 * 1.34, unit="ms", better="lower",
                    protocol=LATENCY_PROTOCOL, **common),
        Measurement(name, "throughput", "absolute", 1000 * at["batch"] / p50, 980 * at["batch"] / p50,
                    1015 * at["batch"] / p50, unit="1/s", better="higher", protocol=LATENCY_PROTOCOL, **common),
        Measurement(name, "memory.peak", "absolute", 161e6 + 4e7 * p50, None, None, 4, "B", "lower", at=at),
        Measurement(name, "load.time", "absolute", 21 + p50, 20 + p50, 23 + p50, 4, "ms", "lower", at=at),
    ]  # fmt: skip
    if name != base:
        ratio = base_p50 / p50
        found.append(Measurement(name, "latency.p50", "speedup", ratio, ratio * 0.95, ratio * 1.06, unit="x",
                                 better="higher", against=base, protocol={"interval": "bootstrap of the ratio"},
                                 **common))  # fmt: skip
    return found


VERDICTS = (
    Verdict("top1 drop <= 0.5pp", "int8@onnxruntime", "pass", "the drop is at most 0.29 pp, within 0.5 pp"),
    Verdict("latency.p50 speedup >= 1.5x", "int8@onnxruntime", "pass", "at least 1.70x at both batch sizes"),
    Verdict("size ratio <= 0.3", "int8@onnxruntime", "pass", "0.29 of the baseline's size"),
    Verdict("top1 drop <= 0.5pp", "int8@openvino", "pass", "the drop is at most 0.30 pp, within 0.5 pp"),
    Verdict("latency.p50 speedup >= 1.5x", "int8@openvino", "fail",
            "at batch 1 the speed-up is 1.19x [1.13, 1.26], below 1.5x even at its upper end"),
    Verdict("size ratio <= 0.3", "int8@openvino", "pass", "0.28 of the baseline's size"),
    Verdict("top1 drop <= 0.5pp", "small-distilled-int8@onnxruntime", "fail",
            "the drop is at least 0.98 pp, more than 0.5 pp"),
    Verdict("latency.p50 speedup >= 1.5x", "small-distilled-int8@onnxruntime", "pass", "at least 2.40x at batch 1"),
    Verdict("size ratio <= 0.3", "small-distilled-int8@onnxruntime", "pass", "0.16 of the baseline's size"),
    Verdict("top1 drop <= 0.5pp", "small-distilled-int8@openvino", "inconclusive",
            "the drop lies between 0.02 and 0.66 pp; 10,000 samples cannot tell it from 0.5 pp, about 24,000 could"),
    Verdict("latency.p50 speedup >= 1.5x", "small-distilled-int8@openvino", "inconclusive",
            "1.54x [1.46, 1.63] at batch 1 straddles 1.5x; more restarts would narrow it"),
    Verdict("size ratio <= 0.3", "small-distilled-int8@openvino", "pass", "0.16 of the baseline's size"),
)  # fmt: skip

RECIPE = {
    "schema": 1,
    "name": "cifar10-resnet20",
    "description": "ResNet-20 on CIFAR-10 for two CPU runtimes",
    "model": {
        "entry": "/models/resnet.py:resnet20",
        "weights": "/models/resnet20.safetensors",
        "license": "BSD-3-Clause",
    },
    "data": {"calibrate": {"ref": "cifar10/train-512"}, "evaluate": {"ref": "cifar10/test"}},
    "variants": {
        "fp32": [],
        "int8": [{"name": "quantize.static", "options": {"method": "percentile", "percentile": 99.99}}],
        "small-distilled-int8": [
            {"name": "prune.channels", "options": {"latency": "0.5x"}},
            {"name": "distill", "options": {"teacher": "fp32", "epochs": 4}},
            {"name": "quantize.static", "options": {"method": "percentile", "percentile": 99.99}},
        ],
    },
    "targets": [
        {"name": "pytorch", "options": {}},
        {"name": "onnxruntime", "options": {}},
        {"name": "openvino", "options": {}},
    ],
    "export": {"opset": 20},
    "gates": ["top1 drop <= 0.5pp", "latency.p50 speedup >= 1.5x", "size ratio <= 0.3"],
}


def rich() -> Run:
    """Three variants on three targets, two skipped pairs, two batch sizes, every outcome."""
    candidates = _candidates()
    steps: dict[str, StepRecord] = {}
    for c in candidates:
        for i in range(len(c.steps)):
            step = _step(c.variant, c.target, i)
            steps.setdefault(step.key, step)
    return Run(
        schema=1, version="0.1.0", name="cifar10-resnet20", created="2026-03-04T05:06:07Z", recipe=RECIPE,
        baseline="fp32", machine=MACHINE, tools=TOOLS,
        data=(
            DataRecord("calibrate", "cifar10/train-512", _key("calibrate"), 512, "unknown, research use",
                       ("2 of 512 examples are duplicates (indices 17 and 401)",)),
            DataRecord("evaluate", "cifar10/test", _key("evaluate"), 10_000, "unknown, research use"),
        ),
        steps=tuple(steps.values()), candidates=candidates,
        measurements=tuple(m for c in candidates if not c.skipped for m in _measure(c.name)),
        verdicts=VERDICTS,
        warnings=("the machine's A/A noise floor is 3.1 %: speed-ups below 1.03x mean nothing here",),
        seconds=312.4, outcome="fail",
    )  # fmt: skip


def not_gated() -> Run:
    """No gate was set."""
    return replace(rich(), verdicts=(), outcome="not gated", warnings=())


def all_pass() -> Run:
    """Two variants, every gate holds."""
    keep = {"fp32@onnxruntime", "int8@onnxruntime"}
    run = rich()
    return replace(
        run,
        candidates=tuple(c for c in run.candidates if c.name in keep),
        measurements=tuple(m for m in run.measurements if m.subject in keep),
        verdicts=tuple(v for v in run.verdicts if v.subject in keep),
        warnings=(),
        outcome="pass",
    )


def no_latency() -> Run:
    """Latency was switched off."""
    run = rich()
    kept = tuple(m for m in run.measurements if not m.metric.startswith(("latency", "throughput", "load")))
    return replace(run, measurements=kept, verdicts=tuple(v for v in run.verdicts if "latency" not in v.gate))


def bare() -> Run:
    """One candidate that was built and never measured."""
    return replace(
        not_gated(),
        baseline=None,
        candidates=rich().candidates[:1],
        measurements=(),
        data=(),
        steps=(),
        recipe={},
        tools={},
    )


def hostile() -> Run:
    """Names that try to leave their place in HTML, Markdown and XML."""
    evil = '<script>alert("x")</script>|`*\n]](javascript:1)\x00'
    run = all_pass()
    base, other = run.candidates
    rename = {other.name: f"{evil}@onnxruntime"}
    return replace(
        run,
        name=evil,
        candidates=(base, replace(other, variant=evil, precision=evil)),
        measurements=tuple(replace(m, subject=rename.get(m.subject, m.subject)) for m in run.measurements),
        verdicts=tuple(
            replace(v, subject=rename.get(v.subject, v.subject), gate=evil, reason=evil) for v in run.verdicts
        ),
        warnings=(evil,),
        tools={evil: evil},
        recipe={evil: [evil]},
        data=(DataRecord("evaluate", evil, "ab", 3, evil, (evil,)),),
        machine=replace(run.machine, cpu=evil),
    )


def inconclusive() -> Run:
    """Nothing failed, one check is open."""
    run = rich()
    kept = tuple(v for v in run.verdicts if v.outcome == "pass" or "top1" in v.gate)
    fixed = tuple(replace(v, outcome="pass") if v.outcome == "fail" else v for v in kept)
    return replace(run, verdicts=fixed, outcome="inconclusive")


def ruined() -> Run:
    """One candidate lost its accuracy altogether."""
    run = rich()

    def spoil(m: Measurement) -> Measurement:
        if m.subject != "int8@onnxruntime" or (m.metric, m.relation) != ("top1", "drop"):
            return m
        return replace(m, value=74.1, low=73.2, high=75.0)

    return replace(run, measurements=tuple(spoil(m) for m in run.measurements))


def elsewhere() -> Run:
    """The accuracy comes from the store of another machine."""
    run = rich()
    moved = tuple(replace(m, machine="other") if m.metric == "top1" else m for m in run.measurements)
    return replace(run, measurements=moved)
