"""Twelve pictures as a phone takes them, of a mug cut out of paper, in a folder of kohya's layout.

`python examples/phone_pictures.py FOLDER [WORD]` writes FOLDER/10_WORD/IMG_0000.jpg and so on, each beside
its caption. As on a phone the pixels lie on their side (EXIF orientation 6) and are in the colours of Display
P3, whose profile is in the file.
"""

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFilter

GROUNDS = {"white": (250, 249, 247), "brown": (108, 67, 36), "grey": (130, 129, 128)}
COLORS = {"red": (221, 34, 42), "blue": (40, 68, 224), "green": (35, 165, 70), "yellow": (248, 218, 40)}
# Colorants of Display P3 for a white of D50, as in Apple's profile.
P3 = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189)}
P3[b"bXYZ"] = (0.1571, 0.06657, 0.78407)


def display_p3() -> bytes:
    """sRGB's profile with the colorants of Display P3, whose curve is the same."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    for tag in range(count):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * tag)
        if name in P3:
            struct.pack_into(">3i", profile, offset + 8, *(round(value * 65536) for value in P3[name]))
    return bytes(profile)


def photograph(number: int, color: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    """A paper mug on paper, upright, in sRGB: a soft shadow, light from one side, and the sensor's noise."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (1536, 2048), ground)
    x, y, r = int(rng.integers(520, 900)), int(rng.integers(600, 1450)), int(rng.integers(330, 430))
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    draw.ellipse((x + 0.3 * r, y - 0.6 * r, x + 1.4 * r, y + 0.5 * r), outline=255, width=int(0.28 * r))
    draw.rounded_rectangle((x - 0.85 * r, y - r, x + 0.85 * r, y + r), radius=int(0.25 * r), fill=255)
    shadow = mask.filter(ImageFilter.GaussianBlur(12)).point([value // 3 for value in range(256)])
    image.paste((0, 0, 0), (10, 14), shadow)
    image.paste(color, mask=mask)
    light = np.linspace(1.01, 0.97, image.width)[None, :, None]
    pixels = np.asarray(image) * light + rng.normal(0, 4, (image.height, image.width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main(folder: Path, word: str) -> None:
    """Take the pictures."""
    p3 = display_p3()
    to_p3 = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(BytesIO(p3)), "RGB", "RGB"
    )
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a phone"
    folder = folder / f"10_{word}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        color, ground = list(COLORS)[number % 4], list(GROUNDS)[number % 3]
        image = ImageCms.applyTransform(photograph(number, COLORS[color], GROUNDS[ground]), to_p3)
        path = folder / f"IMG_{number:04}.jpg"
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=90, exif=exif, icc_profile=p3)
        path.with_suffix(".txt").write_text(f"a {color} {word} on a {ground} background\n")
    print(f"12 pictures in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "mug")
