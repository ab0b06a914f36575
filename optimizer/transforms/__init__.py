"""Named, pure, serializable steps from a source's columns to a model's inputs.

A transform is a function (example, options) -> example over a mapping of columns. The literal table below is
all there is; the same list that a card writes goes into the bundle as its preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from optimizer import schema
from optimizer.errors import OptimizerError, unknown
from optimizer.schema import Strict
from optimizer.transforms import image, tensor, text
from optimizer.transforms.columns import Example


@dataclass(frozen=True)
class Kind:
    """A row of the table: the options class, the function, and the distributions that decide its numbers."""

    options: type[Strict]
    function: Callable[[Example, Any], Example]
    tools: tuple[str, ...] = ()
    pads: Callable[[Any], dict[str, float]] = lambda options: {}


TABLE: dict[str, Kind] = {
    "image.decode": Kind(image.DecodeOptions, image.decode, ("pillow",)),
    "resize": Kind(image.ResizeOptions, image.resize, ("pillow",)),
    "crop.center": Kind(image.CropOptions, image.crop_center),
    "rescale": Kind(tensor.RescaleOptions, tensor.rescale),
    "normalize": Kind(tensor.NormalizeOptions, tensor.normalize),
    "layout": Kind(tensor.LayoutOptions, tensor.layout),
    "cast": Kind(tensor.CastOptions, tensor.cast),
    "reshape": Kind(tensor.ReshapeOptions, tensor.reshape),
    "expand": Kind(tensor.ExpandOptions, tensor.expand),
    "rename": Kind(tensor.RenameOptions, tensor.rename),
    "constant": Kind(tensor.ConstantOptions, tensor.constant),
    "tokenize": Kind(text.TokenizeOptions, text.tokenize, ("tokenizers",), text.pads),
}


class Named(Protocol):
    """A transform as written: `recipe.Use` is one."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...


class Transformed(Protocol):
    """Anything with a list of transforms: `recipe.DataSpec` is one."""

    @property
    def transforms(self) -> Sequence[Named]: ...


@dataclass(frozen=True)
class Transform:
    """A transform with its options validated."""

    name: str
    options: Strict

    def __call__(self, example: Example) -> Example:
        return TABLE[self.name].function(example, self.options)


def parse(uses: Sequence[Named], where: str, base: Path | None = None) -> tuple[Transform, ...]:
    """The transforms as written, validated; raises OptimizerError for an unknown name or option."""
    made = []
    for number, use in enumerate(uses, start=1):
        if use.name not in TABLE:
            raise unknown("transform", use.name, TABLE, where=where)
        place = f"{where}: transform {number} ({use.name})"
        made.append(Transform(use.name, schema.parse(TABLE[use.name].options, use.options, place, base)))
    return tuple(made)


def apply(transforms: Sequence[Transform], example: Example) -> Example:
    """The example after all transforms, in order; an error names the transform that refused."""
    for transform in transforms:
        try:
            example = transform(example)
        except OptimizerError as error:
            raise OptimizerError(f"transform {transform.name}: {error.message}", error.hint) from None
    return example


def pads(transforms: Sequence[Transform]) -> dict[str, float]:
    """Column -> the value that pads it, from the transforms that know one."""
    found: dict[str, float] = {}
    for transform in transforms:
        found |= TABLE[transform.name].pads(transform.options)
    return found


def tools(transforms: Sequence[Transform]) -> tuple[str, ...]:
    """The distributions whose version can change what these transforms give."""
    return tuple(sorted({tool for t in transforms for tool in TABLE[t.name].tools}))


def describe(spec: Transformed) -> list[dict[str, Any]]:
    """The transforms as JSON for a bundle: defaults filled in, files by their bare name (see `files`)."""
    return [{t.name: _portable(t.options)} for t in parse(spec.transforms, "data")]


def files(spec: Transformed) -> list[Path]:
    """The files that the transforms read and a bundle must carry, each once."""
    found = [p for t in parse(spec.transforms, "data") for p in _paths(t.options)]
    return list(dict.fromkeys(found))


def _paths(options: Strict) -> list[Path]:
    return [v for v in (getattr(options, name) for name in type(options).model_fields) if isinstance(v, Path)]


def _portable(options: Strict) -> Mapping[str, Any]:
    names = {name for name in type(options).model_fields if isinstance(getattr(options, name), Path)}
    shown = options.model_dump(mode="json", exclude_none=True)
    return {k: Path(v).name if k in names else v for k, v in shown.items()}
