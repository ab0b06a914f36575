"""Optimization profiles: ranges of the free dimensions that an engine is built for; which one a shape falls into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.errors import OptimizerError, unknown
from optimizer.values import Signature, TensorSpec

Shape = tuple[int, ...]
Range = tuple[int, int, int]
"""The least, the usual and the largest size of a free dimension; kernels are tuned for the usual one."""


@dataclass(frozen=True)
class Profile:
    """One range for every free dimension, by the dimension's name."""

    ranges: Mapping[str, Range]

    def shapes(self, spec: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """The least, usual and largest shape of an input."""
        return self._at(spec, 0), self._at(spec, 1), self._at(spec, 2)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether these sizes lie in the ranges."""
        return all(low <= sizes[name] <= high for name, (low, _, high) in self.ranges.items())

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {low}..{high} (tuned for {usual})" for name, (low, usual, high) in self.ranges.items()
        )

    def _at(self, spec: TensorSpec, place: int) -> Shape:
        return tuple(dim if isinstance(dim, int) else self.ranges[dim][place] for dim in spec.shape)


def plan(signature: Signature, batches: Sequence[int], dims: Mapping[str, Range], target: str) -> list[Profile]:
    """The profiles of an engine; none for a model without free dimensions.

    Each batch size in `batches` ends the range of one profile, which is tuned for it, so that every size up to the
    largest falls into exactly one. A range for the batch dimension in `dims` sets the ends of all of them, and its
    usual size is one more to be tuned for. Raises OptimizerError for a dimension that the model does not have, for a
    free one that nothing is said about, and for batch sizes outside the range.
    """
    symbols = signature.symbols()
    for name in dims:
        if name not in symbols:
            raise unknown("dimension", name, symbols, f"the option dims of {target}")
    batch = signature.batch_symbol()
    silent = [name for name in symbols if name not in dims and name != batch]
    if silent:
        raise OptimizerError(
            f"nothing says how large '{silent[0]}' can be: an engine is built for ranges of its free dimensions "
            f"({', '.join(symbols)})",
            f"give least, usual and largest size: targets: [{{{target}: {{dims: {{{silent[0]}: [1, 32, 128]}}}}}}], or "
            f"measure at one: measure: {{latency: {{dims: {{{silent[0]}: 32}}}}}}",
        )
    if batch is None:
        return [Profile({name: dims[name] for name in symbols})] if symbols else []
    low, usual, high = dims.get(batch, (1, max(batches, default=1), max(batches, default=1)))
    outside = [size for size in batches if not low <= size <= high]
    if outside:
        raise OptimizerError(
            f"batches of {outside[0]} are asked for (measured, or named in batches), and the option dims builds the "
            f"engine for {batch} {low} to {high}",
            f"write dims: {{{batch}: [{min(low, *outside)}, {usual}, {max(high, *outside)}]}}, or ask for "
            "other batches (option batches, measure.latency.batch, measure.batch)",
        )
    ends = sorted({usual, high, *batches})
    starts = [low, *(end + 1 for end in ends)]
    return [
        Profile({name: (start, end, end) if name == batch else dims[name] for name in symbols})
        for start, end in zip(starts, ends, strict=False)
    ]


def sizes(signature: Signature, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The size of every free dimension in inputs of these shapes.

    Raises OptimizerError for an input that is missing, has another rank, or a size that contradicts the signature.
    """
    found: dict[str, int] = {}
    for spec in signature.inputs:
        if spec.name not in shapes:
            raise OptimizerError(
                f"the input '{spec.name}' is missing; given: {', '.join(shapes) or 'nothing'}",
                f"the model takes {', '.join(f'{s.name}: {s}' for s in signature.inputs)}",
            )
        shape = shapes[spec.name]
        fits = len(shape) == len(spec.shape) and all(
            found.setdefault(dim, size) == size if isinstance(dim, str) else dim == size
            for dim, size in zip(spec.shape, shape, strict=False)
        )
        if not fits:
            raise OptimizerError(
                f"the input '{spec.name}' has the shape {list(shape)}, the model takes {spec}",
                "a name in a shape is a free dimension, which has one size in all inputs",
            )
    return found


def choose(profiles: Sequence[Profile], asked: Mapping[str, int], target: str) -> int:
    """The place of the profile that holds these sizes; the narrowest where several do.

    Raises OptimizerError naming the dimension that lies outside every profile.
    """
    fitting = [place for place, profile in enumerate(profiles) if profile.holds(asked)]
    if fitting:
        return min(fitting, key=lambda place: _width(profiles[place]))
    for name, size in asked.items():
        if size < 1:
            raise OptimizerError(f"{name} is {size}: an engine takes no empty inputs", "leave empty batches out")
        known = [profile.ranges[name] for profile in profiles if name in profile.ranges]
        if known and not any(low <= size <= high for low, _, high in known):
            low, high = min(r[0] for r in known), max(r[2] for r in known)
            wider = [min(low, size), known[0][1], max(high, size)]
            raise OptimizerError(
                f"{name} is {size}, the engine was built for {low} to {high}",
                f"build it for more: targets: [{{{target}: {{dims: {{{name}: {wider}}}}}}}]",
            )
    listed = "; ".join(map(str, profiles))
    given = ", ".join(f"{name} {size}" for name, size in asked.items())
    raise OptimizerError(f"no profile of the engine holds {given} together: {listed}", "give it wider dims")


def _width(profile: Profile) -> int:
    found = 1
    for low, _, high in profile.ranges.values():
        found *= high - low + 1
    return found
