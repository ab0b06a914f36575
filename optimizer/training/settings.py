"""How a model is trained: the options that every training step shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from optimizer.recipe import UseField
from optimizer.schema import Strict


class Augment(Strict):
    """Random changes of pictures, others in every epoch."""

    flip: bool = Field(False, description="mirror half of the pictures from left to right")
    crop: int = Field(0, ge=0, description="shift pictures by up to so many pixels; the border is mirrored")


Labels = Literal["auto", "cross-entropy", "binary", "mse", "cosine"]
Match = Literal["auto", "kl", "mse", "cosine", "none"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(Strict):
    """Options of the training loop. The result is a function of these, the data, the model and the seed."""

    epochs: float = Field(1.0, gt=0, description="passes over the training data")
    steps: int | None = Field(None, ge=1, description="number of steps, in place of epochs")
    batch: int = Field(64, ge=1, description="examples per step, over all processes")
    lr: float = Field(3e-4, gt=0, description="the largest learning rate")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: with Nesterov's momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.01, ge=0, description="of matrices and kernels; biases and norms have none")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="the learning rate after the warm-up")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of an average of the weights, which is then kept")
    augment: Augment = Field(Augment(), description="random changes of pictures")
    validation: Share | Literal["select"] = Field(
        0.1, description="what the best state is chosen on: a share of the training examples, or the data role select"
    )
    overlap: Literal["refuse", "drop"] = Field(
        "refuse", description="training examples that are in the evaluate or select data too: refused, or left out"
    )
    validations: int = Field(10, ge=1, description="how often, spread evenly, the state is validated")
    patience: int | None = Field(None, ge=1, description="stop after so many validations without improvement")
    keep: Literal["best", "last"] = Field("best", description="the state that is kept: best on validation, or last")
    checkpoint: int | None = Field(
        None,
        ge=1,
        description="steps between checkpoints, from which a killed training goes on; default: once a minute",
    )
    dropout: bool = Field(True, description="whether the model's dropout acts while it is trained")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a usable device")
    amp: bool = Field(
        True, description="compute in bfloat16 where the GPU or the CPU multiplies it natively; weights stay float32"
    )
    deterministic: bool = Field(True, description="on CUDA: only algorithms that give the same result each time")
    processes: int = Field(1, ge=1, description="processes (on CUDA: devices) that share each batch, under torchrun")


class Distillation(Settings):
    """Who teaches what, and how the model is trained."""

    teacher: str = Field(
        "original", description="original, a VARIANT (its PyTorch module before export), or VARIANT@TARGET"
    )
    outputs: Match = Field("auto", description="loss between the outputs; auto: what fits them, which the record says")
    output: str | None = Field(None, description="the one output that is learnt from; default: all")
    temperature: float = Field(2.0, gt=0, description="of kl: higher shows more of the teacher's doubts")
    hard: float = Field(0.0, ge=0, le=1, description="weight of the labels; the teacher's outputs have the rest")
    loss: Labels = Field("auto", description="loss against the labels, where hard is not 0")
    features: dict[str, str] = Field(
        {}, description="student's module -> teacher's module whose output it learns; other widths are projected"
    )
    features_weight: float = Field(1.0, gt=0, description="of the loss of features, beside that of the outputs")
    attention: dict[str, str] = Field(
        {}, description="student's module -> teacher's: which places are looked at, or which positions resemble which"
    )
    attention_weight: float = Field(1.0, gt=0, description="of the loss of attention")
    heads: int = Field(1, ge=1, description="parts that attention between positions is compared in")
    metric: UseField | None = Field(None, description="metric that chooses the best state; default: the loss")

    @model_validator(mode="after")
    def _something(self) -> Distillation:
        if self.outputs == "none" and not (self.features or self.attention):
            raise ValueError("with outputs: none, name what is learnt instead: features or attention")
        return self
