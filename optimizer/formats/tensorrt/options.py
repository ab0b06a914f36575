"""What a recipe may say about an engine, the same for both flavours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt.profiles import Range
from optimizer.schema import File, Strict

Size = Annotated[int, Field(ge=1)]


def _ordered(value: Range) -> Range:
    low, usual, high = value
    if not low <= usual <= high:
        raise ValueError("write the least, the usual and the largest size in this order, such as [1, 32, 128]")
    return value


class EngineOptions(Strict):
    """How an engine is built and run. What changes its files is named in `COMPILED`."""

    batches: tuple[Size, ...] = Field(
        (), description="batch sizes that the engine is tuned for, one profile each; default: those that are measured"
    )
    dims: dict[str, Annotated[tuple[Size, Size, Size], AfterValidator(_ordered)]] = Field(
        {},
        description="free dimension -> least, usual and largest size; default: as model.dims and what is measured say",
    )
    level: int = Field(3, ge=0, le=5, description="how long the builder looks for better kernels")
    workspace: int | None = Field(
        None, ge=1, description="MiB of device memory that a layer may use while it runs; default: all there is"
    )
    tf32: bool = Field(
        False, description="float32 products may round their factors to 10 bits, which is faster on recent GPUs"
    )
    sparse: bool | None = Field(
        None, description="use kernels for 2:4 sparse weights; default: when weights have that pattern"
    )
    refit: bool = Field(False, description="weights can be replaced in the engine without building it again")
    weight_streaming: bool = Field(False, description="weights may stay in host memory and be streamed when needed")
    plugins: tuple[File, ...] = Field((), description="libraries with operators of your own (.so), loaded first")
    cuda_graph: bool = Field(
        False, description="replay the launches of an inference as one CUDA graph: lower latency for small models"
    )
    boundary: Literal["host", "device"] = Field(
        "host",
        description="what a call takes: host: with the copies to and from the GPU; device: a call with the very arrays "
        "of the one before runs the engine alone, timed by CUDA events, and gives the outputs that these arrays gave",
    )
    device: int = Field(0, ge=0, description="which GPU runs it")

    @property
    def tolerance(self) -> float | None:
        """How far outputs may lie from the ONNX model's, where the target's own limit is not meant: see `tf32`."""
        return 1e-2 if self.tf32 else None

    def fitted(self, batches: Sequence[int], dims: Mapping[str, Range], timed: Mapping[str, Sequence[int]]) -> Self:
        """These options with the sizes that will be asked for, where they do not say themselves.

        `timed`: the sizes at which free dimensions are timed. Raises OptimizerError for one that the options leave out.
        """
        self._require_timed(timed)
        self._require_batches(batches, [high for name, (_, _, high) in self.dims.items() if name not in dims])
        update: dict[str, Any] = {}
        if not self.batches:
            update["batches"] = tuple(sorted(set(batches)))
        missing = {name: found for name, found in dims.items() if name not in self.dims}
        if missing:
            update["dims"] = {**self.dims, **missing}
        return self.model_copy(update=update) if update else self

    def _require_timed(self, timed: Mapping[str, Sequence[int]]) -> None:
        for name in timed.keys() & self.dims.keys():
            low, _, high = self.dims[name]
            for size in timed[name]:
                if not low <= size <= high:
                    raise OptimizerError(
                        f"the recipe times {name} {size}, and the option dims builds the engine for {low} to {high}",
                        f"write dims: {{{name}: [{min(low, size)}, {size}, {max(high, size)}]}}, or time another size",
                    )

    def _require_batches(self, batches: Sequence[int], ends: Sequence[int]) -> None:
        """`ends`: of ranges that may be the batch's; what it is called is known once the model is exported."""
        most = max((*self.batches, *ends), default=0)
        if self.batches and batches and max(batches) > most:
            raise OptimizerError(
                f"the recipe asks for batches of {max(batches)} (measure.latency.batch, measure.batch, the samples "
                f"checked), and the option batches builds the engine for up to {most}",
                "leave the option batches out, add the size to it, or measure smaller batches",
            )


COMPILED = (
    "batches", "dims", "level", "workspace", "tf32", "sparse", "refit", "weight_streaming", "plugins",
)  # fmt: skip
