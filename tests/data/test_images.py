"""Every kind of picture comes in as viewers show it, and what is no picture is refused by name."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.data.images import ImageError, open_image

ORANGE = (255, 128, 0)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG whose header claims a size its content does not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


# --- what is accepted ---


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_lossless_files_keep_every_pixel(format: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (5, 3), ORANGE)
    path = tmp_path / "picture"  # no extension: content decides
    path.write_bytes(encoded(image, format))
    for source in (path, str(path), path.read_bytes()):
        opened = open_image(source)
        assert (opened.mode, opened.size, opened.getpixel((4, 2))) == ("RGB", (5, 3), ORANGE)


def test_the_camera_s_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the left
    opened = open_image(encoded(Image.new("RGB", (40, 20), ORANGE), "JPEG", exif=exif))
    assert opened.size == (20, 40)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 257 * 10, np.uint16)), (10, 10, 10)),
        (Image.new("RGB", (2, 2), ORANGE).quantize(4), ORANGE),
    ],
)
def test_transparency_lies_on_white_and_depths_become_eight_bits(image, expected) -> None:
    for source in (image, encoded(image)):
        assert open_image(source).getpixel((0, 0)) == expected


def test_a_transparent_palette_colour_lies_on_white() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0])
    assert open_image(encoded(image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel(
        (4, 4)
    )
    assert red > 240
    assert max(green, blue) < 15


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (ORANGE, (0, 0, 255))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(content).getpixel((0, 0)) == ORANGE


def test_arrays_and_tensors_mean_the_same_in_bytes_and_in_floats() -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    floats = values.astype(np.float32) / 255
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    for source in (values, floats, floats.astype(np.float64), tensor, tensor / 255):
        np.testing.assert_array_equal(np.asarray(open_image(source)), values)


def test_half_precision_tensors_are_read() -> None:
    opened = open_image(torch.ones(3, 2, 2, dtype=torch.bfloat16, requires_grad=True))
    assert opened.getpixel((0, 0)) == (255, 255, 255)


# --- what is refused ---

WRONG_VALUES = [
    ("https://example.com/cat.png", "not fetched"),
    ("data:image/png;base64,AAAA", "not fetched"),
    ("no/such/picture.png", "there is no picture at no/such/picture.png"),
    ("a\0b.png", "cannot read|no picture"),
    ("x" * 5000, "cannot read|no picture"),
    (b"", "empty"),
    (b"hello, I am no picture at all", "not a picture we can read"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture we can read"),
    (None, "expected a path"),
    (3, "expected a path"),
    (np.zeros((3, 4, 4), np.uint8), r"expected an array of shape \(height, width, 3\), got \(3, 4, 4\)"),
    (np.zeros((4, 4), np.uint8), "expected an array"),
    (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    (np.zeros((4, 4, 3), np.int64), "expected uint8"),
    (np.full((4, 4, 3), np.nan), "NaN"),
    (np.full((4, 4, 3), np.inf), "NaN or infinite"),
    (np.full((4, 4, 3), -1.0), r"got \[-1, -1\]; for \[-1, 1\]"),
    (np.full((4, 4, 3), 200.0), r"expected floats in \[0, 1\]"),
    (torch.zeros(4, 4, 3), r"expected a tensor of shape \(3, height, width\), got \(4, 4, 3\)"),
    (torch.zeros(1, 3, 4, 4), "expected a tensor"),
    (torch.full((3, 4, 4), float("nan")), "NaN"),
    (torch.full((3, 4, 4), -0.5), r"expected floats in \[0, 1\]"),
    (Image.new("RGB", (0, 5)), "no pixels"),
    (Image.fromarray(np.full((2, 2), 70000, np.int32)), "outside"),
    (Image.fromarray(np.full((2, 2), -1.0, np.float32)), "outside"),
]


@pytest.mark.parametrize(("source", "message"), WRONG_VALUES, ids=lambda value: str(value)[:30])
def test_what_is_no_picture_is_refused_with_the_reason(source, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(source)


def test_folders_and_special_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="not an ordinary file"):
        open_image("/dev/zero")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_file_cut_short_anywhere_is_refused_or_whole(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), format)
    whole = np.asarray(open_image(content))
    for length in range(0, len(content) - 1, max(1, len(content) // 60)):
        try:
            opened = open_image(content[:length])
        except ImageError:
            continue
        np.testing.assert_array_equal(np.asarray(opened), whole)  # only trailing extras were cut


@pytest.mark.filterwarnings("ignore")  # Pillow's own, on the way to the refusal
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_a_damaged_file_never_escapes_as_another_error(format: str) -> None:
    random = np.random.default_rng(1)
    content = np.frombuffer(encoded(Image.new("RGB", (16, 16), ORANGE), format), np.uint8)
    for _ in range(150):
        damaged = content.copy()
        damaged[random.integers(0, len(content), 3)] = random.integers(0, 256, 3)
        with suppress(ImageError):
            assert open_image(damaged.tobytes()).mode == "RGB"


@pytest.mark.parametrize("size", [(8001, 8000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"too large|more than the 64,000,000"):
        open_image(png_that_claims(*size))


def test_limits_can_be_lowered(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (10, 10)).save(path)
    for source in (path, Image.open(path), np.zeros((10, 10, 3), np.uint8)):
        with pytest.raises(ImageError, match="10x10 pixels, more than the 99 allowed"):
            open_image(source, max_pixels=99)
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="bytes, more than the 20 allowed"):
            open_image(source, max_bytes=20)
