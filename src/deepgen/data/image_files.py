"""Writing picture files: PNG, JPEG or WebP, by the suffix of the name.

Each carries the record of how its picture was made. The command line and the server write through here, so
that a picture is the same file from either.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image

from deepgen.data.png import Records, exif_of, text_entries, write_whole

Kind = Literal["png", "jpeg", "webp"]
KINDS: dict[str, Kind] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
LONGEST_SIDE: dict[Kind, int] = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383}  # of the formats' encoders
MOST_EXIF = 65533 - 2  # bytes: a JPEG file keeps it in one segment, whose length has 16 bits
_OTHER_FIELDS = 3000  # bytes of a record without the user's words
DEFAULT_QUALITY = 95  # JPEG and WebP
_FINE_QUALITY = 90  # from here on a JPEG file keeps its colours at full resolution


def kind_of(path: Path, name: str = "--output") -> Kind:
    """The format of a file of that name; ValueError lists those that can be written."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        stem = (
            path.stem if path.stem and path.stem != path.suffix and not path.name.startswith(".") else "out"
        )
        what = f"{path.suffix} is none of them" if path.suffix else "the name has no suffix"
        raise ValueError(
            f"{name} {path}: pictures are written as {', '.join(KINDS)}, and {what}; try {stem}.png"
        )
    return kind


def misfit(kind: Kind, size: tuple[int, int] | None, text: str = "") -> str:
    """Why a file of that kind cannot hold a picture or its record; nothing where it can.

    Args:
        kind: of the file.
        size: (height, width) of the picture, pixels; None where it is not known.
        text: what the record holds of the user's words.
    """
    if size is not None and max(size) > LONGEST_SIDE[kind]:
        return (
            f"{size[1]}x{size[0]} is too large for a {kind} file, whose sides end at {LONGEST_SIDE[kind]} "
            "pixels; use png"
        )
    if kind == "jpeg" and len(_comment(text)) + _OTHER_FIELDS > MOST_EXIF:
        return (
            f"a prompt of {len(text)} characters is too long to be kept in a JPEG file; use png or webp, or "
            "leave the metadata out"
        )
    return ""


def numbered_paths(path: Path, count: int) -> list[Path]:
    """`out.png`, or `out-0.png`, `out-1.png`, ... for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{index}") for index in range(count)]


def _comment(text: str) -> bytes:
    """The text as EXIF data holds it."""
    return json.dumps(text, ensure_ascii=False).encode("utf-16-be")


def encode_image(
    image: Image.Image,
    kind: Kind,
    *,
    quality: int = DEFAULT_QUALITY,
    record: Records | None = None,
    compress_level: int = 6,
) -> bytes:
    """A file's content.

    Args:
        image: any picture; where the format has no transparency, it is laid on white.
        kind: of the file.
        quality: of JPEG and WebP, 0 to 100.
        record: kept in the file.
        compress_level: of PNG, 0 to 9; the picture is the same.

    Raises:
        ValueError: the picture or its record is too large for the format.
    """
    content = BytesIO()
    if kind == "png":
        info = text_entries(record) if record else None
        image.save(content, "PNG", pnginfo=info, compress_level=compress_level)
        return content.getvalue()
    if reason := misfit(kind, (image.height, image.width)):
        raise ValueError(reason)
    exif = exif_of(record) if record else b""
    if kind == "webp":
        if image.mode not in ("RGB", "RGBA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.save(content, "WEBP", quality=quality, exif=exif)
        return content.getvalue()
    if len(exif) > MOST_EXIF:
        raise ValueError("the record is too long for a JPEG file; use png or webp")
    more = {"subsampling": 0} if quality >= _FINE_QUALITY else {}
    _opaque(image).save(content, "JPEG", quality=max(1, quality), exif=exif, **more)
    return content.getvalue()


def save_image(
    image: Image.Image, path: Path, record: Records | None = None, quality: int | None = None
) -> None:
    """Writes the picture in the format its name says; an existing file is replaced at the last moment."""
    content = encode_image(
        image, kind_of(path, "the file"), quality=quality or DEFAULT_QUALITY, record=record
    )
    write_whole(content, path)


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
