"""Pictures become what a viewer shows: profiles, modes, orientations."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from deepgen.data.images import ImageError, open_image
from deepgen.evaluation.benchmark import Item
from deepgen.evaluation.judge import encode_image
from deepgen.image_colors import to_srgb
from deepgen.rewards.clip import prepare
from deepgen.rewards.wire import decode_image
from deepgen.rewards.wire import encode_image as encode_candidate

SOURCE = Path(__file__).parents[1] / "src" / "deepgen"
FILES = Path(__file__).parent / "image_files"
GREY = np.arange(0, 256, 5, dtype=np.uint8)


def linear_profile(space: str = "RGB ") -> bytes:
    """A version 4 matrix or grey profile with a linear curve, as ICC.1:2022 describes it."""
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)  # no entries: the identity

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))

    tags = {"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if space == "GRAY":
        tags["kTRC"] = curve
    else:  # the primaries of sRGB, adapted to D50
        tags |= {"rXYZ": xyz(0.4360, 0.2225, 0.0139), "gXYZ": xyz(0.3851, 0.7169, 0.0971)}
        tags |= {"bXYZ": xyz(0.1431, 0.0606, 0.7141), "rTRC": curve, "gTRC": curve, "bTRC": curve}
    offset, table, content = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", offset + len(content), len(data))
        content += data
    head = struct.pack(
        ">I4sI4s4s4s", offset + len(content), b"lcms", 0x04200000, b"mntr", space.encode(), b"XYZ "
    )
    head += (
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + struct.pack(">3i", 63190, 65536, 54061)
    )
    return head.ljust(128, b"\0") + table + content


def as_srgb(linear: np.ndarray) -> np.ndarray:
    """The transfer curve of IEC 61966-2-1; both in [0, 1]."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def shown(image: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    file = BytesIO()
    image.save(file, kind, **options)
    opened = open_image(file.getvalue())
    assert opened.mode == "RGB"
    assert "icc_profile" not in opened.info, "or a saved copy would be converted twice"
    return np.asarray(opened).astype(int)


