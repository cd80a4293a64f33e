"""Pictures of another program in a folder: which file is which sample of which item.

    FOLDER/LABEL/... or FOLDER/...   the official layout, with or without its `images/`
    FOLDER/NAME/...                  the same in a folder further down, where just one folder holds it
    ID_0.png ID-0.png ID.0.png ID/0.png, and ID.png where an item has one picture: a flat folder
    metadata.jsonl or prompts.txt    in FOLDER: which file was drawn from which prompt

Numbers are compared as numbers, so 0000.png, 00000.png and 0.png are the same sample, and letters without
their case. Only what is certain is taken: two files for one sample, or two samples for one file, are
findings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.checkpoints.file_hash import hash_file
from deepgen.data.images import ImageError, open_image
from deepgen.evaluation.benchmark import Benchmark, CannotDraw, Item, Settings
from deepgen.image_formats import SUFFIXES
from deepgen.text_lines import read_text

_DEPTH = 3  # folders below the given one in which a layout is looked for
_SHOWN = 5  # names in a message
_EXTRAS = re.compile(r"(^|/)grid\.\w+$|_SRCIMG\.\w+$")  # what official generators write beside samples
_PROMPT_FILES = ("metadata.jsonl", "prompts.jsonl", "prompts.txt")
_FILE_FIELDS = ("file_name", "file", "image", "path")
_PROMPT_FIELDS = ("prompt", "text", "caption", "instruction")

Key = tuple[str, int]  # id of an item and number of a sample


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A picture: a file, or one tile of a sheet of several.

    Attributes:
        path: of the file.
        tile: (which, of how many), row by row; None for the whole file.
    """

    path: Path
    tile: tuple[int, int] | None = None

    def open(self) -> Image.Image:
        """The picture as a viewer shows it; CannotDraw says what is wrong with the file."""
        try:
            image = open_image(self.path)
        except ImageError as error:
            raise CannotDraw(f"no whole picture: {error}") from error
        if self.tile is None:
            return image
        index, count = self.tile
        columns = ceil(sqrt(count))
        rows = ceil(count / columns)
        width, height = image.width // columns, image.height // rows
        if not width or not height:
            raise CannotDraw(f"{self.path} is {image.width}x{image.height}, too small for {count} tiles")
        row, column = divmod(index, columns)
        return image.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))


