"""Pictures in and out of requests: uploads are judged by their bytes, whatever they are declared as."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageOps

from deepgen.data.images import FORMATS, ImageError, open_image
from deepgen.data.png import PictureRecord, text_entries
from deepgen.serve.errors import invalid

MAX_FILE_BYTES = 50 * 2**20
_SAVED_AS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def read_picture(content: bytes, param: str, max_pixels: int) -> Image.Image:
    """An upload as an RGB picture without its metadata; `ApiError` 400 says what is wrong with it."""
    try:
        picture = open_image(content, max_pixels=max_pixels, max_bytes=MAX_FILE_BYTES)
    except ImageError as error:
        raise invalid(f"{param}: {error}", param, "invalid_image") from error
    picture.info.clear()
    return picture


def read_mask(content: bytes, max_pixels: int) -> Image.Image:
    """A mask as greyscale, 255 where its file is transparent: there the picture may change."""
    read_picture(content, "mask", max_pixels)  # refuses what is damaged or too large
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        if not image.has_transparency_data:
            raise invalid(
                "mask has no transparency; make transparent what may change", "mask", "invalid_image"
            )
        alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
    return alpha.point([255] * 128 + [0] * 128)


def read_address(address: object, param: str, fetch: Callable[[str, str], bytes] | None = None) -> bytes:
    """The bytes of a `data:` address; others are fetched where there is a `fetch`, and may take a while."""
    if not isinstance(address, str):
        raise invalid(f"{param} must be a data: address in text", param, "invalid_type")
    if fetch is not None and address[:8].lower().startswith(("http://", "https://")):
        return fetch(address, param)
    match = re.match(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,", address[:200])
    if not match:
        raise invalid(
            f"{param} must be data:image/...;base64,...; other addresses are not fetched",
            param,
            "invalid_image",
        )
    return decode_base64(address[match.end() :], param)


def decode_base64(text: str, param: str) -> bytes:
    """Bytes of base64 text; `ApiError` 400 where it is none."""
    if len(text) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise invalid(f"{param} is larger than {MAX_FILE_BYTES >> 20} MiB", param, "invalid_image")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{param} is no base64: {error}", param, "invalid_image") from error


def write_picture(
    image: Image.Image, output_format: str, compression: int = 100, record: PictureRecord | None = None
) -> bytes:
    """A file of the picture; `compression` is the quality in [0, 100] of jpeg and webp.

    A PNG carries its record, if one is given.
    """
    buffer = BytesIO()
    if output_format == "png":
        image.save(buffer, "PNG", pnginfo=text_entries(record) if record else None, compress_level=3)
    else:
        image.save(buffer, _SAVED_AS[output_format], quality=max(1, compression))
    return buffer.getvalue()


def to_base64(content: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(content).decode()
