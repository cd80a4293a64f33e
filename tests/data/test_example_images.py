"""Sizes read from headers are the sizes that decoding gives, and nothing is decoded for them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from deepgen.data.example import Example, FileSlice, ImageLimits, RowError
from deepgen.data.example_images import example_sizes, image_size, load_image
from deepgen.data.images import ImageError
from images_on_disk import image_bytes, scene_image, write_image


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_header_gives_the_size_that_decoding_gives(tmp_path, format, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.file"
    scene_image(0, (40, 60)).save(path, format=format, exif=exif)
    image = load_image(path)
    assert image_size(path) == (image.height, image.width)
    assert image_size(path.read_bytes()) == ((60, 40) if orientation in (6, 8) else (40, 60))


def test_no_pixel_is_decoded_for_a_size(monkeypatch) -> None:
    content = {format: image_bytes(0, (32, 48), format) for format in ("PNG", "JPEG", "WEBP")}
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert {image_size(image) for image in content.values()} == {(32, 48)}


def test_a_file_inside_another_is_read_in_place(tmp_path) -> None:
    inner = image_bytes(3, (20, 30))
    (tmp_path / "outer").write_bytes(b"before" + inner + b"after")
    inside = FileSlice(tmp_path / "outer", 6, len(inner), "outer!inner")
    assert image_size(inside) == (20, 30)
    assert load_image(inside).tobytes() == Image.open(BytesIO(inner)).tobytes()


@pytest.mark.parametrize("content", [b"", b"no picture", image_bytes(0)[:20]])
def test_what_is_no_picture_is_refused(content) -> None:
    with pytest.raises(ImageError):
        image_size(content)


def test_a_missing_picture_is_named(tmp_path) -> None:
    with pytest.raises(ImageError, match=r"no picture at .*gone.png"):
        image_size(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot read a!b: No such file"):
        image_size(FileSlice(tmp_path / "gone.tar", 0, 5, "a!b"))


def test_sizes_in_the_manifest_spare_the_headers() -> None:
    example = Example(
        task="edit",
        text="",
        target=Path("gone"),
        references=(Path("gone"),),
        key="a:0",
        size=(3, 4),
        reference_sizes=((5, 6),),
    )
    assert example_sizes(example) == ((3, 4), ((5, 6),))


@pytest.mark.parametrize(
    ("size", "message"),
    [((80, 100), "must exceed 80"), ((100, 1000), "below 10 times"), ((1000, 100), "below 10 times")],
)
def test_limits_refuse_what_the_original_refuses(tmp_path, size, message) -> None:
    limits = ImageLimits(min_side=80, max_ratio=10)
    example = Example(task="generate", text="", target=Path("a"), key="a:0", size=size, limits=limits)
    with pytest.raises(RowError, match=f"a:0: .*{message}"):
        example_sizes(example)


def test_limits_accept_what_the_original_accepts(tmp_path) -> None:
    path = write_image(tmp_path / "a.png", 0, (81, 809))
    limits = ImageLimits(min_side=80, max_ratio=10)
    assert example_sizes(Example(task="generate", text="", target=path, key="a:0", limits=limits))[0] == (
        81,
        809,
    )
