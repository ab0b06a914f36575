"""What an engine says about itself in `engine.json`: what made it, what it fits, and what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from optimizer import fingerprint, schema
from optimizer.disk import write_atomically
from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt.profiles import Profile, Range
from optimizer.schema import Strict

FILE = "engine.json"
SCHEMA = 1


class BuiltOn(Strict):
    """The GPU whose kernels were timed while the engine was built."""

    gpu: str
    capability: str
    driver: str


class Plan(Strict):
    """The serialized engine, to see that it is whole."""

    size: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Facts(Strict):
    """Everything that decides where an engine runs, and what it is."""

    schema_: int = Field(SCHEMA, alias="schema")
    flavour: str
    version: str = Field(description="of the library that built it")
    distribution: str
    capabilities: tuple[str, ...] = Field(description="compute capabilities that it was built for")
    newer: bool = Field(description="whether GPUs newer than those may run it too")
    hardware: str = Field("same", description="hardware compatibility level, in the library's words")
    version_compatible: bool = False
    built_on: BuiltOn | None = Field(None, description="None: no GPU took part")
    profiles: tuple[dict[str, tuple[int, int, int]], ...] = ()
    types: dict[str, int] = Field({}, description="type -> weights of that type in the ONNX model")
    quantized: int = Field(0, description="convolutions and products between Q/DQ pairs")
    pairs: str = Field("int8", description="the type that pairs hold")
    products: int = Field(0, description="all convolutions and products")
    tf32: bool = False
    sparse: tuple[str, ...] = Field((), description="layers whose weights have the 2:4 pattern")
    refit: bool = False
    weight_streaming: bool = False
    plugins: dict[str, str] = Field({}, description="library -> sha256")
    options: dict[str, Any] = Field({}, description="that it was built with")
    plan: Plan

    def ranges(self) -> list[Profile]:
        """The profiles as values."""
        return [Profile({name: _range(found) for name, found in ranges.items()}) for ranges in self.profiles]

    def precision(self) -> str:
        """What its layers are typed as, in words; which kernels run is known once the library has chosen them."""
        rest = max(self.types, key=lambda name: self.types[name]) if self.types else "float32"
        rest = "tf32" if rest == "float32" and self.tf32 else rest
        if not self.quantized:
            return f"{rest} (typed)"
        of = f"{self.quantized} of {self.products} convolutions and matrix products"
        return f"{self.pairs} ({of}), {rest} elsewhere (typed)"


def _range(found: tuple[int, int, int]) -> Range:
    low, usual, high = found
    return low, usual, high


def save(facts: Facts, out: Path) -> None:
    """Write `engine.json` into the directory `out`."""
    document = facts.model_dump(mode="json", by_alias=True)
    write_atomically(out / FILE, json.dumps(document, indent=1).encode() + b"\n")


def load(path: Path) -> Facts:
    """The facts of the engine in the directory `path`. Raises OptimizerError when they are missing or altered."""
    file = path / FILE
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise OptimizerError(f"the engine's facts are missing: {file}", "build it again") from None
    except ValueError as error:
        raise OptimizerError(f"{file} is not JSON: {error}", "build the engine again") from None
    if isinstance(document, dict) and document.get("schema") != SCHEMA:
        raise OptimizerError(
            f"{file}: schema {document.get('schema')!r} is unknown; this version of optc reads {SCHEMA}",
            "build the engine again",
        )
    return schema.parse(Facts, document, str(file))


def check(plan: Path, facts: Facts) -> None:
    """Raise OptimizerError when the engine is not, byte for byte, the one that the facts are about."""
    check_size(plan, facts)
    if fingerprint.of_file(plan) != facts.plan.sha256:
        raise OptimizerError(f"{plan} is altered: its bytes are not those that were built", "build it again")


def check_size(plan: Path, facts: Facts) -> None:
    """Raise OptimizerError when the engine is missing or was cut off: what can be told without reading it."""
    try:
        size = plan.stat().st_size
    except FileNotFoundError:
        raise OptimizerError(f"no such engine: {plan}", "build it again") from None
    if size != facts.plan.size:
        what = "truncated" if size < facts.plan.size else "altered"
        raise OptimizerError(
            f"{plan} is {what}: it has {size} bytes instead of {facts.plan.size}", "copy it again, or build it again"
        )
