"""Reading pictures that strangers send: at the size that is needed, and in memory that follows that size.

A file's header says how large it is and what decoding takes; both are judged before a pixel is decoded. Then
rows are decoded in bands where the format allows it, and each band is scaled at once, so that a large picture
never stands in memory as a whole. A large JPEG is decoded at a half, a quarter or an eighth, which its blocks
allow. Up to four million pixels the result is that of `Image.resize` bit for bit; beyond, bands are scaled
across first, where Pillow may choose the other order, and values differ by rounding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import ExifTags, Image

from deepgen.image_colors import BROKEN
from deepgen.uploads.png_bands import is_interlaced, png_bands
from deepgen.uploads.rgb import ImageError, ImageTooLarge, may_change, open_header, to_rgb

Size = tuple[int, int]  # (height, width), pixels

_BAND = 1 << 20  # pixels decoded and scaled at once
_BAND_BYTES = 32 << 20  # what a band takes on its way: its data, twice, and Pillow's pictures of it
_FULL_JPEG = 1 << 24  # pixels of a JPEG that is decoded in full
_SMALL = 1 << 22  # pixels that are scaled as a whole, and to which a larger JPEG is reduced
MAX_WORK_BYTES = 256 << 20  # of decoding one picture
# Bytes a pixel of decoding as a whole, measured with Pillow 13.0.0 and rounded up.
_WHOLE_BYTES = {"JPEG": 5, "WEBP": 18, "AVIF": 16, "PNG": 8}
_WHOLE_BYTES_OTHERS = 8

# Pillow's way to turn a picture as its EXIF orientation says.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What is read at all.

    Attributes:
        max_pixels: of one picture, as its header claims.
        max_ratio: of the longer side to the shorter.
        max_work_bytes: of decoding one picture.
    """

    max_pixels: int = 64_000_000
    max_ratio: int = 16
    max_work_bytes: int = MAX_WORK_BYTES


