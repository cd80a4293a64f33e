"""What lies in a folder of pictures: which files are rows, how often, and what is left out.

    10_dgx circle/a.png, a.txt    kohya's folders: every picture ten times; its caption, or else "dgx circle"
    a.png, a.txt (or a.caption)   pictures with their captions
    metadata.jsonl, metadata.csv  Hugging Face's imagefolder: which picture has which text

Whatever is in the folder and is no row is counted, by kind, so that nobody trains on less than was meant.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepgen.image_formats import SUFFIXES, has_image_suffix, missing_reader
from deepgen.text_lines import shown

METADATA = ("metadata.jsonl", "metadata.csv")
CAPTIONS = (".txt", ".caption")  # the first one counts where a picture has both
_REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")
_SHOWN = 3


@dataclass(frozen=True)
class ImageFile:
    """A picture of a folder.

    Attributes:
        path: of the file.
        caption: the file with its text; None where there is none.
        repeats: rows it stands for, at least 1.
        concept: the words in the name of a kohya folder; nothing elsewhere.
    """

    path: Path
    caption: Path | None
    repeats: int = 1
    concept: str = ""


@dataclass
class FolderLayout:
    """What was found in a folder.

    Attributes:
        metadata: the file that describes the pictures, where there is one.
        images: pictures that can be opened here, in the order of their names; none with metadata.
        notes: what is repeated and what is left out, with counts, a sentence each.
    """

    folder: Path
    metadata: Path | None = None
    images: list[ImageFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look_into(folder: Path) -> FolderLayout:
    """What a folder of pictures holds.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it that can be opened; the message names
            what is there instead, and folders below that hold pictures.
        ValueError: it is described twice.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute()}")
    found, layout = _Listing(folder), FolderLayout(folder)
    described = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(described) > 1:
        raise ValueError(f"{folder} has {' and '.join(METADATA)}; keep the one that is meant")
    if described:
        layout.metadata = described[0]
        layout.notes = found.left_out(with_images=False)
        return layout
    kohya = [] if found.images or found.unreadable else _kohya_folders(found.folders)
    if not kohya:
        layout.images, layout.notes = found.rows(), found.left_out()
    for place, repeats, concept in kohya:
        inside = _Listing(place)
        if repeats:
            layout.images += inside.rows(repeats, concept)
            layout.notes.append(f"{shown(place.name)}: {_pictures(len(inside.images))} x {repeats}")
        else:
            layout.notes.append(
                f"left out: {shown(place.name)} with {_pictures(len(inside.images))}, repeated 0 times"
            )
        layout.notes += [f"{shown(place.name)}: {note}" for note in inside.left_out()]
    if kohya:
        outside = [place for place in found.folders if place not in {one for one, _, _ in kohya}]
        layout.notes += found.left_out(outside)
    if not layout.images:
        raise FileNotFoundError(_nothing(folder, found, layout.notes))
    return layout


def has_images(folder: Path) -> bool:
    """Whether pictures lie in a folder, or in kohya's folders in it; ends at the first."""
    if _holds_an_image(folder):
        return True
    places = [place for place in folder.iterdir() if _REPEATS.fullmatch(place.name) and place.is_dir()]
    return any(_holds_an_image(place) for place in places)


def _holds_an_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            has_image_suffix(entry.name) and not _is_of_system(entry.name) and entry.is_file()
            for entry in entries
        )


