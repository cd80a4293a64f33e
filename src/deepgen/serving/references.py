"""Pictures given to an edit: judged by their headers, counted, and decoded no larger than
the model reads them.

The order matters. First all headers are read, which costs nothing; then what the request will hold is taken
from the server's budget, the pictures to be answered included; only then is a pixel decoded, one picture at a
time, and its file let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import BinaryIO

from PIL import Image

from deepgen.image_sizes import SizeRules
from deepgen.serving.errors import ApiError, invalid
from deepgen.serving.images import MAX_FILE_BYTES
from deepgen.serving.schema import Limits
from deepgen.uploads.budget import OverBudget, WorkSpace
from deepgen.uploads.decoding import (
    ImageHeader,
    Size,
    UploadLimits,
    fitted,
    read_header,
    read_image,
    read_mask,
)
from deepgen.uploads.middleware import RequestMemory, refusal
from deepgen.uploads.rgb import ImageError, ImageTooLarge

_LOOK_S = 0.01  # seconds between two looks whether there is room to decode


@dataclass(frozen=True)
class AskedSize:
    """How large the answer of a request is.

    Attributes:
        n: pictures.
        height, width: that are drawn, where they are asked for.
        final: (height, width) that the pictures are brought to, where it is another.
    """

    n: int
    height: int | None = None
    width: int | None = None
    final: Size | None = None


@dataclass
class ReferenceFiles:
    """Files of one request that are not decoded yet; each is let go once it is."""

    images: list[BinaryIO] = field(default_factory=list)
    mask: BinaryIO | None = None

    @staticmethod
    def of(images: list[bytes], mask: bytes | None = None) -> ReferenceFiles:
        """Files that are in memory; the list is emptied."""
        files = ReferenceFiles([BytesIO(content) for content in images], mask and BytesIO(mask))
        images.clear()
        return files

    def close(self) -> None:
        """Let go what is left."""
        with ExitStack() as stack:
            for file in [*self.images, *([self.mask] if self.mask else [])]:
                stack.callback(file.close)
        self.images, self.mask = [], None


@dataclass(frozen=True)
class References:
    """Pictures of an edit as the engine takes them; see `GenerationRequest`."""

    images: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    source_size: Size | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """What will be done: at which sizes pictures are read (None: their own), and how large the answer is."""

    sizes: list[Size | None]
    headers: list[ImageHeader]
    mask: ImageHeader | None
    answer: Size
    remarks: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """Pixels of what is given."""
        sizes = [size or header.size for size, header in zip(self.sizes, self.headers, strict=True)]
        return sum(height * width for height, width in sizes) + (self.mask.num_pixels if self.mask else 0)


class ReferenceReader:
    """Reads the pictures of requests.

    Args:
        limits: what a request may bring.
        rules: sizes of the model.
        space: what decoders may use.
    """

    def __init__(self, limits: Limits, rules: Callable[[], SizeRules], space: WorkSpace) -> None:
        self._limits, self._rules, self._space = limits, rules, space
        self._image_limits = UploadLimits(max_pixels=limits.max_reference_pixels, max_ratio=limits.max_ratio)

    async def read(
        self, memory: RequestMemory, files: ReferenceFiles, asked: AskedSize, *, is_first_kept: bool = False
    ) -> References:
        """The pictures; what the request will hold is taken from its memory, and its files are let go.

        With `is_first_kept` pixels of the first come back in the result, so it is read as large as that.

        Raises:
            ApiError: 400, 413 or 429 says what is wrong, and what would fit.
        """
        from starlette.concurrency import run_in_threadpool

        try:
            reading = await run_in_threadpool(self._plan, files, asked, is_first_kept)
            _hold(memory, reading, asked.n)
            images: list[Image.Image] = []
            for size, header in zip(reading.sizes, reading.headers, strict=True):
                with files.images.pop(0) as file:
                    images.append(await self._decode(header, size, partial(read_image, file, header, size)))
            mask = None
            if files.mask is not None and reading.mask is not None:
                mask = await self._decode(
                    reading.mask, None, partial(read_mask, files.mask, reading.mask), "mask"
                )
        finally:
            files.close()
        memory.bodies.give_back()
        source_size = reading.answer if images and asked.height is None and asked.width is None else None
        return References(tuple(images), mask, source_size, reading.remarks)

    def _plan(self, files: ReferenceFiles, asked: AskedSize, is_first_kept: bool) -> _Reading:
        """Reads headers."""
        count, limits = len(files.images), self._limits
        if count > limits.max_references:  # of a chat; forms and JSON have been checked
            raise invalid(f"{count} pictures; the limit is {limits.max_references}", "image")
        names = ["image"] if count == 1 else [f"image {index + 1}" for index in range(count)]
        headers = [self._header(file, name) for file, name in zip(files.images, names, strict=True)]
        mask = None if files.mask is None else self._header(files.mask, "mask")
        self._check_sum([*headers, *([mask] if mask else [])])
        height, width = asked.height, asked.width
        rules = self._rules()
        if height is not None or width is not None:
            rules.drawn(None, 1, height, width)
        remarks: tuple[str, ...] = ()
        answer = (rules.height if height is None else height, rules.width if width is None else width)
        if asked.final is not None:
            answer = asked.final
        elif headers and height is None and width is None:
            first = headers[0]
            answer = fitted(first.size, limits.max_edit_pixels)
            if answer != first.size and mask is None:
                remarks = (
                    f"the picture given has {first.shown} pixels, and edits come back with at most "
                    f"{limits.max_edit_pixels:,}: this one is {answer[1]}x{answer[0]}",
                )
        if mask is not None:
            self._check_mask(mask, headers)
        sizes = [_reading_size(header, rules.reference(header.size, height, width)) for header in headers]
        if mask is not None and sizes:
            sizes[0] = None  # what the mask keeps comes from it
        elif is_first_kept and sizes:
            sizes[0] = _reading_size(headers[0], answer)
        return _Reading(sizes, headers, mask, answer, remarks)

    def _header(self, file: BinaryIO, name: str) -> ImageHeader:
        param = "mask" if name == "mask" else "image"
        if file.seek(0, 2) > MAX_FILE_BYTES:
            message = f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; save it as a JPEG, or scale it down"
            raise ApiError(413, message, param=param, code="image_too_large")
        try:
            return read_header(file, name, self._image_limits)
        except ImageError as error:
            raise _refused(error, param) from error

    def _check_sum(self, headers: list[ImageHeader]) -> None:
        total, limit = sum(header.num_pixels for header in headers), self._limits.max_given_pixels
        if total > limit:
            height, width = fitted(headers[0].size, limit // len(headers))
            raise ApiError(
                413,
                f"{len(headers)} pictures have {total:,} pixels together, and a request may bring {limit:,}; "
                f"scale them down to {width}x{height}",
                param="image",
                code="image_too_large",
            )

    def _check_mask(self, mask: ImageHeader, headers: list[ImageHeader]) -> None:
        if not headers:
            raise invalid("mask marks what may change in a picture; give the picture as well", "mask")
        first, limit = headers[0], self._limits.max_edit_pixels
        if mask.size != first.size:
            raise invalid(
                f"mask is {mask.shown} and the first picture {first.shown}; they must be equally large",
                "mask",
            )
        if first.num_pixels > limit:  # scaled down it would not be kept pixel for pixel
            height, width = fitted(first.size, limit)
            raise ApiError(
                413,
                f"a picture that is edited with a mask may have {limit:,} pixels, and this one is "
                f"{first.shown}; scale both down to {width}x{height}",
                param="mask",
                code="image_too_large",
            )

    async def _decode(
        self, header: ImageHeader, size: Size | None, work: Callable[[], Image.Image], param: str = "image"
    ) -> Image.Image:
        """The work's picture, once there is room for it."""
        from starlette.concurrency import run_in_threadpool

        turn = self._space.join(header.work_bytes(size))
        try:
            while not turn.is_up():
                await asyncio.sleep(_LOOK_S)
            return await run_in_threadpool(work)
        except ImageError as error:
            raise _refused(error, param) from error
        finally:
            turn.leave()


