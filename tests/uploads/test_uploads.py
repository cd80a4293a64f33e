"""Files that strangers send: read as Pillow would, in little memory, and within budgets."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepgen.data.images import open_image
from deepgen.data.masks import open_mask
from deepgen.uploads import decoding
from deepgen.uploads.budget import Budget, OverBudget, ServerBudget, WorkSpace
from deepgen.uploads.decoding import UploadLimits, fitted, read_header, read_image, read_mask
from deepgen.uploads.middleware import MemoryMiddleware
from deepgen.uploads.rgb import ImageError, ImageTooLarge

SIZE = (61, 137)  # (height, width)


def picture(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (9, 20, 4), dtype=np.uint8)
    image = Image.fromarray(values).resize(SIZE[::-1])
    if mode == "I;16":
        deep = np.random.default_rng(1).integers(0, 65535, SIZE, dtype=np.uint16)
        return Image.fromarray(deep)
    return image.convert("RGB").quantize(12) if mode == "P" else image.convert(mode)


def file(mode: str, kind: str, orientation: int = 1, **options: Any) -> bytes:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = orientation
    picture(mode).save(content, kind, exif=exif, **options)
    return content.getvalue()


def claimed(width: int, height: int) -> bytes:
    """A PNG file of 74 bytes that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 8)[:11].ljust(17, b"\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_BAND", SIZE[1] * 7)


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "LA", "1", "P", "I;16"])
def test_bands_of_a_png_make_the_picture_that_a_whole_decoding_makes(mode: str, orientation: int) -> None:
    content = file(mode, "PNG", orientation)
    header, whole = read_header(io.BytesIO(content), "image"), open_image(content)
    assert header.is_banded
    assert header.size == (whole.height, whole.width)
    assert np.array_equal(np.asarray(read_image(io.BytesIO(content), header)), np.asarray(whole))
    scaled = read_image(io.BytesIO(content), header, (32, 32))
    assert np.array_equal(np.asarray(scaled), np.asarray(whole.resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_picture_scaled_in_bands_is_the_same_up_to_rounding(
    kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file("RGB", kind, orientation)
    header, whole = read_header(io.BytesIO(content), "image"), open_image(content)
    monkeypatch.setattr(decoding, "_SMALL", 0)
    scaled = np.asarray(read_image(io.BytesIO(content), header, (32, 32)), int)
    expected = np.asarray(whole.resize((32, 32), Image.Resampling.BICUBIC), int)
    # Pillow scales down first where a picture is high; bright edges are then cut off at another time.
    assert np.abs(scaled - expected).max() <= 12
    assert np.abs(scaled - expected).mean() < 0.5


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_in_bands_is_the_mask_of_its_file(mode: str) -> None:
    content = file(mode, "PNG", 6)
    header = read_header(io.BytesIO(content), "mask")
    assert np.array_equal(np.asarray(read_mask(io.BytesIO(content), header)), np.asarray(open_mask(content)))


@pytest.mark.usefixtures("small_bands")
def test_a_png_that_is_cut_short_is_refused_wherever_it_is_cut() -> None:
    content = file("RGBA", "PNG")
    for length in range(60, len(content) - 20, 97):
        part = io.BytesIO(content[:length])
        with pytest.raises(ImageError, match=r"damaged|cut short|not a picture"):
            read_image(part, read_header(part, "image"))


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (800, 640), "teal").save(content, "JPEG")
    monkeypatch.setattr(decoding, "_FULL_JPEG", 1000)
    monkeypatch.setattr(decoding, "_SMALL", 16_000)
    header = read_header(content, "image")
    assert header.reduction((64, 80)) == 8
    assert header.work_bytes((64, 80)) < header.work_bytes(None)
    image = read_image(content, header, (64, 80))
    assert image.size == (80, 64)
    assert np.abs(np.asarray(image, int) - [0, 128, 128]).max() <= 3


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (1, 64_000_000, "at most 16 times"),
        (9000, 9000, "scale it down to 8000x8000"),
        (40_000, 1500, "16 times"),
    ],
)
def test_a_claim_of_too_many_pixels_is_refused_by_the_header(width: int, height: int, words: str) -> None:
    content = claimed(width, height)
    assert len(content) == 74
    with pytest.raises(ImageTooLarge, match=words):
        read_header(io.BytesIO(content), "image")


