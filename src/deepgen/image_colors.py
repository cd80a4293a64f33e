"""Colours as a viewer shows them: any Pillow picture becomes 8-bit sRGB, turned and laid on white.

What comes from outside is read with this, by the model, by scorers and by services alike, so that a picture
is never judged as something else than people see. `deepgen.data.images.open_image` does the same for files,
bytes and arrays, and judges them before they are decoded; this file stands lower, since rewards use it too.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

# What Pillow's readers raise on files that are cut short or made up.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
_ORIENTATION = 0x0112
_PROFILE = "icc_profile"
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
# The modes a profile of a colour space (its signature, ICC.1:2022, 7.2.6) can describe.
_MODES = {"RGB ": ("RGB",), "GRAY": ("L",), "CMYK": ("CMYK",)}


class GreyscaleRangeError(ValueError):
    """Greyscale whose black and white are not known."""


def to_srgb(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it, in RGB of 8 bits a channel.

    Turned as its EXIF orientation says; its ICC profile converted to sRGB; transparency (an alpha channel, a
    transparent palette entry or colour) laid on white; greyscale of 16 bits or of floats scaled, not clipped.
    A profile that cannot be read, or that is of another colour space than the picture, counts as none, as
    in browsers. Of RGB with 16 bits a channel Pillow reads the upper 8.

    The given picture is left as it is; it is returned itself where nothing is to be done.

    Raises:
        GreyscaleRangeError: greyscale values outside [0, 65535], or for floats outside [0, 1].
        OSError, SyntaxError, ...: `BROKEN`, for a file that is cut short or damaged.
    """
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    profile = image.info.get(_PROFILE)
    if image.mode == "RGB" and profile is None and "transparency" not in image.info:
        return image
    alpha = _alpha(image)
    shown = _colors(image, profile if isinstance(profile, bytes) else b"")
    if alpha is not None:
        shown = Image.composite(shown, Image.new("RGB", shown.size, "white"), alpha)
    shown.info = {key: value for key, value in image.info.items() if key not in (_PROFILE, "transparency")}
    return shown


def _orientation(image: Image.Image) -> int:
    """From 1 (upright) to 8, as a viewer takes it."""
    return image.getexif().get(_ORIENTATION, 1)


def _alpha(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is (mode L); None where all are."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # Pillow has no conversion that respects it
        if not isinstance(transparent, int):
            return None
        return Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8))
    if image.mode in _WITH_ALPHA or transparent is not None:
        return image.convert("RGBA").getchannel("A")
    return None


def _colors(image: Image.Image, profile: bytes) -> Image.Image:
    """The colours in sRGB, without regard to transparency."""
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return _applied(ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB"), image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_grey(image)
    mode = {"LA": "L", "La": "L", "1": "L"}.get(image.mode, image.mode)
    mode = mode if mode in ("L", "I;16", "CMYK") else "RGB"
    if mode == "L" and image.mode == "La":
        image = image.convert("LA")
    elif mode == "RGB" and image.mode in ("RGBa", "P", "PA"):
        image = image.convert("RGBA")  # a palette may hold alpha, which is taken apart before
    plain = image if image.mode == mode else _without_alpha(image, mode)
    transform = _transform(profile, "L" if mode == "I;16" else mode) if profile else None
    if mode == "I;16":
        return _from_deep_grey(plain, transform)
    return plain.convert("RGB") if transform is None else _applied(transform, plain)


def _without_alpha(image: Image.Image, mode: str) -> Image.Image:
    """Colour channels alone, as they stand."""
    if image.mode == "LA":
        return image.getchannel("L")
    if image.mode == "RGBA":
        return Image.merge("RGB", image.split()[:3])
    return image.convert(mode)


def _deep_grey(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits, which `convert` would clip, with 16 bits (mode I;16)."""
    values = np.asarray(image)
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise GreyscaleRangeError(f"greyscale values outside [0, {top:g}]; save it as an 8 or 16-bit picture")
    return Image.fromarray(np.rint(values * (65535.0 / top)).astype("<u2"))


def _from_deep_grey(image: Image.Image, transform: Any) -> Image.Image:
    """A picture of mode I;16 in RGB; the transform is known at 256 levels and linear between them."""
    levels = np.arange(256, dtype=np.uint8)
    shown = np.stack([levels] * 3, axis=-1)
    if transform is not None:
        shown = np.asarray(_applied(transform, Image.fromarray(levels[None])))[0]  # (256, 3)
    values = np.asarray(image) / 257
    channels = [np.interp(values, levels, shown[:, channel]) for channel in range(3)]
    return Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))


def _applied(transform: Any, image: Image.Image) -> Image.Image:
    made = ImageCms.applyTransform(image, transform)
    assert made is not None  # it is None only in place
    return _converted(made)


def _converted(image: Image.Image) -> Image.Image:
    """Without the profile that Pillow writes into a converted picture."""
    image.info.pop(_PROFILE, None)
    return image


@lru_cache(maxsize=1)
def _srgb() -> Any:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """From the profile's colours to sRGB; None for a profile that is none or not of that mode, and for one
    that is sRGB itself, by what it does and not by its name: there are linear ones of that name.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if mode not in _MODES.get(source.profile.xcolor_space, ()):
            return None
        intent = ImageCms.getDefaultIntent(source)
        # Without this flag lcms puts a grid of 33 points in place of a grey curve, and shadows turn dark.
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        made = ImageCms.buildTransform(source, _srgb(), mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB":
        probe = _probe()
        shown = _applied(made, probe)
        difference = np.asarray(shown, np.int16) - np.asarray(probe, np.int16)
        if np.abs(difference).max() <= 1:
            return None
    return made


def _probe() -> Image.Image:
    """Ramps of grey, red, green and blue, 256 x 4."""
    ramp = np.arange(256, dtype=np.uint8)
    grey = np.stack([ramp] * 3, axis=-1)  # (256, 3)
    lone = [grey * np.eye(3, dtype=np.uint8)[channel] for channel in range(3)]
    return Image.fromarray(np.stack([grey, *lone]))
