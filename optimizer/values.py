"""The frozen values that cross module boundaries. Plain data: no behaviour beyond names and parsing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optimizer.errors import OptimizerError

RUN_SCHEMA = 1
DTYPES = (
    "float64", "float32", "float16", "bfloat16",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "string",
)  # fmt: skip

Better = Literal["higher", "lower"]
Unit = Literal["%", ""]
"""What a metric is measured in: a percentage, or a number without a unit."""
Outcome = Literal["pass", "fail", "inconclusive"]
Relation = Literal["absolute", "drop", "speedup", "ratio"]


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: dtype and shape; a dimension is a size or the name of a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def parse(cls, name: str, text: str) -> TensorSpec:
        """Read `float32[batch,1,32,32]`; raise OptimizerError when the text is not of that form."""
        found = re.fullmatch(r"\s*(\w+)\s*\[([^\]]*)\]\s*", text)
        if not found or found[1] not in DTYPES:
            raise OptimizerError(
                f"input '{name}': cannot read '{text}' as a tensor",
                f"write dtype[dim,dim,...], for example float32[batch,3,224,224]; dtypes: {', '.join(DTYPES)}",
            )
        dims = [d.strip() for d in found[2].split(",")] if found[2].strip() else []
        bad = [d for d in dims if not (d.isidentifier() or (d.isdigit() and int(d) > 0))]
        if bad:
            raise OptimizerError(
                f"input '{name}': '{bad[0]}' in '{text}' is no dimension",
                "a dimension is a positive integer or a name such as batch",
            )
        return cls(name, found[1], tuple(int(d) if d.isdigit() else d for d in dims))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """The named inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def symbols(self) -> tuple[str, ...]:
        """The names of the free input dimensions, in order of first appearance."""
        return tuple(dict.fromkeys(d for t in self.inputs for d in t.shape if isinstance(d, str)))

    def batch_symbol(self) -> str | None:
        """The free dimension that counts samples: the first dimension of the first input, when free."""
        first = self.inputs[0].shape if self.inputs else ()
        return first[0] if first and isinstance(first[0], str) else None


@dataclass(frozen=True)
class Artifact:
    """A model on disk: `path` is a directory whose layout `format` names (see `optimizer/formats`)."""

    format: str
    path: Path
    key: str
    digest: str
    signature: Signature
    size: int  # bytes that the runtime needs: all model files in the directory


@dataclass(frozen=True)
class Check:
    """How far an artifact's outputs lie from those of the artifact it was made from, on given samples."""

    outcome: Literal["pass", "fail", "recorded"]  # recorded: the pass may change numbers, so no limit
    max_error: float  # largest |a - b| over all outputs, relative to the largest |a| of that output
    limit: float | None  # the tolerance on max_error
    sqnr_db: float | None  # signal to quantization noise ratio in dB; None when outputs are identical
    cosine: float  # smallest cosine similarity over outputs
    batches: tuple[int, ...]  # batch sizes tried
    synthetic: bool  # True when no real samples were at hand
    reason: str | None = None  # why it failed


@dataclass(frozen=True)
class StepRecord:
    """One executed (or reused) step of a plan."""

    key: str
    use: str
    options: dict[str, Any]
    sources: tuple[str, ...]
    ingredients: dict[str, Any]
    format: str
    cached: bool
    seconds: float | None  # wall time of the step when it ran; None when it was reused
    size: int  # bytes
    digest: str
    check: Check | None
    notes: dict[str, Any]
    warnings: tuple[str, ...]
    signature: Signature | None = None


@dataclass(frozen=True)
class Candidate:
    """One variant on one target: what is measured, gated and bundled."""

    variant: str
    target: str
    steps: tuple[str, ...]  # step keys, source first
    options: dict[str, Any]  # the target's options, defaults filled in
    artifact: str | None = None  # key of the last step
    path: str | None = None  # directory of the artifact, below the store's root
    size: int | None = None  # bytes
    precision: str | None = None  # what really ran, in the runtime's own words
    skipped: str | None = None  # why this pair cannot exist or could not be built here
    pending: str | None = None  # why it was built here and can only be measured on another machine

    @property
    def name(self) -> str:
        return f"{self.variant}@{self.target}"


