"""Which picture files are read, and how a decoded picture becomes one of three channels.

What is accepted looks as in a viewer: transparency lies on white, and deep greyscale keeps its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from PIL import Image

from deepgen.image_colors import BROKEN, GreyscaleRangeError, to_srgb
from deepgen.image_formats import FORMATS


class ImageError(ValueError):
    """A picture that cannot be used; the message names it and says why."""


class ImageTooLarge(ImageError):
    """A picture with more pixels, or a longer side, than is read; the message says what would fit."""


def open_header(file: BinaryIO, name: str, formats: Sequence[str] = FORMATS) -> Image.Image:
    """A picture of which the header was read and no pixel decoded; `formats` by Pillow's names.

    Raises:
        ImageTooLarge: Pillow holds it for a bomb.
        ImageError: it is empty, no picture or damaged; the message names it.
    """
    file.seek(0, 2)
    if not file.tell():
        raise ImageError(f"{name} is empty")
    file.seek(0)
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name} is too large to decode safely: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture we can read; known formats: {', '.join(formats)}"
        ) from error
    except BROKEN as error:
        raise ImageError(f"{name} is damaged: {error}") from error


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded picture, or a band of one, as RGB of 8 bits a channel, as a viewer shows it.

    It has been turned already, so what its file says of that is forgotten. `name` stands in the `ImageError`
    where greyscale has values that mean nothing.
    """
    image.info = {key: image.info[key] for key in ("icc_profile", "transparency") if key in image.info}
    try:
        return to_srgb(image)
    except GreyscaleRangeError as error:
        raise ImageError(f"{name} holds {error}") from error


def may_change(image: Image.Image, name: str = "mask") -> Image.Image:
    """255 where a picture is at least half transparent; `ImageError` where it has no transparency."""
    if not image.has_transparency_data:
        raise ImageError(f"{name} has no transparency; make transparent what may change")
    return image.convert("RGBA").getchannel("A").point([255] * 128 + [0] * 128)
