"""What qat can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from optimizer.passes.quantize_static.options import Options as Static
from optimizer.training.settings import Settings

NEAR = ("source", "none")  # teachers that are no artifact of their own


class Options(Settings):
    """How the quantized model is trained, where training starts, and what it learns from."""

    quantize: Static = Field(Static(), description="options of quantize.static, whose result training starts from")
    teacher: str = Field(
        "source",
        description="whose outputs are learnt: source, the float model that is quantized; original, the model before "
        "any step; VARIANT or VARIANT@TARGET; none: labels only",
    )
    loss: Literal["auto", "kl", "mse"] = Field(
        "auto", description="distance from the teacher; auto: kl where the labels are classes, else mse"
    )
    temperature: float = Field(1.0, gt=0, description="of kl: higher values weigh the smaller scores more")
    labels: float | None = Field(
        None, ge=0, le=1, description="share of the labels in the loss; default: 0 with a teacher, else 1"
    )

    @property
    def labelled(self) -> float:
        """The share of the labels in the loss."""
        return self.labels if self.labels is not None else float(self.teacher == "none")

    @model_validator(mode="after")
    def _some_loss(self) -> Options:
        if self.teacher == "none" and self.labelled < 1:
            raise ValueError("without a teacher all of the loss is of the labels: leave labels out, or write labels: 1")
        return self
