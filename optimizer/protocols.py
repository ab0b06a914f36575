"""What a plugin must look like. A plugin is a module with these names: no base class, no registration.

Heavy libraries (torch, onnx, onnxruntime, openvino, nncf, ...) are imported inside plugin functions only, so
that planning and listing stay fast. `Options` is a `schema.Strict` model: the options class is the API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel

from optimizer.scheme import QuantScheme
from optimizer.values import Artifact, Better, Check, Signature, Unit

if TYPE_CHECKING:
    import numpy as np

Feeds = Mapping[str, "np.ndarray"]
Example = Mapping[str, Any]
"""One raw example of a source: column name -> bytes, text, number or array."""


Labels = Literal["classes", "numbers", "text", "json", "tokens"]
"""What kind of label a metric reads."""


class _WhenRead:
    """A field that is given as an array, or as a function that makes it, which is called when it is first read."""

    def __get__(self, batch: Batch | None, owner: type[Batch]) -> np.ndarray | None:
        if batch is None:
            raise AttributeError("labels")  # so that the field has no default
        held = vars(batch)["labels"]
        if callable(held):
            held = vars(batch)["labels"] = held()
        found: np.ndarray | None = held
        return found

    def __set__(self, batch: Batch, value: np.ndarray | Callable[[], np.ndarray | None] | None) -> None:
        vars(batch)["labels"] = value


@dataclass(frozen=True)
class Batch:
    """Examples that went through the transforms.

    `feeds`: input name -> array whose first dimension is `len(labels) * views` samples.
    `labels`: one per example, or None when the data set has no label; an array of objects where labels are text,
    JSON values, or arrays of different shapes. Decoded and judged when they are first read, by whoever needs them:
    OptimizerError for one that is no label.
    `views`: model samples per example (2 for sentence pairs); outputs reshape to (examples, views, ...).
    """

    feeds: Feeds
    labels: _WhenRead = _WhenRead()
    indices: np.ndarray  # type: ignore[misc]  # mypy takes the descriptor for a default, which it has none of
    views: int = 1
    # Columns that the examples are sliced by, one number or text per example.
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


class Dataset(Protocol):
    """A data set ready to be fed to a model: finite, ordered, re-iterable, streamed.

    Optional: `at(places) -> Batch`, the examples at these places (0 to len - 1) in the order given, which training
    needs of data that is too large to be kept decoded; `pads`, input name -> the value that fills up ragged examples.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches of `size` examples in order, at most `limit` examples; never all in memory at once."""
        ...


@dataclass(frozen=True)
class Clock:
    """How a session times its own calls, where that says more than the caller's clock around them."""

    name: str
    boundary: str  # what lies between start and end
    last: Callable[[], int | None]  # nanoseconds of the last call; None: it was not one that this clock is for


class Session(Protocol):
    """A model ready to run. `precision` says what really runs, in the runtime's own words.

    Optional: `fork() -> Session`, another caller of the same opened model, to be run by a thread of its own beside
    the first: the object itself where the runtime lets threads share it. It holds no resources of its own and needs
    no closing. A session without it serves one caller at a time. `clock: Clock | None`, by which latency is taken
    instead of the host's clock; the record says which one it was.
    """

    @property
    def signature(self) -> Signature: ...
    @property
    def precision(self) -> str: ...

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run once: input name -> array, output name -> array."""
        ...


@dataclass(frozen=True)
class Ratio:
    """A quotient of two measured medians, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Context:
    """All that a pass may know of the world."""

    data: Mapping[str, Dataset] = field(default_factory=dict)  # by role: calibrate, evaluate, train
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)  # named artifacts, such as a teacher
    scheme: QuantScheme | None = None  # of the target this step is for
    seed: int = 0
    threads: int = 1
    # Sample inputs for tracing and checking, one mapping per batch size; real ones where the recipe has data.
    samples: Sequence[Feeds] = ()
    synthetic: bool = True  # False when `samples` come from the recipe's data
    note: Callable[[str, Any], None] = lambda name, value: None  # a fact for the record (JSON value)
    warn: Callable[[str], None] = lambda text: None  # a warning for the record and the screen
    # Compares a candidate output directory of this step with the step's source on `samples`.
    # Raises nothing on mismatch: read `.outcome` and `.reason`.
    check: Callable[[Path], Check] | None = None
    progress: Callable[[int, int], None] = lambda done, total: None
    # Opens one of `artifacts` by its name, in its own target; closed on leaving.
    open: Callable[[str], AbstractContextManager[Session]] | None = None
    # A folder that outlives this process, for what a step that is killed goes on with (checkpoints). It belongs to the
    # step's key, may not exist yet, and is swept when the step is finished.
    work: Path | None = None
    # A folder of the store for what a library remembers from one build to the next (times of kernels). Its files are
    # named by all that they depend on, and change how long a step takes, never what it gives.
    caches: Path | None = None
    # Takes an attempt of this step, in a folder, and the step's source on to the target and times both in fresh
    # processes: latency of the attempt over that of the source. Only where the pass `measures`.
    latency: Callable[[Path], Ratio] | None = None

    def wanted(self, step: str) -> QuantScheme:
        """The target's scheme, which whoever runs the step `step` has to give where its pass is SCHEMED."""
        if self.scheme is None:
            raise AssertionError(f"BUG: {step} was run without the target's scheme")
        return self.scheme