@dataclass(kw_only=True)
class FolderMatch:
    """Which file is which sample.

    Attributes:
        root: the folder that holds the layout.
        found: by item and sample.
        problems: why there is none, by item and sample.
        unused: files of no sample, relative to `root`.
    """

    root: Path
    found: dict[Key, FoundFile] = field(default_factory=dict)
    problems: dict[Key, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def take(self, item: str, sample: int) -> Image.Image:
        """A picture; CannotDraw names what is missing, double or broken."""
        if (item, sample) in self.problems:
            raise CannotDraw(self.problems[item, sample])
        return self.found[item, sample].open()

    def files(self) -> set[Path]:
        """Those that are samples."""
        return {one.path for one in self.found.values()}

    def summary(self, items: Sequence[Item]) -> str:
        """What was found of some items, in one line."""
        chosen = {item.id for item in items}
        found = {key: file for key, file in self.found.items() if key[0] in chosen}
        total = len(found) + sum(item in chosen for item, _ in self.problems)
        said = f"{len(found)} of {total} pictures found in {self.root}"
        if found:
            said += f", such as {found[min(found)].path.relative_to(self.root)}"
        if self.unused:
            said += f"; {len(self.unused)} files are of no item, such as {shown(self.unused)}"
        return said


class ImageFolder:
    """Pictures of another program; a `deepgen.evaluation.models.Model` that is not asked to draw."""

    is_seeded = False
    is_batched = False

    def __init__(self, name: str, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder of pictures")
        self.name, self.folder = name, folder
        self.files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not self.files:
            raise FileNotFoundError(
                f"{folder} holds no pictures; known are files ending in {', '.join(SUFFIXES)}"
            )
        content = [(str(path.relative_to(folder)), hash_file(path)) for path in self.files]
        self.fingerprint = f"pictures {hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    rewriting = "not known: pictures of another program"

    def draw(
        self, items: Sequence[Item], seeds: Sequence[int], settings: Settings, generator: Any = None
    ) -> list[Image.Image]:
        """Not asked: the runner takes pictures of samples, see `match`."""
        raise CannotDraw(f"{self.name} draws nothing")

    def match(self, benchmark: Benchmark, items: Sequence[Item], num_samples: int) -> FolderMatch:
        """Which file is which sample of the items.

        Raises:
            ValueError: no file fits any item, or several folders hold the layout; both say what is there.
        """
        for name in _PROMPT_FILES:
            if (file := self.folder / name).is_file():
                return self._by_prompt(file, benchmark, items, num_samples)
        layout = _Layout(benchmark, items, num_samples)
        tried = [layout.match(root, self._below(root)) for root in self._roots(benchmark.label)]
        best = max(tried, key=lambda match: len(match.found))  # the first of equals
        if best.found:
            return best
        nested: list[FolderMatch] = []
        for root in self._folders():  # from the top down
            match, seen = layout.match(root, self._below(root)), [one.files() for one in nested]
            if match.found and not any(match.files() <= files for files in seen):
                nested.append(match)
        if len(nested) > 1:
            names = shown([str(match.root.relative_to(self.folder)) for match in nested])
            raise ValueError(
                f"{self.name}: pictures of {benchmark.label} lie in several folders: {names}; name one"
            )
        if not nested:
            names = shown([str(path.relative_to(self.folder)) for path in self.files])
            wanted = ", ".join(list(dict.fromkeys(layout.names(items[0], 0)))[:3])
            raise ValueError(
                f"{self.name}: none of {len(self.files)} pictures is of {benchmark.label}; they are {names}; "
                f"the first item, {items[0].id}, would be one of {wanted}"
            )
        return nested[0]

    def _roots(self, label: str) -> list[Path]:
        return [root for root in (self.folder / label, self.folder) if root.is_dir()]

    def _folders(self) -> list[Path]:
        """Folders below the given one that hold pictures somewhere, not deeper than `_DEPTH`."""
        parents = {parent for path in self.files for parent in path.relative_to(self.folder).parents}
        return [self.folder / parent for parent in sorted(parents) if 0 < len(parent.parts) <= _DEPTH]

    def _below(self, root: Path) -> list[Path]:
        return [path for path in self.files if path.is_relative_to(root)]

    def _by_prompt(
        self, file: Path, benchmark: Benchmark, items: Sequence[Item], num_samples: int
    ) -> FolderMatch:
        """Files by the prompt they were drawn from; the samples of a prompt in the order of its rows."""
        rows = self._prompts(file)
        by_prompt: dict[str, list[Path]] = defaultdict(list)
        for path, prompt in rows:
            by_prompt[prompt.strip()].append(path)
        prompts = [item.prompt.strip() for item in items]
        if benchmark.is_edit and len(set(prompts)) < len(prompts):
            raise ValueError(
                f"{file}: {benchmark.label} has items with the same instruction, so prompts do not tell "
                "which picture is which; use the official layout"
            )
        match = FolderMatch(root=self.folder)
        used: set[Path] = set()
        for item, prompt in zip(items, prompts, strict=True):
            for sample in range(num_samples):
                left = [path for path in by_prompt[prompt] if path not in used]
                if not left:
                    match.problems[item.id, sample] = f"{file} has too few rows of {prompt[:60]!r}"
                    continue
                used.add(left[0])
                match.found[item.id, sample] = FoundFile(path=left[0])
        if not match.found:
            raise ValueError(
                f"{file}: none of its {len(rows)} prompts is one of {benchmark.label}; the first there is "
                f"{rows[0][1][:80]!r}, the first item's {prompts[0][:80]!r}"
            )
        match.unused = _unused(self.folder, self.files, used)
        return match

    def _prompts(self, file: Path) -> list[tuple[Path, str]]:
        """(file, prompt) of each row; lines of a text belong to the pictures sorted by name and number."""
        lines = [line for line in read_text(file).split("\n") if line.strip()]
        if file.suffix == ".txt":
            if len(lines) != len(self.files):
                raise ValueError(
                    f"{file} has {len(lines)} prompts for {len(self.files)} pictures; give one line a "
                    'picture, or metadata.jsonl with rows {"file_name": ..., "prompt": ...}'
                )
            ordered = sorted(self.files, key=lambda path: _natural(str(path.relative_to(self.folder))))
            return list(zip(ordered, lines, strict=True))
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                name = next(row[key] for key in _FILE_FIELDS if key in row)
                prompt = next(row[key] for key in _PROMPT_FIELDS if key in row)
                path = self.folder / str(name)
            except (ValueError, TypeError, AttributeError, StopIteration) as error:
                raise ValueError(
                    f'{file}, line {number} is no {{"file_name": ..., "prompt": ...}}: {line[:80]!r}'
                ) from error
            rows.append((path, str(prompt)))
        if not rows:
            raise ValueError(f"{file} is empty")
        return rows


class _Layout:
    """Names under which samples of a benchmark may lie."""

    def __init__(self, benchmark: Benchmark, items: Sequence[Item], num_samples: int) -> None:
        self._benchmark, self._items, self._num_samples = benchmark, items, num_samples

    def names(self, item: Item, sample: int) -> Iterator[str]:
        """Relative paths without suffix, the official one first."""
        path = _stem(self._benchmark.image_path(item, sample))
        yield from (path, path.removeprefix("images/"))
        yield from (f"{item.id}{mark}{sample}" for mark in ("_", "-", ".", "/"))
        if self._num_samples == 1:
            yield item.id

    def sheet(self, item: Item) -> list[str]:
        """Where all samples of an item lie on one sheet."""
        path = _stem(self._benchmark.sheet_path.format(id=item.id))
        return [path, path.removeprefix("images/")] if path else []

    def match(self, root: Path, files: Sequence[Path]) -> FolderMatch:
        """What of it lies in a folder."""
        exact: dict[str, list[Path]] = defaultdict(list)
        loose: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            name = _stem(path.relative_to(root).as_posix())
            exact[name].append(path)
            loose[_loose(name)].append(path)
        match = FolderMatch(root=root)
        claims: dict[Path, list[Key]] = defaultdict(list)
        for item in self._items:
            for sample in range(self._num_samples):
                self._find(match, claims, exact, loose, item, sample)
        for path, keys in claims.items():
            if len(keys) > 1:
                who = ", ".join(f"{item} sample {sample}" for item, sample in keys[:3])
                for key in keys:
                    match.problems[key] = f"{path.relative_to(root)} fits {who}; which is not certain"
                    del match.found[key]
        match.unused = _unused(root, files, match.files())
        return match

    def _find(
        self,
        match: FolderMatch,
        claims: dict[Path, list[Key]],
        exact: dict[str, list[Path]],
        loose: dict[str, list[Path]],
        item: Item,
        sample: int,
    ) -> None:
        """Note the file of one sample, or why there is none."""
        names = list(self.names(item, sample))
        key = (item.id, sample)
        place = match.root / self._benchmark.image_path(item, sample)
        for table, wanted in ((exact, names), (loose, [_loose(name) for name in names])):
            fits = next((table[name] for name in wanted if name in table), [])
            official = [
                path for path in fits if path == match.root / self._benchmark.image_path(item, sample)
            ]
            if len(official or fits) == 1:
                (path,) = official or fits
                match.found[key] = FoundFile(path=path)
                claims[path].append(key)
                return
            if fits:
                both = " and ".join(str(path.relative_to(match.root)) for path in fits[:3])
                match.problems[key] = f"{both} are both of this sample; keep one"
                return
        for name in self.sheet(item):
            if len(fits := exact.get(name) or loose.get(_loose(name), [])) == 1:
                tile = (sample, self._num_samples) if self._num_samples > 1 else None
                match.found[key] = FoundFile(path=fits[0], tile=tile)
                return
        match.problems[key] = f"{place} is missing"


def shown(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _unused(root: Path, files: Sequence[Path], used: set[Path]) -> list[str]:
    names = [str(path.relative_to(root)) for path in files if path not in used]
    return [name for name in names if not _EXTRAS.search(name)]


def _stem(path: str) -> str:
    """Without the suffix of a picture; other dots are part of the name."""
    start, dot, end = path.rpartition(".")
    return start if dot and f".{end.lower()}" in SUFFIXES else path


def _loose(name: str) -> str:
    """Numbers without leading zeros, and small letters."""
    return re.sub(r"[0-9]+", lambda digits: digits[0].lstrip("0") or "0", name.lower())


def _natural(name: str) -> list[Any]:
    """A key that sorts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name)]