def ramp(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(GREY[None]).convert(mode)


EXPECTED = np.rint(as_srgb(GREY / 255) * 255)


def test_a_linear_profile_of_a_real_file_looks_as_in_a_viewer() -> None:
    opened = np.asarray(open_image(FILES / "icc_linear.png")).astype(int)
    viewer = np.asarray(Image.open(FILES / "icc_linear_as_viewer.png")).astype(int)
    assert np.abs(opened - viewer).max() <= 2
    bare = np.asarray(Image.open(FILES / "icc_linear.png")).astype(int)
    assert np.abs(bare - viewer).max() > 30, "the file tells a bare conversion from a right one"


@pytest.mark.parametrize("name", ["1.png", "2.png", "3.png"])
def test_what_is_scored_is_turned_opaque_and_of_eight_bits(name: str) -> None:
    opened = np.asarray(open_image(FILES / "scored" / name)).astype(int)
    with Image.open(FILES / "scored" / name) as image:
        if name == "1.png":  # transparent
            alpha = np.asarray(image)[..., 3:] / 255
            expected = np.asarray(image)[..., :3] * alpha + 255 * (1 - alpha)
        elif name == "2.png":  # greyscale of 16 bits
            expected = np.stack([np.asarray(image) / 257] * 3, axis=-1)
        else:  # orientation 6: a quarter to the right
            expected = np.rot90(np.asarray(image), k=-1)
    assert np.abs(opened - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_linear_profile_of_colours_is_converted_in_every_mode(mode: str) -> None:
    made = shown(ramp(mode), icc_profile=linear_profile())
    assert np.abs(made - EXPECTED[None, :, None]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_linear_profile_of_grey_is_converted(mode: str) -> None:
    made = shown(ramp(mode), icc_profile=linear_profile("GRAY"))
    assert np.abs(made - EXPECTED[None, :, None]).max() <= 1


def test_deep_grey_with_a_profile_keeps_its_shadows() -> None:
    deep = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    made = shown(Image.fromarray(deep), icc_profile=linear_profile("GRAY"))
    assert np.abs(made - np.rint(as_srgb(deep / 65535) * 255)[..., None]).max() <= 1
    dark = np.arange(0, 1285, 5, dtype=np.uint16)[None]
    assert len(np.unique(shown(Image.fromarray(dark), icc_profile=linear_profile("GRAY")))) > 30


def test_the_profile_of_srgb_itself_changes_no_pixel() -> None:
    colors = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(shown(colors, icc_profile=profile), np.asarray(colors))


@pytest.mark.parametrize(
    "profile", [b"", b"no profile at all", linear_profile("GRAY"), linear_profile()[:200]]
)
def test_a_profile_that_is_none_or_of_other_colours_counts_as_none(profile: bytes) -> None:
    np.testing.assert_array_equal(shown(ramp(), icc_profile=profile)[0, :, 0], GREY)


def test_transparency_is_laid_on_white_after_the_colours_were_converted() -> None:
    half = Image.new("RGBA", (2, 2), (64, 64, 64, 128))
    expected = as_srgb(np.array(64 / 255)) * 128 + 255 * 127 / 255
    assert np.abs(shown(half, icc_profile=linear_profile()) - expected).max() <= 1


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    rows = b"\0" + struct.pack(">2H", 1000, 30000)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    file += (
        chunk(b"tRNS", struct.pack(">H", 1000)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert np.asarray(open_image(file))[0].tolist() == [[255] * 3, [117] * 3]


def test_cmyk_and_lab_of_tiff_become_colours() -> None:
    red, green, blue = shown(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF")[0, 0]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (2, 2), (200, 30, 40)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert np.abs(shown(lab, "TIFF")[0, 0] - (200, 30, 40)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_looks_the_same_as_the_upright_picture(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    stored = {  # how a camera stores it, EXIF 2.3, table of Orientation
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = shown(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(made, upright)


def test_the_given_picture_stays_as_it_is_and_twice_is_once() -> None:
    image = Image.new("RGBA", (3, 2), (10, 20, 30, 40))
    once = to_srgb(image)
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (10, 20, 30, 40))
    assert to_srgb(once) is once
    plain = Image.new("RGB", (2, 2))
    assert open_image(plain) is not plain


def test_greyscale_without_a_known_black_and_white_is_refused() -> None:
    with pytest.raises(ImageError, match=r"the given picture holds greyscale values outside \[0, 1\]"):
        open_image(Image.fromarray(np.full((2, 2), 3.0, np.float32)))


# --- every way in ---

# Files of our own making, headers alone, and what keeps transparency on purpose.
OWN_READERS = {
    "client.py": "what our server sent",
    "cli/prompt_file.py": "whether a picture of ours is whole",
    "data/masks.py": "the transparency of a mask",
    "data/png.py": "records in a file, not its pixels",
    "serving/images.py": "a picture that we drew, made a smaller file",
    "tiny/added_drawing.py": "a drawing with transparency, laid on a scene",
    "tiny/evaluation/chains.py": "pictures of our own run",
    "tiny/evaluation/evaluate.py": "pictures of our own run",
    "tiny/sprites.py": "the sprites of the package",
    "training/log.py": "a picture of our own run",
    "uploads/rgb.py": "open_header, which all readers of pictures from outside begin with",
    "uploads/png_bands.py": "a band of an upload",
}


def test_pictures_from_outside_are_opened_in_one_place() -> None:
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bImage\.open\(", path.read_text(encoding="utf-8"))
    }
    assert found == set(OWN_READERS)


def test_no_scorer_converts_bare() -> None:
    folders = [SOURCE / "rewards", SOURCE / "evaluation"]
    bare = [
        path for folder in folders for path in folder.rglob("*.py") if '.convert("RGB")' in path.read_text()
    ]
    assert [str(path.relative_to(SOURCE)) for path in bare] == ["evaluation/models.py"], "drawn pictures, RGB"


@pytest.mark.parametrize("name", ["icc_linear.png", "scored/1.png", "scored/2.png", "scored/3.png"])
def test_scorers_and_services_see_what_open_image_gives(name: str) -> None:
    path = FILES / name
    right = open_image(path)
    sent = base64.b64encode(path.read_bytes()).decode()
    assert decode_image(sent).tobytes() == right.tobytes()
    (reference,) = Item(id="1", category="", prompt="x", references=(path,)).open_references()
    assert reference.tobytes() == right.tobytes()
    with Image.open(path) as given:
        assert Image.open(BytesIO(encode_image(given, 0)[1])).tobytes() == right.tobytes()
    with Image.open(path) as given:
        assert Image.open(BytesIO(encode_candidate(given, "png"))).tobytes() == right.tobytes()
    with Image.open(path) as given:
        np.testing.assert_array_equal(prepare(given, 32), prepare(right, 32))
