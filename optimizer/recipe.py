"""What a person writes: parsed once, never half-valid. Plugin options are validated by the planner."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, field_validator, model_validator

from optimizer import content, schema
from optimizer.errors import OptimizerError, unknown
from optimizer.relocation import rebased
from optimizer.schema import Entry, File, Strict
from optimizer.specs import OfflineSpec, ServerSpec, SweepSpec, duration_seconds


class Use(Strict):
    """A plugin by name with its options: written `name`, or `{name: {option: value}}`."""

    name: str
    options: dict[str, Any] = {}

    def __str__(self) -> str:
        return self.name


def _use(value: Any) -> Any:
    if isinstance(value, Use):
        return value
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and set(value) == {"name", "options"}:  # as a Use is written out
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if options is None or isinstance(options, Mapping):
            return {"name": name, "options": dict(options or {})}
    raise ValueError("write a name, or a one-key mapping from the name to its options")


UseField: TypeAlias = Annotated[Use, BeforeValidator(_use)]


class ModelSpec(Strict):
    """Where the model comes from: exactly one of `entry`, `file` and `hf`."""

    entry: Entry | None = Field(None, description="file.py:callable or pkg.module:callable returning an nn.Module")
    args: dict[str, Any] = Field({}, description="keyword arguments for the entry's callable")
    weights: File | None = Field(None, description=".safetensors, or .pt/.pth holding a state dict")
    file: File | None = Field(None, description=".pt2 (torch.export), .pt TorchScript archive, or .onnx")
    hf: File | None = Field(None, description="a Hugging Face model directory")
    task: str | None = Field(
        None, description="with hf: feature-extraction, sentence-similarity, text-classification, ..."
    )
    inputs: dict[str, str] = Field({}, description="input name -> dtype[dims], e.g. float32[batch,3,224,224]")
    outputs: list[str] = Field([], description="names for the flattened outputs")
    dims: dict[str, tuple[int, int]] = Field({}, description="free dimension -> smallest and largest size to support")
    license: str | None = Field(None, description="license of the weights, copied into bundles")

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        given = [n for n in ("entry", "file", "hf") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of entry, file, hf (found: {', '.join(given) or 'none'})")
        if self.entry and not self.inputs:
            raise ValueError("a model by entry needs 'inputs', for example {image: 'float32[batch,3,224,224]'}")
        if self.task and not self.hf:
            raise ValueError("'task' belongs to 'hf'")
        if self.weights and not self.entry:
            raise ValueError("'weights' belongs to 'entry'")
        return self


class DataSpec(Strict):
    """A data set: a source, the transforms that turn its columns into model inputs, and the label."""

    source: UseField = Field(description="the reader and its options, e.g. {npz: {path: calib.npz}}")
    transforms: list[UseField] = Field([], description="applied in order to each example; also go into the bundle")
    inputs: dict[str, str] = Field(
        {}, description="model input -> column; default: of the same name, else the only column that fits a lone input"
    )
    label: str | None = Field(None, description="the label's column")
    labels: list[str] = Field([], description="class names by index")
    label_as: Literal["number", "text", "json"] = Field("number", description="text: as is (wer); json: parsed (map)")
    slices: list[str] = Field(
        [], description="columns of the raw examples whose values (numbers: quartiles) are evaluated by themselves"
    )
    views: int = Field(1, ge=1, description="model samples per example; a column then has a leading axis of this size")
    pad: dict[str, float] = Field({}, description="input -> value used to pad ragged samples to the longest of a batch")
    skip: int = Field(0, ge=0, description="leave out the first examples")
    take: int | None = Field(None, ge=1, description="use at most this many examples")
    shuffle: bool = Field(
        False, description="take a random subset (by the recipe's seed) instead of the first examples"
    )
    sha256: str | None = Field(None, description="digest that the source's file must have")
    license: str | None = Field(None, description="license of the data, copied into bundles")
    description: str | None = Field(None, description="one line, shown by optc list")


def _data(value: Any) -> Any:
    return {"ref": value} if isinstance(value, str) else value


class DataRef(Strict):
    """A data set by reference: `card/split` (shipped), `card.yaml#split` or a data file."""

    ref: str
    label: str | None = Field(None, description="the label's column, where the reference does not say")
    slices: list[str] = Field([], description="columns to slice by, beside those that the reference names")


def _data_kind(value: Any) -> str:
    referenced = "ref" in value if isinstance(value, Mapping) else isinstance(value, DataRef)
    return "ref" if referenced else "spec"


DataField: TypeAlias = Annotated[
    Annotated[DataSpec, Tag("spec")] | Annotated[DataRef, Tag("ref")],
    Discriminator(_data_kind),
    BeforeValidator(_data),
]


class LatencySpec(Strict):
    """How latency is measured: see optimizer/measure/latency.py."""

    batch: list[Annotated[int, Field(ge=1)]] = Field([1], description="batch sizes, each measured by itself")
    seconds: float = Field(10.0, gt=0, description="most time of counted calls per candidate and setting")
    restarts: int = Field(4, ge=1, description="fresh processes per candidate before the numbers are looked at")
    most_restarts: int = Field(12, ge=1, description="fresh processes while a gate or the precision asks for more")
    precision: float | None = Field(
        0.05, gt=0, lt=1, description="stop when every speed-up is known to this share and no gate is undecided"
    )
    budget: Annotated[float | None, BeforeValidator(duration_seconds)] = Field(
        None, gt=0, description="wall time for all candidates at one setting, e.g. 30s or 2m; then say inconclusive"
    )
    threads: int = Field(1, ge=1, description="threads each runtime may use")
    dims: dict[str, int] = Field({}, description="sizes of the other free dimensions, e.g. {sequence: 128}")
    pin: bool = Field(
        True, description="keep all candidates on the same cores, as many as threads, others after each restart"
    )


class Own(Strict):
    """A variant on one target: written as its steps, or as `{steps: [...], options: {...}}`."""

    steps: list[UseField] = Field([], description="as those of a variant for all targets")
    options: dict[str, Any] = Field({}, description="of the target, in place of those that the recipe gives it")


def _own(value: Any) -> Any:
    return {"steps": value} if isinstance(value, list) else value


def _variant_kind(value: Any) -> str:
    return "each" if isinstance(value, Mapping) else "everywhere"


Variant: TypeAlias = Annotated[
    Annotated[list[UseField], Tag("everywhere")]
    | Annotated[dict[str, Annotated[Own, BeforeValidator(_own)]], Tag("each")],
    Discriminator(_variant_kind),
]
"""Steps for every target, or target -> its own."""


def _off(value: Any) -> Any:
    return None if value is False else value


class MeasureSpec(Strict):
    """What is measured of every candidate."""

    metrics: list[UseField] = Field([], description="accuracy on the evaluation data")
    latency: Annotated[LatencySpec | None, BeforeValidator(_off)] = Field(
        LatencySpec(), description="false: latency is not measured"
    )
    offline: Annotated[OfflineSpec | None, BeforeValidator(_off)] = Field(
        None, description="throughput of several callers at once"
    )
    server: Annotated[ServerSpec | None, BeforeValidator(_off)] = Field(
        None, description="latency under random arrivals, and the highest rate that holds a bound"
    )
    sweep: Annotated[SweepSpec | None, BeforeValidator(_off)] = Field(
        None, description="threads, streams and batch sizes to try; the best go into the bundle"
    )
    batch: int = Field(32, ge=1, description="batch size for accuracy")


class Recipe(Strict):
    """A whole build: model, data, variants, targets, measure, gates."""

    schema_: Literal[1] = Field(1, alias="schema", description="version of this format")
    name: str = Field("recipe", description="of the run and its bundles; a file's own name where it is absent")
    description: str = Field("", description="one line, shown by optc list")
    model: ModelSpec = Field(description="where the model comes from")
    data: dict[Literal["calibrate", "evaluate", "select", "train"], DataField] = Field(
        {}, description="role -> data set: written out, or card/split, card.yaml#split, or a data file"
    )
    variants: dict[str, Variant] = Field(
        {"fp32": []}, description="name -> steps, or target -> steps; no step: the model as it is"
    )
    targets: list[UseField] = Field(
        [Use(name="onnxruntime")], min_length=1, description="runtimes that every variant is built for"
    )
    baseline: str | None = Field(None, description="a variant (compared per target) or variant@target (one for all)")
    export: dict[str, Any] = Field({}, description="options of the export step that the planner inserts")
    simplify: bool = Field(True, description="simplify the exported graph with onnxslim")
    measure: MeasureSpec = Field(MeasureSpec(), description="what is measured of every variant on every target")
    gates: list[str] = Field([], description="inequalities that must hold, e.g. 'top1 drop <= 0.5pp'")
    bundle: Literal["best", "all", "none"] = Field("best", description="best: per target the fastest that passes")
    seed: int = Field(0, description="of everything random: subsets, samples, training")
    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def base(self) -> Path:
        """The folder that relative paths of the document start at."""
        return self._base

    @field_validator("variants")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("needs at least one variant, for example {fp32: []}")
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"variant name '{name}': use letters, digits, '.', '_' and '-'")
        return value

    @model_validator(mode="after")
    def _baseline_exists(self) -> Recipe:
        variant, _, target = (self.baseline or "").partition("@")
        if self.baseline and variant not in self.variants:
            raise ValueError(f"baseline '{self.baseline}': no such variant; available: {', '.join(self.variants)}")
        names = [t.name for t in self.targets]
        if target and target not in names:
            raise ValueError(f"baseline '{self.baseline}': no such target; available: {', '.join(names)}")
        if len(set(names)) != len(names):
            raise ValueError("a target is listed twice")
        return self

    def on(self, variant: str, target: str) -> Own | None:
        """A variant's steps on a target, and options that it gives the target; None where it is not for that target."""
        found = self.variants[variant]
        return Own(steps=found) if isinstance(found, list) else found.get(target)

    def document(self) -> dict[str, Any]:
        """The recipe as it was written, inherited parts merged in: JSON, paths as the author spelled them."""
        return self._document


