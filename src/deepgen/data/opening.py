"""What a path to training data is, decided in one place for every command and recipe, and opened.

A mixture file, a manifest, a folder of pictures, tars, tables: people give a path and expect that `data
stats` and `train` mean the same by it. Nothing of a model is needed to know, so mistakes show before one is
loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deepgen.data.example import RowError
from deepgen.data.folder_layout import METADATA, has_images
from deepgen.data.mixture import Mixture, single_source
from deepgen.data.mixture_config import ImageRule
from deepgen.data.mixture_file import read_mixture
from deepgen.data.records import RecordFile
from deepgen.data.sources import SOURCES, options_from_text
from deepgen.image_formats import has_image_suffix
from deepgen.user_files import split_place

SHIPPED_DIR = Path(__file__).parents[1] / "recipes" / "mixtures"
_FILES = {".jsonl": "jsonl", ".parquet": "parquet", ".tar": "webdataset"}
_SAY_IT = "say --source FORMAT (caption_pair, t2i_sft or edit for .json), or name it as a source of a mixture"
_PACKED = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class DataPath:
    """What a path is.

    Attributes:
        kind: a mixture file, or one source.
        path: of the file or folder; what was given, where it is a name on the Hub.
        source: the format of a source, or `PATH.py:NAME` of the user's own.
        is_own: the path is that of the user's own source, which takes no other.
    """

    kind: Literal["mixture", "source"]
    path: Path
    source: str = ""
    is_own: bool = False


def recognise(given: str | Path, source: str | None = None) -> DataPath:
    """What a path is; looks at names and at the first row of a manifest.

    Args:
        given: a path, the name of a mixture of the package, or `PATH.py:NAME` of one's own source.
        source: the format, where it is known, or one's own.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is nothing that can be trained on, or more than one thing; the message says what to do.
    """
    path, shipped = Path(given).expanduser(), SHIPPED_DIR / f"{given}.yaml"
    is_shipped = shipped.parent == SHIPPED_DIR and shipped.exists() and not path.exists()
    if is_shipped or (path.suffix.lower() in (".yaml", ".yml") and not path.is_dir()):
        if source is not None:
            raise ValueError(f"a source has a format, {source}, and {given} is a mixture")
        return DataPath("mixture", shipped if is_shipped else path)
    if source is not None:
        if problem := SOURCES.problem(source):
            raise ValueError(problem)
        return DataPath("source", path, source)
    if (own := split_place(str(given))) is not None:
        return DataPath("source", own.path, str(own), is_own=True)
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path.absolute()}")
    return _file(path) if path.is_file() else _folder(path)


def open_data(
    given: str | Path,
    *,
    source: str | None = None,
    options: Mapping[str, str] | None = None,
    root: str | Path | None = None,
    only: str | None = None,
    **settings: Any,
) -> Mixture:
    """The mixture at a path; one source is a mixture by itself.

    Args:
        given: see `recognise`.
        source: the format, where it does not show.
        options: of one source, as text.
        root: replaces a mixture file's own root folder.
        only: one source of a mixture.
        **settings: of the mixture that one source becomes, as in `MixtureConfig`.

    Raises:
        ValueError, OSError: it cannot be used.
    """
    found = recognise(given, source)
    if found.kind == "mixture":
        if options:
            raise ValueError(f"{given} is a mixture, so options of a source are written into the file")
        return _mixture(found.path, root, only)
    if root is not None or only is not None:
        raise ValueError(f"a root folder and `only` are for mixtures, and {given} is one source")
    is_on_hub = found.source == "huggingface" and not found.path.exists()
    place = {"dataset": str(given)} if is_on_hub else {} if found.is_own else {"path": str(found.path)}
    values = {**place, **options_from_text(found.source, options or {})}
    name = SOURCES.short(found.source) if found.is_own else found.path.stem or "data"
    return single_source(name, found.source, values, **settings)


def with_rule(mixture: Mixture, image: ImageRule) -> Mixture:
    """The same sources under another size rule, as when a model says how large it draws."""
    return Mixture(replace(mixture.config, image=image), mixture.sources)


def _mixture(path: Path, root: str | Path | None, only: str | None) -> Mixture:
    config = read_mixture(path, root)
    if only is not None:
        kept = tuple(entry for entry in config.sources if entry.name == only)
        if not kept:
            names = ", ".join(entry.name for entry in config.sources)
            raise ValueError(f"--only {only}: there is no such source; known: {names}")
        config = replace(config, sources=kept, ratios={kept[0].task: 1})
    return Mixture(config)


def _file(path: Path) -> DataPath:
    suffix = path.suffix.lower()
    if path.name in METADATA or (suffix == ".jsonl" and _describes_images(path)):
        if path.name not in METADATA:
            raise ValueError(
                f"{path} names pictures by file_name; call it {METADATA[0]}, as Hugging Face does, and give "
                "its folder"
            )
        return DataPath("source", path.parent, "folder")
    if suffix in _FILES:
        return DataPath("source", path, _FILES[suffix])
    if has_image_suffix(path):
        raise ValueError(f"{path} is one picture; give the folder it lies in, or a manifest")
    if suffix in _PACKED:
        raise ValueError(f"{path} is packed; unpack it first and give the folder, or a plain .tar")
    raise ValueError(f"the format of {path} does not show; {_SAY_IT}")


def _describes_images(path: Path) -> bool:
    """Whether the first record that can be read is one of Hugging Face's imagefolder."""
    records = RecordFile(path)
    for row in range(min(10, len(records))):
        try:
            record = records[row]
        except RowError:
            continue
        return "file_name" in record and "target" not in record
    return False


def _folder(path: Path) -> DataPath:
    if any((path / name).is_file() for name in METADATA) or has_images(path):
        return DataPath("source", path, "folder")
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return DataPath("source", path, "huggingface")
    with os.scandir(path) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    suffixes = {Path(entry.name).suffix.lower() for entry in seen if entry.is_file()}
    found = sorted(_FILES[suffix] for suffix in suffixes if suffix in _FILES)
    if len(found) == 1:
        return DataPath("source", path, found[0])
    if found:
        raise ValueError(f"{path} holds files of {' and '.join(found)}; say which with --source FORMAT")
    if ".json" in suffixes:
        raise ValueError(f"the format of {path} does not show; {_SAY_IT}")
    return DataPath("source", path, "folder")  # whose reader says what is there instead
