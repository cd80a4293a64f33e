"""Bands of rows of a PNG file, one after the other, without the whole picture in memory.

Pillow decodes a PNG whole. A row of a PNG depends only on the row above it, though, so a file of its own can
be made of some rows and the last one before them, and Pillow decodes that. Whatever Pillow knows of colour
types, palettes and transparency therefore holds here, too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image

from deepgen.uploads.rgb import ImageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_GREY, _PALETTE = 0, 3
_PIECE = 1 << 16  # bytes read at once
_PASSED_ON = (b"PLTE", b"tRNS", b"iCCP")  # chunks that say what the values of pixels mean
_LONGEST = 1024  # bytes of such a chunk; a palette has 768
_LONGEST_PROFILE = 1 << 18  # of a colour profile, which is left out where it is longer


@dataclass(frozen=True)
class _Rows:
    """How rows lie in the file: their width in pixels, bits of a value, and colour type."""

    width: int
    depth: int
    colour: int

    @property
    def num_bytes(self) -> int:
        """Of a row, with the byte that names its filter."""
        return 1 + (self.width * self.depth * _CHANNELS[self.colour] + 7) // 8


def is_interlaced(file: BinaryIO) -> bool:
    """Whether a PNG file's rows come in seven passes; those cannot be read in bands."""
    file.seek(28)
    return file.read(1) != b"\x00"


def png_bands(file: BinaryIO, num_rows: int) -> Iterator[Image.Image]:
    """Pictures of so many rows each, the last one of what is left, as Pillow decodes them.

    Raises:
        ImageError: the file is damaged or cut short.
    """
    header, meaning, length = _start(file)
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    in_file, rows = _Rows(width, depth, colour), _Rows(width, depth, colour)
    if depth == 16 and colour not in (_GREY, _PALETTE):
        # Pillow takes the high bytes of such colours, and filters work on each byte of a pixel apart.
        rows = _Rows(width, 8, colour)
    data, above = _Inflated(_picture_data(file, length)), b""
    for top in range(0, height, num_rows):
        count = min(num_rows, height - top)
        content = data.read(count * in_file.num_bytes)
        if in_file != rows:
            content = _high_bytes(content, in_file.num_bytes)
        band = _decoded(rows, meaning, above + content)
        above = b"\0" + _last_row(band, rows, above + content)  # filter 0: the values as they are
        yield band if top == 0 else band.crop((0, 1, width, count + 1))


def _start(file: BinaryIO) -> tuple[bytes, bytes, int]:
    """(content of IHDR, chunks passed on, length of the first IDAT), at which the file then stands."""
    file.seek(len(_SIGNATURE))
    header, meaning = b"", b""
    while True:
        length, kind = struct.unpack(">I4s", _read(file, 8))
        if kind == b"IDAT" and header:
            return header, meaning, length
        if kind == b"iCCP" and length > _LONGEST_PROFILE:
            file.seek(length + 4, 1)
        elif kind == b"IHDR" or kind in _PASSED_ON:
            longest = _LONGEST_PROFILE if kind == b"iCCP" else _LONGEST
            content = _read(file, min(length, longest))
            if len(content) < length:
                break
            file.seek(4, 1)
            if kind == b"IHDR":
                header = content
            else:
                meaning += _chunk(kind, content)
        else:
            file.seek(length + 4, 1)
    raise ImageError("the PNG file is damaged")


def _picture_data(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The content of neighbouring IDAT chunks; the file stands in the first."""
    while True:
        while length:
            content = _read(file, min(length, _PIECE))
            length -= len(content)
            yield content
        file.seek(4, 1)
        length, kind = struct.unpack(">I4s", _read(file, 8))
        if kind != b"IDAT":
            return


class _Inflated:
    """Rows of a picture out of its compressed data, no more at a time than is asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._inflate, self._rest = pieces, zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        """So many bytes; `ImageError` where there are fewer."""
        found = bytearray()
        while len(found) < count:
            self._rest = self._rest or next(self._pieces, b"")
            if not self._rest or self._inflate.eof:
                raise ImageError("the PNG file is cut short")
            found += self._inflate.decompress(self._rest, count - len(found))
            self._rest = self._inflate.unconsumed_tail
        return bytes(found)


def _high_bytes(content: bytes, num_bytes: int) -> bytes:
    """Rows of 16-bit values as rows of their high bytes."""
    values = np.frombuffer(content, np.uint8).reshape(-1, num_bytes)
    return np.concatenate([values[:, :1], values[:, 1::2]], axis=1).tobytes()


def _decoded(rows: _Rows, meaning: bytes, content: bytes) -> Image.Image:
    """Filtered rows as a picture."""
    height = len(content) // rows.num_bytes
    header = struct.pack(">IIBBBBB", rows.width, height, rows.depth, rows.colour, 0, 0, 0)
    file = BytesIO()
    file.write(_SIGNATURE + _chunk(b"IHDR", header) + meaning)
    file.write(_chunk(b"IDAT", zlib.compress(content, 0)))
    file.write(_chunk(b"IEND", b""))
    file.seek(0)
    image = Image.open(file, formats=("PNG",))
    image.load()
    return image


def _last_row(band: Image.Image, rows: _Rows, content: bytes) -> bytes:
    """The bytes of the last row without a filter."""
    if rows.depth < 8:  # several pixels a byte: read as grey bytes, which have the same neighbours
        band = _decoded(_Rows(rows.num_bytes - 1, 8, _GREY), b"", content)
    row = band.crop((0, band.height - 1, band.width, band.height))
    if rows.depth == 16:
        return np.asarray(row).astype(">u2").tobytes()
    return row.tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _read(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ImageError("the PNG file is cut short")
    return content