def load(reference: str) -> Recipe:
    """The recipe behind a reference: `vision/x` is shipped, anything that ends in .yaml or .yml is a file.

    Raises OptimizerError for an unknown reference, a file that is no YAML mapping, and every schema fault.
    """
    path = locate(reference)
    return parse(_document(path, ()), where=reference, base=path.parent, name=path.stem)


def parse(document: Any, where: str, base: Path, name: str = "recipe") -> Recipe:
    """A recipe from a parsed document; relative paths start at `base`."""
    if not isinstance(document, Mapping):
        raise OptimizerError(
            f"{where}: a recipe is a mapping, this is a {type(document).__name__}", "see optc init, or recipes/"
        )
    full = {"name": name, **document}
    recipe = schema.parse(Recipe, full, where, base)
    recipe._base, recipe._document = base, full
    return recipe


def shipped() -> list[str]:
    """References of all shipped recipes."""
    root = content.root("recipes")
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def locate(reference: str) -> Path:
    """The file behind a recipe reference, decided by spelling."""
    if reference.endswith((".yaml", ".yml")):
        path = Path(reference)
        if not path.is_file():
            raise OptimizerError(f"no such recipe file: {path}", f"shipped recipes: {', '.join(shipped())}")
        return path.resolve()
    if Path(reference).is_dir():
        hint = f"the model of a folder is written with its path: ./{reference.rstrip('/')}"
        raise OptimizerError(f"'{reference}' is a folder, and no recipe", hint)
    if reference not in shipped():
        raise unknown("recipe", reference, shipped(), where="the shipped recipes (a file ends in .yaml)")
    return content.root("recipes") / f"{reference}.yaml"


