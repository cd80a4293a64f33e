"""Pictures in every format that is written: each carries its record, which other programs can read too."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepgen.data.image_files import KINDS, encode_image, kind_of, misfit, save_image
from deepgen.data.png import ImageRecord, exif_of, read_record

RAMP = Image.linear_gradient("L").resize((64, 48))
IMAGE = Image.merge("RGB", [RAMP, RAMP.rotate(180), RAMP])
RECORD = ImageRecord(
    prompt='ein grüner Stern, 星 🌟, "quoted"\nsecond line\u2028third',
    negative_prompt="blurry",
    seed=2**40,
    num_inference_steps=16,
    guidance_scale=2.5,
    width=64,
    height=48,
    solver="euler",
    preset="exact",
    model="tiny",
    image=("a.png", "bé.png"),
    mask="mask.png",
    drawn_width=32,
    drawn_height=32,
)
LOSSY = (".jpg", ".jpeg", ".webp")


@pytest.mark.parametrize("suffix", [*KINDS, ".JPG"])
def test_a_record_comes_back_from_every_format_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    save_image(IMAGE, path, RECORD)
    assert read_record(path) == RECORD
    with Image.open(path) as image:
        assert image.format == {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}[kind_of(path)]
        assert image.mode == "RGB"
        difference = np.abs(np.asarray(image, int) - np.asarray(IMAGE, int))
    assert difference.max() <= (0 if suffix == ".png" else 12)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_other_programs_find_the_record_in_the_exif_data(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    save_image(IMAGE, path, RECORD)
    with Image.open(path) as image:
        exif = image.getexif()
    assert exif[0x0131].startswith("deepgen ")
    comment = exif.get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert json.loads(comment[8:].decode("utf-16-be"))["deepgen"]["prompt"] == RECORD.prompt


def test_a_record_is_read_in_the_other_byte_order_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.load(exif_of(RECORD))
    comment = exif.get_ifd(0x8769)[0x9286]
    exif.get_ifd(0x8769)[0x9286] = comment[:8] + comment[8:].decode("utf-16-be").encode("utf-16-le")
    IMAGE.save(tmp_path / "a.jpg", exif=exif)
    assert read_record(tmp_path / "a.jpg") == RECORD


@pytest.mark.parametrize("comment", [b"", b"ASCII\0\0\0hello", b"UNICODE\0", b"UNICODE\0\0{", b"\xff" * 9])
def test_comments_of_other_programs_are_no_record(comment: bytes, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    IMAGE.save(tmp_path / "a.jpg", exif=exif)
    IMAGE.save(tmp_path / "b.jpg")
    assert read_record(tmp_path / "a.jpg") is None
    assert read_record(tmp_path / "b.jpg") is None


@pytest.mark.parametrize("suffix", KINDS)
def test_without_a_record_a_file_says_nothing(suffix: str, tmp_path: Path) -> None:
    save_image(IMAGE, tmp_path / f"a{suffix}")
    assert read_record(tmp_path / f"a{suffix}") is None
    assert b"deepgen" not in (tmp_path / f"a{suffix}").read_bytes()


def test_a_lower_quality_is_a_smaller_file(tmp_path: Path) -> None:
    for suffix in LOSSY:
        sizes = []
        for quality in (20, None):  # None is 95
            save_image(IMAGE, tmp_path / f"a{suffix}", quality=quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        assert sizes == sorted(set(sizes))


def test_transparency_is_laid_on_white_where_a_format_has_none() -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    half = Image.new("LA", (16, 16), (0, 128))
    for given, grey in ((clear, 255), (half, 127)):
        opened = Image.open(BytesIO(encode_image(given, "jpeg")))
        assert opened.mode == "RGB"
        assert abs(np.asarray(opened, int) - grey).max() <= 2
        for kind in ("png", "webp"):
            assert Image.open(BytesIO(encode_image(given, kind))).has_transparency_data


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_pictures_of_other_modes_are_written_in_every_format(mode: str) -> None:
    for kind in ("png", "jpeg", "webp"):
        assert Image.open(BytesIO(encode_image(Image.new(mode, (8, 8)), kind))).size == (8, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", r"written as \.png, \.jpg, \.jpeg, \.webp, and \.gif is none of them; try a\.png"),
        ("a", r"the name has no suffix; try a\.png"),
        ("a.jpg.part", r"\.part is none of them"),
    ],
)
def test_other_suffixes_are_refused_with_those_there_are(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind_of(Path(name))


def test_what_a_format_cannot_hold_is_known_before_anything_is_drawn(tmp_path: Path) -> None:
    assert misfit("png", (20000, 30), "x" * 100_000) == ""
    assert misfit("webp", (16383, 30), "x" * 100_000) == ""
    assert misfit("jpeg", (65500, 30), "x" * 8000) == ""
    assert "30x20000 is too large for a webp file, whose sides end at 16383" in misfit("webp", (20000, 30))
    assert "too long to be kept in a JPEG" in misfit("jpeg", None, "x" * 40_000)
    with pytest.raises(ValueError, match="16383 pixels"):
        encode_image(Image.new("L", (1, 16384)), "webp")
    with pytest.raises(ValueError, match="too long for a JPEG"):
        encode_image(IMAGE, "jpeg", record=replace(RECORD, prompt="x" * 40_000))
    long = replace(RECORD, prompt="星\n" * 20_000)
    save_image(IMAGE, tmp_path / "a.webp", long)
    assert read_record(tmp_path / "a.webp") == long


@pytest.mark.parametrize("letter", ["x", '"', "星", "🌟", "\x01"])
def test_every_prompt_that_passes_the_check_fits_into_a_jpeg(letter: str, tmp_path: Path) -> None:
    lengths = range(0, 40_000, 250)
    longest = max(length for length in lengths if not misfit("jpeg", None, letter * length))
    record = replace(RECORD, prompt=letter * longest, negative_prompt=None)
    save_image(IMAGE, tmp_path / "a.jpg", record)
    assert read_record(tmp_path / "a.jpg") == record
    assert longest >= 5000  # six characters of JSON each at worst


@pytest.mark.parametrize("name", ["", ".png", "/", ".jpgg"])
def test_a_name_without_a_stem_is_answered_with_a_name_that_can_be_written(name: str) -> None:
    with pytest.raises(ValueError, match=r"; try out\.png$"):
        kind_of(Path(name))
