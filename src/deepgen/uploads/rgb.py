"""Which picture files are read, and how a decoded picture becomes one of three channels.

What is accepted looks as in a viewer: transparency lies on white, and deep greyscale keeps its range.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

# Formats that Pillow decodes by itself; others (EPS, for one) start outside programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")

# What Pillow's readers raise on files that are cut short or made up.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """A picture that cannot be used; the message names it and says why."""


class ImageTooLarge(ImageError):
    """A picture with more pixels, or a longer side, than is read; the message says what would fit."""


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded picture as RGB of 8 bits a channel; `name` stands in the `ImageError` where that fails."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(np.asarray(image), name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def may_change(image: Image.Image, name: str = "mask") -> Image.Image:
    """255 where a picture is at least half transparent; `ImageError` where it has no transparency."""
    if not image.has_transparency_data:
        raise ImageError(f"{name} has no transparency; make transparent what may change")
    return image.convert("RGBA").getchannel("A").point([255] * 128 + [0] * 128)


def _from_deep_grey(values: np.ndarray, name: str) -> Image.Image:
    """Greyscale of more than 8 bits, which `convert` clips: integers up to 65535, or floats in [0, 1]."""
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise ImageError(
            f"{name} holds greyscale values outside [0, {top:g}]; save it as an 8 or 16-bit picture"
        )
    return Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8)).convert("RGB")