def on(name: str, target: str) -> str:
    """The candidate that a variant is on a target; the name of a candidate stays."""
    return name if "@" in name else f"{name}@{target}"


def waiting(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Who waits for another machine -> why: the target where all of it waits for one reason, else each candidate."""
    found: dict[str, str] = {}
    for c in candidates:
        reasons = {other.pending for other in candidates if other.target == c.target and not other.skipped}
        if c.pending is not None:
            found[c.target if len(reasons) == 1 else c.name] = c.pending
    return found


@dataclass(frozen=True)
class Measurement:
    """A number with its interval, its sample count, its machine and the protocol that produced it."""

    subject: str  # candidate name, "variant@target"
    metric: str  # "top1", "latency.p50", "throughput", "size", "memory.peak", "load.time", ...
    relation: Relation  # absolute, or against `against`: drop (a - b), speedup (a / b), ratio (b / a)
    value: float
    low: float | None  # 95 % interval; None for exact values such as a size
    high: float | None
    n: int
    unit: str  # "%", "pp", "ms", "1/s", "B", "x", ""
    better: Better
    against: str | None = None
    at: dict[str, Any] = field(default_factory=dict)  # the setting: batch, threads, ...
    protocol: dict[str, Any] = field(default_factory=dict)  # how it was taken
    machine: str = ""  # machine digest


@dataclass(frozen=True)
class Verdict:
    """The answer of one gate about one candidate, with the reason as a sentence."""

    gate: str
    subject: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class OpTime:
    """What one kernel of a profiled artifact took, and what it could have taken."""

    name: str  # of the graph's node; of what the runtime inserted, its own name
    op: str  # the kernel's type in the runtime's words
    kind: Literal["quantized", "float", "convert", "layout", "other"]
    # quantized: computes in integers; convert: Q, DQ and casts; layout: reorders that the runtime inserted
    dtype: str  # in which it computes
    ms: float  # per inference
    share: float  # of the whole inference, 0..1
    implementation: str = ""  # the kernel and its ISA in the runtime's words
    macs: int | None = None
    bytes: int | None = None  # read and written at least once
    bound: Literal["compute", "memory"] | None = None  # what limits it on this machine's roofline
    of_peak: float | None = None  # share of that roofline that it achieves, 0..1


@dataclass(frozen=True)
class Profile:
    """Where the time of one inference goes, kernel by kernel, the most expensive first."""

    ms: float  # per inference, profiler on
    ops: tuple[OpTime, ...]
    shares: dict[str, float]  # kind -> share of the time
    peaks: dict[str, float]  # measured on this machine: "int8", "bf16", "f32" in GMAC/s, "memory" in GB/s
    at: dict[str, Any] = field(default_factory=dict)  # batch, threads, dims
    findings: tuple[str, ...] = ()  # sentences: unfused Q/DQ, fallbacks, reorders that cost


@dataclass(frozen=True)
class TensorError:
    """How far one tensor of a candidate lies from the same tensor of its baseline, on real samples."""

    name: str  # in the candidate's graph
    op: str  # of the node that makes it
    against: str  # its name in the baseline
    matched: Literal["name", "position"]
    place: int  # in topological order, from 0
    sqnr_db: float | None  # None: identical
    cosine: float
    saturated: float | None  # share of values at an end of the integer range; None where it is not quantized
    low: float  # of the baseline's values
    high: float
    jump: bool = False  # the error rises here by more than its inputs explain


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer does to the task metric: paired drops against the float model."""

    layer: str  # a selector in recipe syntax
    op: str
    alone: Measurement | None  # only this layer quantized
    without: Measurement | None  # every layer quantized but this one


@dataclass(frozen=True)
class Explanation:
    """Why one candidate is slow, why it is wrong, and what to write into the recipe next."""

    subject: str
    against: str | None
    data: str  # the samples that were used
    profile: Profile | None = None
    tensors: tuple[TensorError, ...] = ()
    first_jump: str | None = None  # the first tensor whose error jumps
    sensitivities: tuple[Sensitivity, ...] = ()  # the most harmful first
    keep: tuple[str, ...] = ()  # selectors whose exclusion is advised, in recipe syntax
    advice: tuple[str, ...] = ()  # sentences
    seconds: float = 0.0


@dataclass(frozen=True)
class Setting:
    """The runtime options under which a candidate did best, and at what."""

    subject: str
    objective: Literal["latency", "throughput"]
    options: dict[str, Any]  # threads, for throughput streams (callers at once), and what else differs from its own
    batch: int
    value: float
    low: float | None
    high: float | None
    unit: str
    protocol: dict[str, Any] = field(default_factory=dict)  # n, metric, and every setting that was tried


Standing = Literal["sure", "likely", "possible", "broken"]
"""How gates hold on select data: by the interval there, by the one evaluation will give, by the value, not at all."""


@dataclass(frozen=True)
class Trial:
    """One artifact that a search tried: what made it, how it stood, and what became of it."""

    name: str  # as its recipe is called, "quantize.static@openvino"
    target: str
    variant: Any  # its steps, and options of the target, as a recipe writes them
    outcome: Literal["open", "chosen", "kept", "rejected", "failed"]  # kept: it meets the gates; open: not finished
    reason: str
    seconds: float  # that it took
    elapsed: float  # seconds of the search when it was finished
    standing: Standing | None = None  # None: it was not judged
    gap: str = ""  # where it is broken: by how much
    excess: float = 0.0  # the same, relative to what the gates allow
    objective: Measurement | None = None  # against the yardstick of the search, which is the same for all targets
    measurements: tuple[Measurement, ...] = ()  # accuracy on the select data, latency, size
    error: float | None = None  # of its outputs on calibration data: noise power over signal power
    digest: str = ""  # of its files and the options that they are run with
    precision: str | None = None  # what really ran, in the runtime's own words
    front: bool = False  # no other trial is both more accurate and better by the objective


@dataclass(frozen=True)
class DataRecord:
    """One data set of a run: what it was and how many examples were used."""

    role: str
    name: str
    digest: str
    examples: int
    license: str | None = None
    findings: tuple[str, ...] = ()  # what the data check noticed


@dataclass(frozen=True)
class Machine:
    """The machine that produced a number. `digest` changes when a number would not be comparable."""

    cpu: str
    architecture: str
    cores: int  # usable by this process
    isa: tuple[str, ...]
    memory: int  # bytes
    os: str
    python: str
    accelerators: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Run:
    """Everything that a build did, measured and decided: serialized as run.json, the only truth."""

    schema: int
    version: str  # of optc
    name: str
    created: str  # ISO 8601, UTC
    recipe: dict[str, Any]
    baseline: str | None  # variant or candidate name
    machine: Machine
    tools: dict[str, str]  # distribution -> version
    data: tuple[DataRecord, ...]
    steps: tuple[StepRecord, ...]
    candidates: tuple[Candidate, ...]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    seconds: float
    outcome: Outcome | Literal["not gated"]
    slices: tuple[Measurement, ...] = ()  # accuracy of parts of the data; `at` names column and value
    explanations: tuple[Explanation, ...] = ()
    settings: tuple[Setting, ...] = ()  # the best of a sweep, per candidate and objective
    selection: tuple[Measurement, ...] = ()  # accuracy on the data that candidates were chosen on
    trials: tuple[Trial, ...] = ()  # of the search that found a variant, in the order in which they were made
    origin: str | None = None  # where relative paths of the recipe start; see relocation.origin
