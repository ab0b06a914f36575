"""What qat can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from optimizer.passes.quantize_static.options import Options as Static
from optimizer.training.settings import Labels, Settings

NEAR = ("source", "none")  # teachers that are no artifact of their own


class Options(Settings):
    """How the quantized model is trained, where training starts, and what it learns from."""

    quantize: Static = Field(Static(), description="options of quantize.static, whose result training starts from")
    teacher: str = Field(
        "source",
        description="source: the float model that is quantized; original, VARIANT or VARIANT@TARGET: as for distill; "
        "none: labels only",
    )
    outputs: Literal["auto", "kl", "mse", "cosine"] = Field(
        "auto", description="loss between the outputs; auto: what fits them, which the record says"
    )
    temperature: float = Field(1.0, gt=0, description="of kl: higher shows more of the teacher's doubts")
    hard: float | None = Field(
        None, ge=0, le=1, description="weight of the labels, the teacher has the rest; default: 0, without a teacher 1"
    )
    loss: Labels = Field("auto", description="loss against the labels, where hard is not 0")
    amp: bool = Field(False, description="compute in bfloat16 where there is, which rounds more than the runtime does")

    @property
    def labelled(self) -> float:
        """The weight of the labels."""
        return self.hard if self.hard is not None else float(self.teacher == "none")

    @model_validator(mode="after")
    def _some_loss(self) -> Options:
        if self.teacher == "none" and self.labelled < 1:
            raise ValueError("without a teacher all of the loss is of the labels: leave hard out, or write hard: 1")
        return self
