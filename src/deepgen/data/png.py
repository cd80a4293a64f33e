"""Pictures out: a file that remembers how it was made, and several pictures on one sheet.

In a PNG the settings stand twice: as one text entry each, for viewers and other programs, and as JSON under
`deepgen`, from which they are read back exactly. In a JPEG or WebP file the same JSON is the user comment of
its EXIF data (`image_files.py` writes those). A sheet of several pictures has the JSON of each, in a list.
A picture that is not saved yet carries the same JSON in Pillow's `info`, so that it can be written later by
code that does not know the settings. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from deepgen._version import __version__
from deepgen.moved import renamed

KEY = "deepgen"
# Names in files of earlier versions, and today's.
_FORMER = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "scheduler": "solver",
    "references": "image",
}
_SOFTWARE, _EXIF_IFD, _USER_COMMENT = 0x0131, 0x8769, 0x9286  # tags of EXIF 2.3
_UNICODE = b"UNICODE\0"  # the character code of a user comment; the byte order is left to the writer


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """How a picture was made; enough to make it again. `None` stands for the model's own default.

    `width` and `height` are the file's; `drawn_width` and `drawn_height` what the model drew, where an edit
    was brought back to the size of its source afterwards.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None  # None where the noise was not drawn from one seed
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    width: int
    height: int
    solver: str | None = None
    preset: str | None = None
    model: str
    image: tuple[str, ...] = ()  # names of the pictures given to an edit, where they have names
    mask: str | None = None  # the name of its mask
    keep_unchanged: bool | None = None  # whether an edit was laid over its source only where it changed it
    drawn_width: int | None = None
    drawn_height: int | None = None
    prompt_cut: str | None = None  # what of the prompts was too long to be read
    version: str = __version__


Records = ImageRecord | Sequence[ImageRecord]  # of a picture, or of the pictures of a sheet


def save_png(
    image: Image.Image,
    path: Path,
    record: Records | None = None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Writes the picture under `path`, with its record in text entries unless there is none; with it `more`,
    see `text_entries`.

    An existing file is replaced at the last moment: an interruption leaves either the old file or the new.
    """
    content = BytesIO()
    image.save(content, format="PNG", pnginfo=text_entries(record, more) if record else None)
    write_whole(content.getvalue(), path)


def write_whole(content: bytes, path: Path) -> None:
    """A file that appears under its name once it is complete, or not at all."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_record(source: Path | Image.Image) -> ImageRecord | None:
    """The record inside a PNG, JPEG or WebP file, or of a picture of the pipeline in memory.

    None where it carries none that this version can read, or those of several pictures.
    """
    found = _carried(source)
    return None if isinstance(found, list) else found


def read_records(source: Path | Image.Image) -> list[ImageRecord]:
    """The records of a picture, or of all pictures on a sheet; empty where there are none."""
    found = _carried(source)
    return found if isinstance(found, list) else [found] if found else []


def attach_record(image: Image.Image, record: Records) -> None:
    """Lets a picture in memory carry its record, in Pillow's `info`."""
    image.info[KEY] = _to_json(record)


def _carried(source: Path | Image.Image) -> list[ImageRecord] | ImageRecord | None:
    if isinstance(source, Image.Image):
        text, comment = source.info.get(KEY), source.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    else:
        with Image.open(source) as image:
            text = getattr(image, "text", {}).get(KEY)
            comment = None if text else image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    for content in [_parsed(text)] if isinstance(text, str) else _comments(comment):
        try:
            return [_record(one) for one in content] if isinstance(content, list) else _record(content)
        except (AttributeError, TypeError, KeyError):  # another program's entry of the same name
            continue
    return None


def _record(fields: Any) -> ImageRecord:
    named = {_FORMER.get(name, name): value for name, value in fields.items()}
    return ImageRecord(**{**named, "image": tuple(named["image"])})


def _to_json(record: Records) -> str:
    content = asdict(record) if isinstance(record, ImageRecord) else [asdict(one) for one in record]
    return json.dumps(content, ensure_ascii=False)


def exif_of(record: Records) -> bytes:
    """The record as EXIF data: JSON under `deepgen`, in the user comment."""
    text = f'{{"{KEY}": {_to_json(record)}}}'
    exif = Image.Exif()
    exif[_SOFTWARE] = f"deepgen {__version__}"
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + text.encode("utf-16-be")
    return exif.tobytes()


def _comments(comment: Any) -> list[Any]:
    """What a user comment may hold of ours, in either byte order: programs that rewrite one may turn it."""
    if not isinstance(comment, bytes) or not comment.startswith(_UNICODE):
        return []
    content = comment.removeprefix(_UNICODE)
    found = [_parsed(content.decode(order, "replace")) for order in ("utf-16-be", "utf-16-le")]
    return [fields[KEY] for fields in found if isinstance(fields, dict) and KEY in fields]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def image_grid(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """The pictures on one white sheet, as nearly square as they go; cells are as large as the largest.

    The sheet carries the records that its pictures carry.
    """
    if not images:
        raise ValueError("a grid needs at least one picture, got none")
    columns = ceil(sqrt(len(images)))
    rows = ceil(len(images) / columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + gap), row * (height + gap)))
    attach_records_of(sheet, images)
    return sheet


def attach_records_of(sheet: Image.Image, images: Iterable[Image.Image]) -> None:
    """Lets a sheet carry the records that its pictures carry, in their order."""
    if records := [record for image in images for record in read_records(image)]:
        attach_record(sheet, records)


def text_entries(record: Records, more: Mapping[str, str] | None = None) -> PngImagePlugin.PngInfo:
    """The record as Pillow's `pnginfo`: one entry for each setting of a single picture, and all as JSON.

    Args:
        record: of a picture, or of those of a sheet.
        more: another program's entries, which then stand in place of ours for single settings: ComfyUI keeps
            its graph under `prompt`.
    """
    info = PngImagePlugin.PngInfo()
    for name, value in (more or {}).items():
        info.add_text(name, value)
    if isinstance(record, ImageRecord) and more is None:
        for name, value in asdict(record).items():
            if value is not None and value != ():
                info.add_text(name, str(value) if name != "image" else ", ".join(value))
    info.add_text(KEY, _to_json(record))
    return info


__getattr__ = renamed(__name__, {"PictureRecord": "deepgen.data.png.ImageRecord"})
