"""Masks: the part of a picture that an edit may change.

The convention is that of the OpenAI Images API: a mask is as large as the first picture, and transparent
where that may change. The command line, the server, its clients and the pipeline all read masks here.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from deepgen.data.images import MAX_BYTES, MAX_PIXELS, ImageError, open_image, read_bytes
from deepgen.image_formats import FORMATS
from deepgen.uploads.rgb import may_change


def open_mask(source: Any, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """A mask as greyscale: 255 where its file is transparent and the picture may change, 0 elsewhere.

    `source` is a path, the bytes of a file or a Pillow picture; half transparent counts as transparent.

    Raises:
        ImageError: it is missing, unreadable, too large, or has no transparency.
    """
    if isinstance(source, str | Path):
        source = read_bytes(str(source), max_bytes)
    if isinstance(source, bytes | bytearray | memoryview):
        open_image(bytes(source), max_pixels=max_pixels, max_bytes=max_bytes)  # refuses what is damaged
        with Image.open(BytesIO(source), formats=FORMATS) as image:
            return may_change(ImageOps.exif_transpose(image))
    if not isinstance(source, Image.Image):
        raise ImageError(
            f"mask must be a path, bytes or a Pillow picture with transparency, got {type(source).__name__}"
        )
    open_image(source, max_pixels=max_pixels)
    return may_change(ImageOps.exif_transpose(source))


def check_mask(mask: Image.Image, image: Image.Image) -> None:
    """ValueError unless the mask is as large as the picture and lets some of it change."""
    if mask.size != image.size:
        raise ValueError(
            f"mask is {mask.width}x{mask.height} and the first picture {image.width}x{image.height}; "
            "they must be equally large"
        )
    if mask.getextrema()[1] == 0:
        raise ValueError("mask allows no pixel to change; make transparent what should be drawn anew")