def test_a_progressive_jpeg_counts_what_its_decoder_keeps() -> None:
    plain, progressive = (io.BytesIO(), io.BytesIO())
    image = Image.new("RGB", (320, 160))
    image.save(plain, "JPEG", subsampling=0)
    image.save(progressive, "JPEG", subsampling=0, progressive=True)
    assert read_header(plain, "image").coefficient_bytes == 0
    assert read_header(progressive, "image").coefficient_bytes == 320 * 160 * 3 * 2
    with pytest.raises(ImageTooLarge, match=r"progressive JPEG of 320x160.*scale it down to"):
        read_header(progressive, "image", UploadLimits(max_work_bytes=decoding._BAND_BYTES + 2**18))


def test_fitted_keeps_the_shape_and_the_limit() -> None:
    assert fitted((8000, 8000), 12 * 2**20) == (3547, 3547)
    assert fitted((30, 20), 600) == (30, 20)


def test_a_budget_says_what_never_fits_and_what_fits_later() -> None:
    emptied: list[bool] = []
    budget = Budget(100, "pixels", lambda: emptied.append(True))
    one, other = budget.lease(), budget.lease()
    one.add(70)
    with pytest.raises(OverBudget, match=r"40 pixels.*30 are free") as later:
        other.add(40)
    with pytest.raises(OverBudget, match=r"101 pixels; all requests together may hold 100") as never:
        other.add(101)
    assert (later.value.never_fits, never.value.never_fits) == (False, True)
    assert later.value.retry_after >= 1
    one.end()
    assert emptied
    other.add(100)
    other.end()
    assert budget.used == 0
    with pytest.raises(OverBudget):
        one.add(1)


def test_decoders_wait_for_their_turn_in_order() -> None:
    space = WorkSpace(10)
    large, larger, small = space.join(6), space.join(10), space.join(1)
    assert large.is_up()
    assert not larger.is_up()
    assert not small.is_up()  # it would fit, and would keep the larger one waiting for ever
    large.leave()
    assert larger.is_up()
    larger.leave()
    assert small.is_up()
    small.leave()


def run(app: Any, budget: ServerBudget, send: Any, bodies: list[bytes], length: int | None = None) -> None:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    pieces = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]

    async def receive() -> dict[str, Any]:
        return pieces.pop(0)

    middleware = MemoryMiddleware(app, budget, send_timeout_s=0.05)
    asyncio.run(middleware({"type": "http", "headers": headers}, receive, send))


def test_a_body_is_counted_as_it_comes_and_given_back_when_the_request_fails() -> None:
    budget, seen = ServerBudget.of(10, 10), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            seen.append(scope["state"]["memory"].bodies.held)
            await receive()

    with pytest.raises(OverBudget):
        run(app, budget, None, [b"12345"] * 3)
    assert seen == [0, 5, 10]
    assert budget.bodies.used == 0


def test_a_body_that_announces_too_much_is_refused_before_it_is_read() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    with pytest.raises(OverBudget, match="11 bytes"):
        run(app, ServerBudget.of(10, 10), None, [], length=11)


def test_a_client_that_stops_reading_gives_back_what_its_request_held() -> None:
    budget, sent = ServerBudget.of(10, 10), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["memory"].pixels.add(7)
        await send({"type": "http.response.body", "body": b"x" * 2**20})

    async def send(message: dict[str, Any]) -> None:
        if sent:
            await asyncio.sleep(3600)
        sent.append(len(message["body"]))

    run(app, budget, send, [])
    assert sent == [2**18]
    assert budget.pixels.used == 0
