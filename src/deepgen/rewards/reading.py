"""Pictures of a request to the reward service: counted, decoded in bounded memory, and each only once.

Candidates of one prompt share their references, which come as the same text with each of them.
"""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from typing import Any

from PIL import Image

from deepgen.rewards.reward import CannotJudge
from deepgen.uploads.budget import Lease, WorkSpace
from deepgen.uploads.decoding import ImageHeader, UploadLimits, fitted, read_header, read_image
from deepgen.uploads.rgb import ImageError

FORMATS = ("PNG", "JPEG", "WEBP")


def decode_base64(text: Any) -> bytes:
    """The file in a base64 text; CannotJudge for anything else."""
    if not isinstance(text, str):
        raise CannotJudge(f"a picture is base64 text, got {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CannotJudge(f"the picture is not base64: {error}") from error


def header_of(file: BytesIO, limits: UploadLimits) -> ImageHeader:
    """What a file claims to be; CannotJudge where it is no picture, or too large to be decoded."""
    try:
        header = read_header(file, "the picture", limits)
    except ImageError as error:
        raise CannotJudge(f"the picture cannot be read: {error}") from error
    if header.format not in FORMATS:
        raise CannotJudge(f"the picture cannot be read: {header.format} is none of {', '.join(FORMATS)}")
    return header


class RequestImages:
    """Decodes the pictures of one request.

    Args:
        held: pixels that the request holds; `OverBudget` where they do not fit.
        space: what decoders may use.
        limits: of each file.
        max_kept_pixels: a larger picture is scaled down to that while it is decoded.
    """

    def __init__(self, held: Lease, space: WorkSpace, limits: UploadLimits, max_kept_pixels: int) -> None:
        self._held, self._space, self._limits, self._max_kept = held, space, limits, max_kept_pixels
        self._known: dict[str, Image.Image] = {}
        self.remarks: list[str] = []

    def __call__(self, text: Any) -> Image.Image:
        """The RGB picture in a base64 text; CannotJudge for anything else."""
        if isinstance(text, str) and text in self._known:
            return self._known[text]
        file = BytesIO(decode_base64(text))
        header = header_of(file, self._limits)
        size = fitted(header.size, self._max_kept)
        if size != header.size:
            self.remarks.append(f"a picture of {header.shown} was read at {size[1]}x{size[0]}")
        self._held.add(size[0] * size[1])
        turn = self._space.join(header.work_bytes(size))
        try:
            turn.wait()
            image = read_image(file, header, size)
        except ImageError as error:
            raise CannotJudge(f"the picture cannot be read: {error}") from error
        finally:
            turn.leave()
        self._known[text] = image
        return image