class _Listing:
    """The files directly in one folder, by kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[Path] = []
        self.unreadable: dict[str, list[Path]] = {}  # by what must be installed
        self.captions: dict[str, list[Path]] = {}  # by the name they share with a picture
        self.folders: list[Path] = []
        self.hidden: list[Path] = []
        self.others: list[Path] = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                self._sort_in(entry)

    def _sort_in(self, entry: os.DirEntry[str]) -> None:
        path = self.folder / entry.name
        suffix = path.suffix.lower()
        if _is_of_system(entry.name):
            self.hidden.append(path)
        elif entry.is_dir():
            self.folders.append(path)
        elif not entry.is_file():
            self.others.append(path)
        elif has_image_suffix(path):
            needed = missing_reader(suffix)
            (self.images if needed is None else self.unreadable.setdefault(needed, [])).append(path)
        elif suffix in CAPTIONS:
            self.captions.setdefault(path.stem, []).append(path)
        elif entry.name not in METADATA:
            self.others.append(path)

    def rows(self, repeats: int = 1, concept: str = "") -> list[ImageFile]:
        """The pictures that can be opened, with their captions."""
        return [ImageFile(path, self._caption(path.stem), repeats, concept) for path in self.images]

    def _caption(self, stem: str) -> Path | None:
        files = self.captions.get(stem, [])
        return min(files, key=lambda file: CAPTIONS.index(file.suffix.lower()), default=None)

    def left_out(self, folders: Iterable[Path] | None = None, *, with_images: bool = True) -> list[str]:
        """What is no row, a sentence a kind; `folders` instead of all below this one."""
        notes = [
            f"left out: {_pictures(len(files))} ({_names(files)}); reading {_endings(files)} needs {needed}"
            for needed, files in self.unreadable.items()
            if with_images
        ]
        if self.hidden:
            notes.append(f"passed over: {_files(len(self.hidden))} of the system ({_names(self.hidden)})")
        if with_images:
            notes += self._captions_left_out()
            below = self.folders if folders is None else folders
            notes += [
                f"left out: {_pictures(count)} in the folder {shown(place.name)}"
                for place in below
                if (count := _count_images(place))
            ]
        if self.others:
            notes.append(f"left out: {_files(len(self.others))} of other kinds ({_kinds(self.others)})")
        return notes

    def _captions_left_out(self) -> list[str]:
        known = {path.stem for path in self.images}
        unread = {path.stem for files in self.unreadable.values() for path in files}
        lone = [file for stem, files in self.captions.items() if stem not in known | unread for file in files]
        second = [
            file
            for stem in known & self.captions.keys()
            for file in self.captions[stem]
            if file != self._caption(stem)
        ]
        notes = []
        if lone:
            notes.append(f"left out: {_files(len(lone))} with a text and no picture ({_names(lone)})")
        if second:
            notes.append(
                f"left out: {_files(len(second))} with a second text of a picture ({_names(sorted(second))})"
            )
        return notes


def _kohya_folders(folders: Iterable[Path]) -> list[tuple[Path, int, str]]:
    """Those called REPEATS_CONCEPT that hold pictures, with both."""
    found = []
    for place in folders:
        if (match := _REPEATS.fullmatch(place.name)) is not None:
            inside = _Listing(place)
            if inside.images or inside.unreadable:
                found.append((place, int(match[1][:9]), match[2].strip()))
    return found


def _nothing(folder: Path, found: _Listing, notes: list[str]) -> str:
    """What to say of a folder without a picture that can be opened."""
    said = f"the folder {folder.absolute()} holds no picture"
    if left := [note for note in notes if note.startswith("left out")]:
        said += f" that can be used ({'; '.join(left)})"
    named = [place.name for place in found.folders if any((place / name).is_file() for name in METADATA)]
    if named:
        return f"{said}; a metadata file lies in {_list(named)}: give that folder"
    below = [place.name for place in found.folders if _count_images(place)]
    if below:
        return (
            f"{said} itself, but its folders {_list(below)} do: give one of them, or name them as kohya does "
            f"(1_{below[0]}, ...) to take all"
        )
    return f"{said}; known: {', '.join(SUFFIXES)}"


def undescribed(folder: Path, named: Iterable[Path]) -> str | None:
    """A note about pictures in a folder, and below it, that its metadata does not name."""
    known = {os.path.normpath(path) for path in named}
    left = [path for path in _walk(folder) if os.path.normpath(path) not in known]
    return (
        f"left out: {_pictures(len(left))} that the metadata does not name ({_names(left)})" if left else None
    )


def _count_images(folder: Path) -> int:
    """In a folder and all below it."""
    return sum(1 for _ in _walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_of_system(name))
        images = (name for name in sorted(names) if has_image_suffix(name) and not _is_of_system(name))
        yield from (Path(place) / name for name in images)


def _is_of_system(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


def _pictures(count: int) -> str:
    return f"{count} picture{'s' if count != 1 else ''}"


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _names(files: list[Path]) -> str:
    return _list([file.name for file in files])


def _list(names: list[str]) -> str:
    names = [shown(name) for name in names]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _endings(files: list[Path]) -> str:
    return ", ".join(sorted({file.suffix.lower() for file in files}))


def _kinds(files: list[Path]) -> str:
    counts = Counter(file.suffix.lower() or file.name for file in files)
    return _list([f"{count} {kind}" for kind, count in counts.most_common()])