class Pass(Protocol):
    """A function from one artifact directory to another.

    Optional names, looked up by the planner: `refuse(options, scheme) -> str | None`, why it cannot be done for a
    target; `refuse_after(before, scheme) -> str | None`, why it cannot follow the steps of these names for a target;
    `tools(options)` and `scheme_tools(scheme)`, instead of TOOLS where the options or the target decide which
    libraries work; `data(options)`, those of the roles in DATA that these options read, where not all always do;
    `welcome(options)`, roles of which it reads the first that the recipe has, and does without where it has none;
    `stale(path, options) -> bool`, whether a stored artifact points at files that have moved;
    `SEARCH`, a tuple of options that `auto` tries, the preset first (see optimizer/search/space.py; `()`: none);
    `limit(source) -> float | None`, in place of LIMIT where the source decides;
    `changes(scheme) -> bool`, False for a target to which the step hands the model on as it is;
    `artifacts(options) -> tuple[str, ...]`, further artifacts that it reads by the names that the recipe's author uses
    (`original`, VARIANT, VARIANT@TARGET), which become ingredients of its key and `Context.artifacts`;
    `misplaced(before) -> tuple[str, str] | None`, why it cannot follow the steps of these names, and what to do;
    `EAGER = True`, where it changes a PyTorch module in place and so needs its Python code;
    `measures(options) -> Sequence[Use] | None`, the steps that an attempt goes through before it is timed on the
    target, None where the options ask for no timing: the target and this machine become ingredients of the key.
    """

    VERSION: int  # raise it when the same ingredients would give another result
    CONSUMES: tuple[str, ...]  # artifact formats it takes
    PRODUCES: str | None  # the format it writes; None: the format it was given
    TOOLS: tuple[str, ...]  # distributions whose version changes the result
    DATA: tuple[str, ...]  # data roles that it reads
    SCHEMED: bool  # True when the target's QuantScheme decides what it writes
    LIMIT: float | None  # tolerance on Check.max_error; None for passes that change numbers on purpose
    Options: type[BaseModel]

    def run(self, source: Artifact, options: Any, ctx: Context, out: Path) -> None:
        """Read `source.path`, write the new artifact's files into the empty directory `out`."""
        ...


class Target(Pass, Protocol):
    """A runtime: compiles an artifact to the files it loads, and opens them.

    Optional: `COMPILE`, the names of the options that change the files; the others stay out of the key.
    `side_by_side(options, callers) -> options`, the options under which that many callers of one session run at the
    same time, where the runtime has to be told when it opens the model. `SEARCH`, options of its own that `auto` tries.
    `QDQ`, how Q/DQ pairs in ONNX should be placed for it, where `SCHEME` wants another format: for steps that know ONNX
    only. `FOREIGN`, options for a bare file that is measured without a recipe, as the runtime opens it by default.
    `pending(options) -> str | None`, for a target that can be built where it cannot be run: why measurements have to
    wait; then also `built_as(artifact) -> str`, the precision that its files tell, and `oracle(artifact) -> Artifact`,
    the ONNX model that it was built from, which says what its outputs should be. `preflight(file) -> Preflight`, the
    nodes of an ONNX file that it refuses, without building anything (see optimizer/formats/tensorrt/preflight.py).
    `built_for() -> dict` and `runs_on(options) -> dict`, what of this machine beside the CPU decides the files, and the
    numbers. `away(source, options) -> float | None`, where options run a model on other hardware than the default ones:
    how far its outputs may lie from there. `schemed(options) -> QuantScheme`, in place of `SCHEME`. Options may have
    `fitted(batches, dims, timed) -> Options`, themselves with the sizes that a recipe will ask for.
    """

    SCHEME: QuantScheme

    def probe(self) -> str | None:
        """None when usable here, else what is missing and how to get it. Imports nothing heavy."""
        ...

    def open(self, artifact: Artifact, options: Any) -> AbstractContextManager[Session]:
        """A session on the artifact; closed on exit."""
        ...


class Source(Protocol):
    """Reads one kind of data."""

    Options: type[BaseModel]

    def open(self, options: Any) -> Sequence[Example]:
        """The raw examples, in file order, read lazily where the format allows."""
        ...


class Metric(Protocol):
    """Turns outputs into one row per example, and rows into a number.

    `AGAINST` "labels": `examples` sees labels. `AGAINST` "baseline": rows are compared with the baseline's rows
    of the same examples by `compare`, whose result is summarized.

    Optional: `weighted(rows, counts) -> values` summarizes many bootstrap resamples at once, `counts` (resamples,
    examples) saying how often each example was drawn; options named `unit` and `better` take the place of UNIT and
    BETTER; `LABELS`, which kind of label it reads; `SHARE = True`, where rows are 1 or 0 and the summary is their
    percentage; `FILL`, a number that fills up rows of different lengths; `TOOLS`, the distributions that its rows
    depend on; `probe() -> str | None`, why it cannot be used here; `ready(options)`, which raises OptimizerError before
    anything is built where it could not be computed afterwards; `constant(rows, classes) -> float | None`, what the
    best model would score on these examples that answers all of them the same: `rows` of any model, `classes` the class
    of each example (int64) where LABELS is "classes" and they are known, else None. A baseline that is not surely
    better than that is cautioned of (see optimizer/measure/constant.py).
    """

    UNIT: Unit  # "%": summaries are percentages, and drops are in percentage points
    BETTER: Better
    AGAINST: Literal["labels", "baseline"]
    Options: type[BaseModel]

    def examples(self, outputs: Mapping[str, np.ndarray], batch: Batch, options: Any) -> np.ndarray:
        """Float array (examples, k): whatever `summarize` needs of each example."""
        ...

    def compare(self, rows: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """Only for AGAINST "baseline": rows (examples, k) of both -> rows (examples, j)."""
        ...

    def summarize(self, rows: np.ndarray) -> float:
        """One number from rows (examples, k); must be fast, it is called once per bootstrap resample."""
        ...


class Layout(Protocol):
    """Writes a bundle in the directory layout of a model server."""

    Options: type[BaseModel]

    def write(self, bundle: Path, options: Any, out: Path) -> None: ...
