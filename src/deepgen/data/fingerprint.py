"""What a run learnt from, in a few words and sums: so that a run which goes on can say what has changed.

Files are told apart by their names in a folder, their sizes and samples of their content, never by their
dates: a copy has other dates, and clocks go back. Rows that are drawn have no files, and are told apart by
some of their texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from deepgen.data.example import RowError
from deepgen.data.mixture import Mixture
from deepgen.data.mixture_file import place_options
from deepgen.data.prompts import PromptMix

_MAX_FILES = 100_000  # of a folder; a listing of millions would take minutes
_SAMPLES, _SAMPLE_BYTES = 16, 2**16  # of each file: small ones are read whole
_MAX_BYTES = 2**26  # of all samples of a folder
_ROWS = 16  # whose texts stand for all


def mixture_facts(mixture: Mixture) -> dict[str, Any]:
    """Sources with rows, options and a sum of their content; ratios, image rule and seed."""
    config, sources = mixture.config, {}
    for entry in config.sources:
        places = [name for name in place_options(entry.source) if name != "cache_dir"]
        paths = [Path(str(entry.options[name])).expanduser() for name in places if entry.options.get(name)]
        rows = mixture.sources[entry.name]
        sources[entry.name] = {
            "source": entry.source,
            "task": entry.task,
            "weight": entry.weight,
            "options": json.dumps(
                {name: value for name, value in sorted(entry.options.items()) if name not in places},
                default=str,
            ),
            "rows": len(rows),
            "content": path_fingerprint(paths) if paths else _text_sum(_example_texts(rows)),
        }
    return {
        "sources": sources,
        "ratios": dict(config.ratios),
        "image": asdict(config.image),
        "seed": config.seed,
        "bad_share_limit": config.bad_share_limit,
    }


def prompt_facts(mix: PromptMix) -> dict[str, Any]:
    """Sets with rows, weights, rewards and a sum of their content."""
    return {
        "sampling_mode": mix.sampling_mode,
        "sets": {
            one.name: {
                "rows": len(one.rows),
                "weight": one.weight,
                "rewards": dict(one.rewards),
                "content": _rows_sum(one.rows),
            }
            for one in mix.sets
        },
    }


def path_fingerprint(paths: Sequence[Path]) -> str:
    """A sum of files and folders: names, sizes and samples of the content."""
    digest, left = hashlib.sha256(), _MAX_BYTES
    for path in paths:
        for name, file in islice(_files(path), _MAX_FILES):
            size = file.stat().st_size
            digest.update(f"{name} {size}\n".encode(errors="surrogateescape"))
            if left > 0:
                left -= _add_samples(digest, file, size)
    return digest.hexdigest()[:32]


def _add_samples(digest: Any, file: Path, size: int) -> int:
    """How many bytes were read."""
    starts = range(0, size, _SAMPLE_BYTES)
    if len(starts) > _SAMPLES:
        starts = [(size - _SAMPLE_BYTES) * n // (_SAMPLES - 1) for n in range(_SAMPLES)]
    count = 0
    with file.open("rb") as content:
        for start in starts:
            content.seek(start)
            count += len(block := content.read(_SAMPLE_BYTES))
            digest.update(block)
    return count


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """The file itself without its name, which may change, or those of a folder by their names in it."""
    if path.is_file():
        yield "", path
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(directory, name)
            if file.is_file():
                yield file.relative_to(path).as_posix(), file


def _rows_sum(rows: Any) -> str:
    path = getattr(rows, "path", None)
    if isinstance(path, Path):
        return path_fingerprint([path])
    return _text_sum(rows[index][0] for index in _some(len(rows)))


def _example_texts(rows: Any) -> Iterator[str]:
    for index in _some(len(rows)):
        try:
            yield rows[index].text
        except RowError as error:
            yield str(error)


def _some(count: int) -> list[int]:
    """Row numbers all over a set."""
    return sorted({(count - 1) * n // (_ROWS - 1) for n in range(_ROWS)}) if count else []


def _text_sum(texts: Iterator[str]) -> str:
    joined = "\n".join(texts)
    return hashlib.sha256(joined.encode(errors="surrogateescape")).hexdigest()[:32]
