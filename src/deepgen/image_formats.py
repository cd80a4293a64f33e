"""Which picture files are read: the one list of their formats, and of the endings of their names.

Formats of the core are those that Pillow decodes by itself; others (EPS, for one) start outside programs.
HEIC and JPEG XL come with the extra `images`; they are read from files of the user's own, not from uploads,
whose memory was measured format by format.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import PurePath

from deepgen.extras import install_hint

_ENDINGS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # a phone's MPO is a JPEG with more behind it
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
FORMATS = tuple(_ENDINGS)
# Pillow's name of a format: the package that reads it, and the endings.
_OF_PACKAGES = {
    "HEIF": ("pillow_heif", (".heic", ".heif", ".heics", ".heifs", ".hif")),
    "JXL": ("pillow_jxl", (".jxl",)),
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
_FORMAT_OF = {ending: name for name, endings in _ENDINGS.items() for ending in endings}
_FORMAT_OF |= {ending: name for name, (_, endings) in _OF_PACKAGES.items() for ending in endings}
SUFFIXES = tuple(_FORMAT_OF)  # lower case; names may have them in any


def has_image_suffix(path: PurePath | str) -> bool:
    """Whether a name is that of a picture that is read, here or with an extra."""
    return PurePath(path).suffix.lower() in _FORMAT_OF


def missing_reader(suffix: str) -> str | None:
    """What must be installed to read files of this ending, such as `.heic`; None where nothing is."""
    name = _FORMAT_OF.get(suffix.lower())
    if name == "AVIF" and not _pillow_reads_avif():
        return "a Pillow that was built with AVIF, as those of PyPI are from 11.3 on"
    if name in _OF_PACKAGES and find_spec(_OF_PACKAGES[name][0]) is None:
        return install_hint("images")
    return None


def missing_reader_of(content: bytes) -> str | None:
    """The same of a file by its first 32 bytes, which tell more than a name does."""
    if content[4:8] == b"ftyp":
        brands = {content[8:12], content[16:20], content[20:24]}
        suffix = ".avif" if brands & _AVIF_BRANDS else ".heic" if brands & _HEIF_BRANDS else ""
    else:
        suffix = ".jxl" if content.startswith(_JXL) else ""
    return missing_reader(suffix) if suffix else None


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of all formats that can be opened here, those of installed packages included."""
    found = list(FORMATS)
    if find_spec("pillow_heif") is not None:
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    if find_spec("pillow_jxl") is not None:
        import pillow_jxl  # noqa: F401  # pyright: ignore[reportMissingImports]  # registers its format

        found.append("JXL")
    return tuple(found)


def _pillow_reads_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))
