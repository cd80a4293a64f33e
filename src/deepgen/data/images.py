"""Reading pictures: any accepted input becomes one RGB picture, or an error that says what to do.

A file is judged by its header before a pixel is decoded, because a few kilobytes can claim gigabytes. What is
accepted looks as it would in a viewer, see `deepgen.image_colors`: turned as the camera meant it, in the
colours of its profile, and transparency laid on white.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

import numpy as np
from PIL import Image

from deepgen.image_colors import BROKEN, GreyscaleRangeError, to_srgb
from deepgen.image_formats import missing_reader_of, readable_formats
from deepgen.uploads.rgb import ImageError, open_header

if TYPE_CHECKING:
    from torch import Tensor

ImageSource = Union[str, Path, bytes, Image.Image, np.ndarray, "Tensor"]

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20


def open_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Any picture as a viewer shows it, in sRGB of 8 bits a channel.

    `source` is a path, the bytes of a file, a Pillow picture, an array (height, width, 3) or a tensor
    (3, height, width). Arrays and tensors hold uint8 in [0, 255] or floats in [0, 1]. Of an animation the
    first frame is taken. Raises `ImageError` for what is missing, unreadable or larger than the limits.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the given picture", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(_open(bytes(source), "the given content", max_bytes), "the given content", max_pixels)
    if isinstance(source, str | Path):
        name = str(source)
        return _decode(_open(read_bytes(name, max_bytes), name, max_bytes), name, max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, "(height, width, 3)", max_pixels)
    if hasattr(source, "detach"):  # a tensor, without importing torch to ask
        return _from_tensor(source, max_pixels)
    raise ImageError(
        f"expected a path, bytes, a Pillow picture, an array or a tensor, got {type(source).__name__}"
    )


def read_bytes(name: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file that is to be a picture; `ImageError` where there is none, or too much."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", name):
        raise ImageError(
            f"{name[:80]} is an address, and addresses are not fetched; save the picture and give its path"
        )
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder, not a picture; give the path of one file")
        if not path.exists():
            pattern = any(letter in name for letter in "*?[")
            hint = "; no file fits this pattern, or it was quoted: give the names of files" if pattern else ""
            raise ImageError(f"there is no picture at {name}{hint}")
        if not path.is_file():
            raise ImageError(f"{name} is not an ordinary file; copy the picture to one first")
        if path.stat().st_size > max_bytes:
            raise _too_many_bytes(name, path.stat().st_size, max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {name[:200]}: {error.strerror or error}") from error


def open_own_header(file: BinaryIO, name: str) -> Image.Image:
    """A picture of the user's own, of which no pixel is decoded: formats of the extra `images` are read, too.

    Raises:
        ImageError: it is no picture, or one whose reader is not installed; the message says which.
    """
    try:
        return open_header(file, name, readable_formats())
    except ImageError as error:
        file.seek(0)
        if needed := missing_reader_of(file.read(32)):
            raise ImageError(f"{name} is a picture whose reader is missing; it needs {needed}") from error
        raise


def _open(content: bytes, name: str, max_bytes: int) -> Image.Image:
    """Reads the header only."""
    if len(content) > max_bytes:
        raise _too_many_bytes(name, len(content), max_bytes)
    return open_own_header(BytesIO(content), name)


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image.width, image.height, name, max_pixels)
    try:
        shown = to_srgb(image)
        return shown.copy() if shown is image else shown  # what is returned is the caller's alone
    except GreyscaleRangeError as error:
        raise ImageError(f"{name} holds {error}") from error
    except BROKEN as error:
        raise ImageError(f"{name} is damaged or cut short: {error}") from error


def _from_tensor(tensor: Any, max_pixels: int) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ImageError(f"expected a tensor of shape (3, height, width), got {tuple(tensor.shape)}")
    tensor = tensor.detach().cpu()
    values = tensor.float() if tensor.is_floating_point() else tensor  # numpy knows no bfloat16
    return _from_array(values.permute(1, 2, 0).numpy(), "(3, height, width)", max_pixels)


def _from_array(array: np.ndarray, layout: str, max_pixels: int) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(f"expected an array of shape {layout}, got {array.shape}")
    _check_size(array.shape[1], array.shape[0], "the given array", max_pixels)
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if array.dtype.kind != "f":
        raise ImageError(f"expected uint8 in [0, 255] or floats in [0, 1], got {array.dtype}")
    if not np.isfinite(array).all():
        raise ImageError("the given array holds NaN or infinite values")
    low, high = float(array.min()), float(array.max())
    if low < -1e-3 or high > 1 + 1e-3:  # a resize may overshoot by rounding, not by more
        raise ImageError(
            f"expected floats in [0, 1], got [{low:.3g}, {high:.3g}]; for [-1, 1] give (x + 1) / 2"
        )
    return Image.fromarray(np.rint(array.clip(0, 1) * 255).astype(np.uint8))


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: {width}x{height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width}x{height} pixels, more than the {max_pixels:,} allowed; scale it down first"
        )


def _too_many_bytes(name: str, size: int, max_bytes: int) -> ImageError:
    return ImageError(
        f"{name} has {size:,} bytes, more than the {max_bytes:,} allowed; save it smaller first"
    )
