"""The manifest: what a bundle holds, what it needs, where it came from and how it measured.

`manifest.json` names every other file with size and sha256, and carries a digest of itself, so that no byte of
a bundle can change unnoticed. Its bytes are canonical: reading and writing it again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from optimizer import schema
from optimizer.errors import OptimizerError
from optimizer.schema import Strict
from optimizer.values import DataRecord, Machine, Measurement, Signature, Verdict

SCHEMA = 1
NAME = "manifest.json"
MAX_BYTES = 16 << 20
MAX_FILES = 10_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(Strict):
    """One file of the bundle."""

    size: int = Field(ge=0)
    sha256: Sha256


class Recommended(Strict):
    """The runtime options that did best for one objective, in a sweep on the machine of the measurements."""

    objective: Literal["latency", "throughput"]
    options: dict[str, Any] = Field(description="on top of the runtime's; streams: callers at once")
    batch: int
    value: float
    low: float | None
    high: float | None
    unit: str


class Runtime(Strict):
    """The library that runs the model, how it was opened, and what it then really ran."""

    distribution: str
    version: str
    options: dict[str, Any]
    precision: str
    recommended: tuple[Recommended, ...] = ()

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Bundles without a sweep, older ones among them, keep the bytes that their digest was made of.
        found: dict[str, Any] = serialize(self)
        return found if self.recommended else {k: v for k, v in found.items() if k != "recommended"}


class Environment(Strict):
    """The machine of the measurements; `isa` decides which kernels ran."""

    architecture: str
    isa: tuple[str, ...]
    cpu: str
    os: str
    python: str
    digest: str


def environment(machine: Machine) -> Environment:
    """A machine as a manifest tells it."""
    return Environment(**{name: getattr(machine, name) for name in Environment.model_fields})


class Provenance(Strict):
    """What made the model: the recipe, the steps with their keys, the tools and the data. No local path."""

    recipe: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    tools: dict[str, str]
    data: tuple[DataRecord, ...]


class Sample(Strict):
    """Inputs and the outputs that the measured artifact gave for them, as files of the bundle."""

    inputs: str
    expected: str


class Manifest(Strict):
    """Everything that a bundle says about itself."""

    schema_: int = Field(SCHEMA, alias="schema")
    version: str = Field(description="of the optc that packed it")
    bundle: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder name inside the archive")
    name: str
    variant: str
    target: str
    created: str
    format: str
    model: str = Field(description="the file that the runtime opens")
    signature: Signature
    preprocessing: dict[str, Any]
    runtime: Runtime
    environment: Environment
    samples: tuple[Sample, ...]
    tolerance: float = Field(ge=0, description="largest difference of an output, relative to its largest value")
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    accepted: tuple[str, ...] = Field((), description="gates that did not pass and were packed nevertheless")
    pending: str | None = Field(None, description="why it was not measured yet, where it was built; then no number is")
    weights_license: str | None
    provenance: Provenance
    files: dict[str, FileRecord]
    digest: str = ""

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)  # as in Runtime: bundles that wait for nothing keep their bytes
        return found if self.pending is not None else {k: v for k, v in found.items() if k != "pending"}

    @property
    def candidate(self) -> str:
        """`variant@target`, the name under which it was measured."""
        return f"{self.variant}@{self.target}"

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(record.size for record in self.files.values())

    @field_validator("files")
    @classmethod
    def _safe_names(cls, value: dict[str, FileRecord]) -> dict[str, FileRecord]:
        if len(value) > MAX_FILES:
            raise ValueError(f"lists {len(value)} files, the limit is {MAX_FILES}")
        fault = next((f"{name!r} {fault}" for name in value if (fault := path_fault(name))), None) or _clash(value)
        if fault:
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        named = [self.model, *(f for s in self.samples for f in (s.inputs, s.expected))]
        absent = [name for name in named if name not in self.files]
        if absent:
            raise ValueError(f"'{absent[0]}' is not among its files")
        return self


def path_fault(name: str) -> str | None:
    """Why a name cannot be a file inside a bundle, or None."""
    parts = name.split("/")
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name):
        return "is an absolute path, it would climb out of the bundle"
    if ".." in parts or "\\" in name:
        return "would climb out of the bundle"
    if not name or "" in parts or "." in parts or not name.isprintable():
        return "is no plain relative path"
    return None


def _clash(names: Iterable[str]) -> str | None:
    """Why these names cannot live in one folder on every file system, or None."""
    seen: dict[str, str] = {NAME: NAME}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if name == NAME or other != name:
            return f"'{other}' and '{name}' would be one file on some file systems"
    for folder in folders(seen.values()):
        if folder.casefold() in seen:
            return f"'{folder}' is a file and a folder"
    return None


def folders(names: Iterable[str]) -> set[str]:
    """All folders that hold one of these files, directly or not."""
    return {parent.as_posix() for name in names for parent in PurePosixPath(name).parents} - {"."}


def encode(manifest: Manifest) -> bytes:
    """The canonical bytes of manifest.json."""
    document = manifest.model_dump(mode="json", by_alias=True)
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def seal(manifest: Manifest) -> Manifest:
    """The manifest with its own digest: sha256 of its bytes while the digest is empty."""
    bare = manifest.model_copy(update={"digest": ""})
    return bare.model_copy(update={"digest": hashlib.sha256(encode(bare)).hexdigest()})


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; raises OptimizerError when it is unknown, malformed or altered."""
    if len(data) > MAX_BYTES:
        raise OptimizerError(f"{where}: {len(data)} bytes, the limit is {MAX_BYTES}", "this is no bundle of optc")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OptimizerError(f"{where}: not JSON ({error})", "get the bundle again from where it was built") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise OptimizerError(f"{where}: not a manifest (it has no 'schema')", "this is no bundle of optc")
    if document["schema"] != SCHEMA:
        raise OptimizerError(
            f"{where}: schema {document['schema']!r} is unknown; this version of optc reads {SCHEMA}",
            f"use the optc that packed it ({document.get('version', 'version not stated')})",
        )
    try:
        manifest = schema.parse(Manifest, document, where)
    except OptimizerError as error:
        raise OptimizerError(error.message, "get the bundle again from where it was built") from None
    if encode(seal(manifest)) != data:
        raise OptimizerError(
            f"{where}: altered: its bytes do not match its own digest", "get the bundle again from where it was built"
        )
    return manifest
