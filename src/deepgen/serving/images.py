"""Images of requests and answers: bytes of addresses, files that are written, and files kept for a while.

Given pictures are read in `references.py`.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

from deepgen.data.image_files import Kind, encode_image
from deepgen.data.png import ImageRecord
from deepgen.serving.errors import invalid

MAX_FILE_BYTES = 50 * 2**20

Fetch = Callable[[str, str], bytes]  # (address, name of the field) -> file


def read_address(address: str, param: str, fetch: Fetch | None = None) -> bytes:
    """The bytes of a `data:` address; others are fetched where there is a `fetch`, and may take a while."""
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


def write_image(
    image: Image.Image, output_format: Kind, compression: int = 100, record: ImageRecord | None = None
) -> bytes:
    """A file of the picture, with its record if one is given; `compression` is the quality, 0 to 100."""
    return encode_image(image, output_format, quality=compression, record=record, compress_level=3)


def at_most(content: bytes, most: int) -> tuple[bytes, Kind]:
    """A PNG as it is where it has at most `most` bytes, otherwise a JPEG that has, made smaller if need be.

    Transparency is laid over white, as in every JPEG of ours.
    """
    if len(content) <= most:
        return content, "png"
    image = Image.open(io.BytesIO(content))
    while True:
        for quality in (92, 80):
            shown = encode_image(image, "jpeg", quality=quality)
            if len(shown) <= most:
                return shown, "jpeg"
        if max(image.size) == 1:
            raise ValueError(f"no picture has at most {most} bytes")
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))


def to_base64(content: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(content).decode()


class ImageStore:
    """Images that were asked for as addresses, kept in memory under names that cannot be guessed.

    The oldest are removed when their time is over or room is needed.

    Args:
        max_bytes: of all files together; one larger file is still kept, alone.
        keep_s: seconds a file is kept.
    """

    def __init__(self, max_bytes: int = 256 * 2**20, keep_s: float = 3600) -> None:
        self._max_bytes, self._keep_s = max_bytes, keep_s
        self._files: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, content: bytes, media_type: str, name: str | None = None) -> str:
        """Keep a file, under a `new_name` if one was promised before; its name."""
        name = name or self.new_name()
        with self._lock:
            self._files[name] = (time.monotonic() + self._keep_s, content, media_type)
            self._clear()
        return name

    @staticmethod
    def new_name() -> str:
        """A name that cannot be guessed."""
        return f"img-{secrets.token_urlsafe(18)}"

    @staticmethod
    def name_in(address: str) -> str | None:
        """The name of the file that an address of this server means; None for any other address."""
        match = re.search(r"/v1/images/(img-[\w-]{24})/content$", address[-100:], re.ASCII)
        return match[1] if match else None

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Content and media type; None where there is no such file, or no longer."""
        with self._lock:
            self._clear()
            found = self._files.get(name)
        return None if found is None else found[1:]

    def _clear(self) -> None:
        size = sum(len(content) for _, content, _ in self._files.values())
        while self._files:
            until, content, _ = next(iter(self._files.values()))
            if until > time.monotonic() and (size <= self._max_bytes or len(self._files) == 1):
                return
            self._files.popitem(last=False)
            size -= len(content)