def _reading_size(header: ImageHeader, size: Size) -> Size | None:
    """The size a picture is scaled to while it is decoded; None where the model reads no fewer pixels."""
    height, width = header.size
    return size if size != header.size and size[0] <= height and size[1] <= width else None


def _hold(memory: RequestMemory, reading: _Reading, count: int) -> None:
    """Take the pixels of a request."""
    each = reading.answer[0] * reading.answer[1]
    try:
        memory.pixels.add(reading.held + count * each)
    except OverBudget as error:
        status, _ = refusal(error)
        fitting = (error.free if status == 429 else error.limit) - reading.held
        hint = ""
        if fitting >= each and count > 1:
            hint = f"; n of at most {fitting // each} would fit"
        elif status == 413 and fitting > 0:
            height, width = fitted(reading.answer, fitting // count)
            hint = f"; a size of at most {width}x{height} would fit"
        raise over_budget(error, hint) from error


def over_budget(error: OverBudget, hint: str = "") -> ApiError:
    """The refusal of a request that would hold too much."""
    status, _ = refusal(error)
    code = f"too_many_{error.unit}" if status == 413 else f"{error.unit}_in_flight"
    retry_after = None if status == 413 else error.retry_after
    return ApiError(status, f"{error}{hint}", code=code, retry_after=retry_after)


def _refused(error: ImageError, param: str) -> ApiError:
    if isinstance(error, ImageTooLarge):
        return ApiError(413, str(error), param=param, code="image_too_large")
    return invalid(str(error), param, "invalid_image")