def _document(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """The YAML mapping of a file with what it extends merged below it; parents' paths made absolute."""
    if path in chain:
        raise OptimizerError(
            f"{path}: extends itself ({' -> '.join(p.name for p in (*chain, path))})", "break the circle"
        )
    document = read_yaml(path)
    parent = document.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise OptimizerError(f"{path}: 'extends' names one recipe", "for example extends: vision/digits-int8")
    parent_path = locate(str(path.parent / parent) if parent.endswith((".yaml", ".yml")) else parent)
    moved = Path(os.path.relpath(parent_path.parent, path.parent))
    return _merge(rebased(_document(parent_path, (*chain, path)), moved), document)


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, the reader would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge" else None
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' stands twice", key.start_mark)
            seen |= {name} - {None}
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, or an OptimizerError that says where the text breaks."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptimizerError(
            f"{path}: not YAML: {' '.join(str(error).split())}", "check indentation and quotes"
        ) from None
    if document is None:
        raise OptimizerError(f"{path} is empty", "optc init writes a recipe for a model")
    if not isinstance(document, dict):
        raise OptimizerError(f"{path}: expected a mapping of keys, found {type(document).__name__}", "see optc schema")
    return document


def _merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; null removes the parent's key; everything else of the child replaces it."""
    merged = dict(parent)
    for key, value in child.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return {key: value for key, value in merged.items() if value is not None or key not in parent}