@dataclass(frozen=True)
class ImageHeader:
    """A picture that is not decoded yet.

    Attributes:
        name: for messages.
        size: (height, width) as it is seen, turned as its camera meant it.
        format: Pillow's name of it.
        orientation: EXIF's, 1 to 8.
        is_banded: whether rows can be decoded in bands.
        coefficient_bytes: what a JPEG decoder keeps of the whole picture beside its pixels.
    """

    name: str
    size: Size
    format: str
    orientation: int
    is_banded: bool
    coefficient_bytes: int = 0

    @property
    def num_pixels(self) -> int:
        """Height times width."""
        return self.size[0] * self.size[1]

    @property
    def shown(self) -> str:
        """WIDTHxHEIGHT."""
        return f"{self.size[1]}x{self.size[0]}"

    def work_bytes(self, size: Size | None) -> int:
        """Bytes that decoding to a size takes for a moment; None is the picture's own size."""
        between = 0 if size is None else 4 * max(self.size[0] * size[1], self.size[1] * size[0], _SMALL)
        if self.is_banded:
            return _BAND_BYTES + between
        factor = self.reduction(size)
        whole = self.num_pixels // factor**2 * _WHOLE_BYTES.get(self.format, _WHOLE_BYTES_OTHERS)
        return _BAND_BYTES + whole + self.coefficient_bytes

    def reduction(self, size: Size | None) -> int:
        """1, or by how much a JPEG's sides are divided while it is decoded."""
        if self.format != "JPEG" or size is None or self.num_pixels <= _FULL_JPEG:
            return 1
        height, width = self.size
        fitting = [f for f in (2, 4, 8) if height // f >= size[0] and width // f >= size[1]]
        enough = [f for f in fitting if self.num_pixels // f**2 <= _SMALL]
        return enough[0] if enough else max(fitting, default=1)


def read_header(file: BinaryIO, name: str, limits: UploadLimits | None = None) -> ImageHeader:
    """What a picture claims to be; no pixel is decoded.

    Raises:
        ImageTooLarge: it has more pixels or a longer side than is read; the message says what would fit.
        ImageError: it is no picture, or damaged.
    """
    limits = limits or UploadLimits()
    image = open_header(file, name)
    try:
        width, height = image.size
        orientation = _orientation(image)
    except BROKEN as error:
        raise ImageError(f"{name} is damaged: {error}") from error
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    size = (width, height) if orientation in _SIDEWAYS else (height, width)
    is_banded = kind == "PNG" and not is_interlaced(file)
    coefficients = _coefficient_bytes(file) if kind == "JPEG" else 0
    header = ImageHeader(name, size, kind, orientation, is_banded, coefficients)
    _check(header, limits)
    return header


def _check(header: ImageHeader, limits: UploadLimits) -> None:
    height, width = header.size
    longer, shorter = max(header.size), min(header.size)
    if shorter < 1:
        raise ImageError(f"{header.name} has no pixels: {header.shown}")
    if longer > limits.max_ratio * shorter:
        raise ImageTooLarge(
            f"{header.name} is {header.shown}; the longer side may be at most {limits.max_ratio} times the "
            "shorter one, so cut it"
        )
    if header.num_pixels > limits.max_pixels:
        fitting = fitted(header.size, limits.max_pixels)
        raise ImageTooLarge(
            f"{header.name} has {width}x{height} pixels, more than the {limits.max_pixels:,} allowed; scale "
            f"it down to {fitting[1]}x{fitting[0]}"
        )
    least = header.work_bytes((1, 1))
    if least > limits.max_work_bytes and not header.is_banded:
        share = (limits.max_work_bytes - _BAND_BYTES) / (least - _BAND_BYTES)
        fitting = fitted(header.size, int(header.num_pixels * share))
        what = "progressive JPEG" if header.coefficient_bytes else f"{header.format} of this kind"
        raise ImageTooLarge(
            f"{header.name} is a {what} of {header.shown}, which can be decoded only as a whole; save it as "
            f"a plain PNG or JPEG, or scale it down to {fitting[1]}x{fitting[0]}"
        )


def fitted(size: Size, max_pixels: int) -> Size:
    """The size of the same shape with at most so many pixels; the size itself where it fits."""
    height, width = size
    if height * width <= max_pixels:
        return size
    scale = (max_pixels / (height * width)) ** 0.5
    return max(1, int(height * scale)), max(1, int(width * scale))


def read_image(file: BinaryIO, header: ImageHeader, size: Size | None = None) -> Image.Image:
    """The picture as RGB of 8 bits a channel, without metadata.

    Args:
        file: of the header.
        header: what `read_header` found.
        size: (height, width) it is scaled to, in neither direction more than it has; None is its own.

    Raises:
        ImageError: it is damaged.
    """
    with _told(header):
        if size is not None and header.num_pixels > _SMALL:
            return _scaled(file, header, size)
        image = _whole(_bands(file, header, None), header, "RGB", lambda band: to_rgb(band, header.name))
        return image if size in (None, header.size) else image.resize(size[::-1], Image.Resampling.BICUBIC)


def read_mask(file: BinaryIO, header: ImageHeader) -> Image.Image:
    """A mask as greyscale of its own size: 255 where its file is at least half transparent, 0 elsewhere.

    Raises:
        ImageError: it is damaged, or has no transparency.
    """
    with _told(header):
        return _whole(_bands(file, header, None), header, "L", lambda band: may_change(band, header.name))


# --- bands --------------------------------------------------------------------------------------------------

_Band = tuple[Image.Image, tuple[int, int]]  # as it is seen, and its (left, top) there


def _bands(file: BinaryIO, header: ImageHeader, size: Size | None) -> Iterator[_Band]:
    """The picture in pieces that are as wide as it is, or as high where rows lie sideways."""
    if header.is_banded:
        yield from _decoded_in_bands(file, header)
    else:
        yield from _decoded_whole(file, header, size)


def _decoded_in_bands(file: BinaryIO, header: ImageHeader) -> Iterator[_Band]:
    height, width = header.size
    is_sideways = header.orientation in _SIDEWAYS
    num_rows, row = (width, height) if is_sideways else (height, width)  # as they lie in the file
    top = 0
    for band in png_bands(file, max(1, _BAND // row)):
        bottom = top + band.height
        place = num_rows - bottom if header.orientation in (3, 4, 6, 7) else top
        yield _turned(band, header), (place, 0) if is_sideways else (0, place)
        top = bottom


def _decoded_whole(file: BinaryIO, header: ImageHeader, size: Size | None) -> Iterator[_Band]:
    image = open_header(file, header.name)
    factor = header.reduction(size)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    width, height = image.size
    is_sideways = header.orientation in _SIDEWAYS
    num_rows, row = (width, height) if is_sideways else (height, width)  # as they are seen
    count = max(1, _BAND // row)
    for top in range(0, num_rows, count):
        bottom = min(num_rows, top + count)
        first, last = (top, bottom)
        if header.orientation in (3, 4, 7, 8):
            first, last = num_rows - bottom, num_rows - top
        box = (first, 0, last, height) if is_sideways else (0, first, width, last)
        yield _turned(image.crop(box), header), (0, top)


def _turned(image: Image.Image, header: ImageHeader) -> Image.Image:
    turn = _TURNS.get(header.orientation)
    return image if turn is None else image.transpose(turn)


def _whole(
    bands: Iterator[_Band], header: ImageHeader, mode: str, made: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Bands side by side."""
    image = Image.new(mode, header.size[::-1])
    for band, place in bands:
        image.paste(made(band), place)
    return image


def _scaled(file: BinaryIO, header: ImageHeader, size: Size) -> Image.Image:
    """Each band scaled across, and then all of them along."""
    height, width = size
    image: Image.Image | None = None
    for band, (left, top) in _bands(file, header, size):
        band = to_rgb(band, header.name)
        if header.is_banded and header.orientation in _SIDEWAYS:
            image = image or Image.new("RGB", (header.size[1], height))
            image.paste(band.resize((band.width, height), Image.Resampling.BICUBIC), (left, 0))
        else:
            image = image or Image.new("RGB", (width, _seen_height(header, size)))
            image.paste(band.resize((width, band.height), Image.Resampling.BICUBIC), (0, top))
    assert image is not None
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _seen_height(header: ImageHeader, size: Size) -> int:
    """Rows of the picture as it comes from the decoder, which rounds up where it reduces."""
    return -(-header.size[0] // header.reduction(size))


# --- headers ------------------------------------------------------------------------------------------------


def _orientation(image: Image.Image) -> int:
    """What is still to be done of EXIF's, 1 to 8. Pillow's PNG reader would decode the picture to find it."""
    if image.format == "TIFF":  # Pillow turns it as it loads it
        return 1
    exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
    found = exif.get(ExifTags.Base.Orientation, 1)
    return found if found in _TURNS else 1


def _coefficient_bytes(file: BinaryIO) -> int:
    """What libjpeg keeps of the whole picture: two bytes a coefficient where it comes in several scans.

    Those are progressive files, and files whose first scan has not all components.
    """
    file.seek(2)
    frame: tuple[int, list[int], int] | None = None  # pixels, samplings, marker
    while len(start := file.read(4)) == 4:
        marker, length = struct.unpack(">HH", start)
        if marker >> 8 != 0xFF or length < 2:
            break
        content = file.read(length - 2)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC) and len(content) >= 6:
            height, width, count = struct.unpack(">HHB", content[1:6])
            frame = height * width, list(content[7 : 6 + 3 * count : 3]), marker
        elif marker == 0xFFDA and frame is not None and content:
            num_pixels, samplings, kind = frame
            is_progressive = kind in (0xFFC2, 0xFFC6, 0xFFCA, 0xFFCE)
            if not is_progressive and content[0] >= len(samplings):
                return 0
            areas = [(sampling >> 4) * (sampling & 15) for sampling in samplings]
            return 2 * num_pixels * sum(areas) // max(1, max(areas, default=1))
    return 0


@contextmanager
def _told(header: ImageHeader) -> Iterator[None]:
    """What readers raise on broken files, as an `ImageError`."""
    try:
        yield
    except ImageError as error:
        raise type(error)(str(error) if header.name in str(error) else f"{header.name}: {error}") from error
    except (Image.DecompressionBombError, *BROKEN) as error:
        raise ImageError(f"{header.name} is damaged or cut short: {error}") from error
