"""The pictures of an example: how large they are, from the header alone, and their pixels.

Batches are planned from sizes, thousands of times as often as anything is decoded, so sizes must be cheap and
must be what `open_image` will give: turned as the camera meant it.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image

from deepgen.data.example import Example, FileSlice, ImageContent, Size
from deepgen.data.images import ImageError, open_image, open_own_header
from deepgen.data.mixture_config import ImageRule
from deepgen.image_colors import BROKEN

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # values of that tag which swap the sides


def image_size(picture: ImageContent) -> Size:
    """(height, width) as a viewer shows the picture; ImageError when it is missing or no picture."""
    content = _content(picture)
    name = "the given content" if isinstance(content, bytes) else str(content)
    try:
        with (
            BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file,
            open_own_header(file, name) as image,
        ):
            width, height = image.size
            is_turned = _orientation(image) in _TURNED
    except FileNotFoundError as error:
        raise ImageError(f"there is no picture at {name}") from error
    except ImageError:
        raise
    except BROKEN as error:
        raise ImageError(f"{name} cannot be read as a picture: {error}") from error
    return (width, height) if is_turned else (height, width)


def load_image(image: ImageContent) -> Image.Image:
    """The picture as RGB, turned and laid on white; ImageError when it cannot be used."""
    return open_image(_content(image))


def example_sizes(example: Example) -> tuple[Size, tuple[Size, ...]]:
    """(target's size, references' sizes), from the manifest where it knows them; judged by the limits."""
    size = example.size or image_size(example.target)
    if example.limits is not None:
        example.limits.check(size, example.key)
    references = example.reference_sizes or tuple(image_size(image) for image in example.references)
    return size, references


def ruled_sizes(example: Example, rule: ImageRule) -> tuple[Size, tuple[Size, ...]]:
    """The sizes a rule gives to the target and to each reference."""
    target, references = example_sizes(example)
    return rule.size(target), tuple(rule.size(size) for size in references)


def _content(image: ImageContent) -> Path | bytes:
    try:
        return image.read() if isinstance(image, FileSlice) else image
    except OSError as error:
        raise ImageError(f"cannot read {image.name}: {error.strerror or error}") from error


def _orientation(image: Image.Image) -> int:
    """The camera's orientation, without decoding: for PNG, Pillow would look for it behind the pixels too."""
    if image.format == "PNG" and "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    if image.format == "TIFF":  # Pillow's TIFF reader reports the turned size itself
        return 1
    return image.getexif().get(_ORIENTATION, 1)
