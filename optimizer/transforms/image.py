"""Transforms of pictures: encoded bytes -> HWC uint8 pixels, resized and cropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from optimizer.errors import OptimizerError
from optimizer.transforms.columns import Example, OnColumn, array, value

if TYPE_CHECKING:
    import numpy as np

Side = Annotated[int, Field(ge=1)]


class DecodeOptions(OnColumn):
    mode: Literal["RGB", "L"] = Field("RGB", description="RGB: height x width x 3; L: grey, height x width x 1")
    upright: bool = Field(True, description="turn the picture as its EXIF orientation says")


class ResizeOptions(OnColumn):
    size: Side | tuple[Side, Side] = Field(description="one side, or [height, width]")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mode: Literal["exact", "shortest"] = Field(
        "exact", description="shortest: the shorter side gets `size`, ratio kept"
    )

    @model_validator(mode="after")
    def _one_side(self) -> ResizeOptions:
        if self.mode == "shortest" and not isinstance(self.size, int):
            raise ValueError("mode 'shortest' takes one number as 'size'")
        return self


class CropOptions(OnColumn):
    size: Side | tuple[Side, Side] = Field(description="one side, or [height, width]")


def decode(example: Example, options: DecodeOptions) -> Example:
    """Bytes of a PNG, JPEG, ... -> uint8 pixels, height x width x channels."""
    import io

    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = value(example, options.column)
    if not isinstance(data, bytes):
        raise OptimizerError(
            f"column '{options.column}' holds {type(data).__name__}, not the bytes of a picture file",
            "leave image.decode out where the pixels are decoded already",
        )
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise OptimizerError(
            f"column '{options.column}' holds no readable picture ({len(data)} bytes): {reason}", "repair or remove it"
        ) from None
    if picture.mode.startswith(("I", "F")):  # a plain convert would clip 16-bit values at 255
        raise OptimizerError(
            f"column '{options.column}' holds a picture of mode {picture.mode} (more than 8 bits per channel)",
            "convert it to 8 bits per channel, or give the pixels as an array",
        )
    upright = ImageOps.exif_transpose(picture) if options.upright else picture
    pixels = np.asarray(upright.convert(options.mode))
    return {**example, options.column: pixels[..., None] if pixels.ndim == 2 else pixels}


def resize(example: Example, options: ResizeOptions) -> Example:
    """uint8 pixels -> uint8 pixels of another size, as Pillow resamples them (antialiased)."""
    import numpy as np
    from PIL import Image

    pixels = _pixels(example, options.column)
    if pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3, 4):
        raise OptimizerError(
            f"column '{options.column}' is {pixels.dtype}{list(pixels.shape)}; "
            "resize takes uint8, height x width x 1, 3 or 4 channels",
            "put resize directly after image.decode, before rescale and layout",
        )
    height, width = _resized(pixels.shape[0], pixels.shape[1], options)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    out = np.asarray(picture.resize((width, height), Image.Resampling[options.interpolation.upper()]))
    return {**example, options.column: out.reshape(height, width, pixels.shape[-1])}


def crop_center(example: Example, options: CropOptions) -> Example:
    """The middle of a picture, height x width x channels; the picture must not be smaller."""
    pixels = _pixels(example, options.column)
    height, width = _sides(options.size)
    if pixels.shape[0] < height or pixels.shape[1] < width:
        raise OptimizerError(
            f"column '{options.column}' is {pixels.shape[0]} x {pixels.shape[1]}, "
            f"smaller than the crop {height} x {width}",
            "resize first, or crop less",
        )
    top = round((pixels.shape[0] - height) / 2)
    left = round((pixels.shape[1] - width) / 2)
    return {**example, options.column: pixels[top : top + height, left : left + width]}


def _pixels(example: Example, column: str) -> np.ndarray:
    pixels = array(example, column)
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim != 3:
        raise OptimizerError(
            f"column '{column}' has shape {list(pixels.shape)}, not height x width x channels", "reshape it first"
        )
    return pixels


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _resized(height: int, width: int, options: ResizeOptions) -> tuple[int, int]:
    if options.mode == "exact":
        return _sides(options.size)
    # The longer side is cut to an integer, as torchvision's Resize does, so that its models see what they saw.
    short = int(options.size)  # type: ignore[arg-type]  # the validator allows one number only
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
