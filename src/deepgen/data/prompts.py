"""Prompts for reinforcement learning: weighted sets without target pictures, and the rewards of each.

    root: /data/prompts                     # where relative paths start; the file's own folder without it
    sampling_mode: sample_proportional      # or weight_only
    rewards:                                # how each is made; a name alone is a scorer with its defaults
      spelling: {scorer: ocr}
    held_out: [aesthetic]                   # logged, never trained on
    datasets:
      - name: posters
        path: posters.jsonl                 # .txt, .jsonl or .parquet
        sample_weight: 3
        rewards: [{spelling: 0.7}, {clip_sim: 0.3}]

A row has a `prompt` (or `caption`), the pictures of `references` for an edit, and whatever else a reward
needs. In the place of a path, `shapes: generate` (or edit) draws rows of the flat world, and
`storybook: caption` (or edit, reasoning, reasoning edit) of the storybook's, where `weights: {counting: 3}`
says how often a kind is drawn, and `each_kind: true` makes a set of every kind, called as the kind.
Which prompt a group gets is a function of (seed, number of the group), so it is the same on any number of
processes and after a restart, and no two epochs are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from deepgen.data.example import RowError
from deepgen.data.example_images import load_image
from deepgen.data.fields import ImageFolders, text_field
from deepgen.data.images import ImageError
from deepgen.data.records import RecordFile
from deepgen.extras import missing_extra
from deepgen.text_lines import text_lines
from deepgen.yaml_files import read_yaml

SamplingMode = Literal["sample_proportional", "weight_only"]
_TOP = ("root", "sampling_mode", "rewards", "held_out", "datasets")
_WORLDS = ("shapes", "storybook")
_ENTRY = (
    *("name", "path", *_WORLDS, "kinds", "weights", "each_kind", "rows", "seed"),
    *("sample_weight", "rewards"),
)
_OPTIONS = {"path": (), "shapes": ("kinds", "rows", "seed")}
_OPTIONS["storybook"] = (*_OPTIONS["shapes"], "weights", "each_kind")
_FORMATS = (".txt", ".jsonl", ".parquet")
NAMED = 3  # rows of a file that is refused


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt of one group of images.

    Attributes:
        text: a caption, or the instruction of an edit.
        key: "file:row", for errors and logs.
        dataset: name of the set it is from.
        weights: of the rewards it is scored with.
        references: what an edit starts from, RGB.
        metadata: the other fields of its row.
    """

    text: str
    key: str
    dataset: str
    weights: Mapping[str, float]
    references: tuple[Image.Image, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class _PromptRows(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[str, str, tuple[Image.Image, ...], dict[str, Any]]:
        """Text, key, references and the rest of a row."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """One set of a mix: its rows, how often they are drawn and what they are scored with."""

    name: str
    rows: _PromptRows
    weight: float
    rewards: Mapping[str, float]

    def prompt(self, index: int) -> Prompt:
        """The prompt of a row."""
        text, key, references, metadata = self.rows[index]
        return Prompt(
            text=text,
            key=key,
            dataset=self.name,
            weights=self.rewards,
            references=references,
            metadata=metadata,
        )


@dataclass(frozen=True, kw_only=True)
class PromptMix:
    """All sets of a run.

    Attributes:
        sets: at least one.
        sampling_mode: "sample_proportional" draws a set in proportion to rows * weight, so every row has its
            set's weight; "weight_only" in proportion to the weight alone.
        rewards: how each reward is made: {"scorer": name, option: value, ...}, by its name in the mix.
        held_out: rewards that are only watched.
    """

    sets: tuple[PromptSet, ...]
    sampling_mode: SamplingMode = "sample_proportional"
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()

    def draw(self, seed: int, number: int) -> Prompt:
        """The prompt of group `number` of a run."""
        rng, chosen = self._choose(seed, number)
        return chosen.prompt(int(rng.integers(len(chosen.rows))))

    def dataset_of(self, seed: int, number: int) -> str:
        """The name of the set that group `number` is from, without reading the row."""
        return self._choose(seed, number)[1].name

    def _choose(self, seed: int, number: int) -> tuple[np.random.Generator, PromptSet]:
        rng = np.random.default_rng((seed, 0x9A0E, number))
        return rng, self.sets[int(rng.choice(len(self.sets), p=self.shares()))]

    def shares(self) -> np.ndarray:
        """How often each set is drawn, adding up to 1."""
        is_proportional = self.sampling_mode == "sample_proportional"
        sizes = [len(one.rows) if is_proportional else 1 for one in self.sets]
        weights = np.array([one.weight * size for one, size in zip(self.sets, sizes, strict=True)])
        return weights / weights.sum()

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Every reward that is trained on, sorted."""
        return tuple(sorted({name for one in self.sets for name in one.rewards}))


def is_mix(path: str | Path) -> bool:
    """Whether a file of prompts is a mix, which names the rewards of its sets, by its suffix."""
    return Path(path).suffix.lower() not in _FORMATS


def open_prompts(
    path: str | Path, rewards: Mapping[str, float] | None = None, *, is_scored: bool = True
) -> PromptMix:
    """The prompts a file holds: a mix (.yaml), or one set (.txt, .jsonl, .parquet) scored with `rewards`.

    Args:
        path: the file.
        rewards: of a file that is no mix.
        is_scored: whether rewards are needed; without, those that a mix names are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names everything that is wrong with the file at once.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {path.absolute()}")
    if not is_mix(path):
        if not rewards and is_scored:
            raise ValueError(f"{path} is scored with nothing; name rewards, or list the file in a .yaml mix")
        return PromptMix(
            sets=(PromptSet(name=path.stem, rows=_open(path), weight=1.0, rewards=rewards or {}),)
        )
    content = read_yaml(path, "a mix of prompts needs PyYAML", "rl")
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no mix of prompts: expected datasets, found {type(content).__name__}")
    return _PromptMixReader(path, content, is_scored).mix()


class _PromptMixReader:
    """Turns a mix's content into prompts, collecting what is wrong on the way."""

    def __init__(self, path: Path, content: dict[str, Any], is_scored: bool = True) -> None:
        self.path, self.content, self.is_scored = path, content, is_scored
        self.problems: list[str] = []

    def mix(self) -> PromptMix:
        unknown = [key for key in self.content if key not in _TOP]
        self.problems += [f"unknown field {key!r}; known: {', '.join(_TOP)}" for key in unknown]
        mode = self.content.get("sampling_mode", "sample_proportional")
        if mode not in ("sample_proportional", "weight_only"):
            self.problems.append(f"unknown sampling_mode {mode!r}; known: sample_proportional, weight_only")
        entries = self.content.get("datasets")
        if not isinstance(entries, list) or not entries:
            self.problems.append("datasets must be a list of at least one set")
            entries = []
        sets = [one for number, entry in enumerate(entries) for one in self._sets(number, entry)]
        names = [one.name for one in sets]
        self.problems += [
            f"two sets are called {name!r}" for name in {n for n in names if names.count(n) > 1}
        ]
        if self.problems:
            listed = "".join(f"\n  - {problem}" for problem in self.problems)
            raise ValueError(f"the prompts {self.path} have {len(self.problems)} problem(s):{listed}")
        made = self.content.get("rewards") or {}
        return PromptMix(
            sets=tuple(sets),
            sampling_mode=mode,
            rewards={name: dict(options or {}) for name, options in made.items()},
            held_out=tuple(self.content.get("held_out") or ()),
        )

    def _sets(self, number: int, entry: Any) -> list[PromptSet]:
        """The set of an entry, or one of each kind; none where something is wrong."""
        if not isinstance(entry, dict):
            self.problems.append(f"datasets[{number}] must be a mapping, got {entry!r}")
            return []
        name = str(entry.get("name", f"datasets[{number}]"))
        self.problems += [
            f"{name}: unknown field {key!r}; known: {', '.join(_ENTRY)}" for key in entry if key not in _ENTRY
        ]
        weight = entry.get("sample_weight", 1)
        if not _is_weight(weight):
            self.problems.append(f"{name}: sample_weight must be above 0, got {weight!r}")
            return []
        rewards = self._rewards(name, entry.get("rewards")) if self.is_scored else {}
        found = self._rows(name, entry)
        if found is None or rewards is None:
            return []
        return [
            PromptSet(name=one, rows=rows, weight=weight * share, rewards=rewards)
            for one, (rows, share) in found.items()
        ]

    def _rewards(self, name: str, given: Any) -> dict[str, float] | None:
        parts = given if isinstance(given, list) else [given]
        found: dict[str, float] = {}
        for part in parts:
            if not isinstance(part, dict):
                self.problems.append(
                    f"{name}: rewards must be like [{{ocr: 0.7}}, {{clip_sim: 0.3}}], got {given!r}"
                )
                return None
            found |= part
        wrong = [key for key, value in found.items() if not _is_weight(value)]
        self.problems += [f"{name}: the weight of {key} must be above 0, got {found[key]!r}" for key in wrong]
        return {key: float(value) for key, value in found.items() if key not in wrong}

    def _rows(self, name: str, entry: dict[str, Any]) -> Mapping[str, tuple[_PromptRows, float]] | None:
        """Rows by the name of their set, each with its share of the entry's weight."""
        places = [place for place in _OPTIONS if place in entry]
        if len(places) != 1:
            self.problems.append(f"{name}: give either a path or {' or '.join(_WORLDS)}")
            return None
        (place,) = places
        among = {option for options in _OPTIONS.values() for option in options}
        if wrong := [key for key in entry if key in among and key not in _OPTIONS[place]]:
            self.problems.append(f"{name}: a set with {place} has no {', '.join(wrong)}")
            return None
        options = {key: entry[key] for key in _OPTIONS[place] if key in entry}
        try:
            if place in _WORLDS:
                from deepgen.data.world_prompts import ShapesRows, storybook_rows  # here: loads whole worlds

                if place == "shapes":
                    return {name: (ShapesRows(entry["shapes"], **options), 1.0)}
                return storybook_rows(name, entry["storybook"], **options)
            root = self.path.parent / Path(str(self.content.get("root") or ".")).expanduser()
            return {name: (_open(root / Path(str(entry["path"])).expanduser(), root), 1.0)}
        except (OSError, ValueError, TypeError) as error:
            self.problems.append(f"{name}: {error}")
            return None


class TextRows:
    """One prompt a line; empty lines are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [line for line in text_lines(path) if line.content.strip()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[str, str, tuple[Image.Image, ...], dict[str, Any]]:
        line = self.lines[index]
        key = f"{self.path}:{line.number - 1}"
        try:
            return line.text().strip(), key, (), {}
        except ValueError as error:
            raise RowError(f"{key}: {error} (line {line.number} of the file)") from error

    def check(self, index: int) -> None:
        """RowError where a row cannot be used; opens no picture."""
        self[index]


class RecordRows:
    """Records with a `prompt`, else a `caption`, and pictures under `references`, by paths from the file's
    folder that stay in it, or in the mix's root.
    """

    def __init__(self, path: Path, records: Sequence[Mapping[str, Any]], root: Path | None = None) -> None:
        self.path, self.records = path, records
        self.place = ImageFolders(path.parent, *([] if root is None else [root]))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[str, str, tuple[Image.Image, ...], dict[str, Any]]:
        text, key, places, record = self._fields(index)
        try:
            return text, key, tuple(load_image(place) for place in places), record
        except (OSError, ImageError) as error:
            raise RowError(f"{key}: {error}") from error

    def check(self, index: int) -> None:
        """RowError where a row cannot be used; opens no picture."""
        _, key, places, _ = self._fields(index)
        for place in places:
            try:
                is_there = place.is_file()
            except OSError as error:  # a name longer than the system has
                raise RowError(f"{key}: {str(place)[:200]}: {error.strerror}") from error
            if not is_there:
                raise RowError(f"{key}: there is no picture at {place}")

    def _fields(self, index: int) -> tuple[str, str, list[Path], dict[str, Any]]:
        """Text, key, places of the references, and the rest of a row."""
        record, key = dict(self.records[index]), f"{self.path}:{index}"
        names = [name for name in ("prompt", "caption") if isinstance(record.get(name), str)]
        if not names:
            raise RowError(f"{key}: expected text under prompt or caption, found: {', '.join(record)}")
        text = text_field(record, names[0], key)
        del record[names[0]]
        shown = record.pop("references", None) or []
        places = shown if isinstance(shown, list) else [shown]
        return text, key, [self.place.path(place, "references", key) for place in places], record


def _open(path: Path, root: Path | None = None) -> _PromptRows:
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {path.absolute()}")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        rows: TextRows | RecordRows = TextRows(path)
    elif suffix == ".jsonl":
        rows = RecordRows(path, RecordFile(path), root)
    elif suffix == ".parquet":
        rows = RecordRows(path, _parquet_rows(path), root)
    else:
        raise ValueError(f"{path}: prompts are {', '.join(_FORMATS)} files")
    if not len(rows):
        raise ValueError(f"{path} holds no prompts")
    _check_all(rows)
    return rows


def _check_all(rows: TextRows | RecordRows) -> None:
    """RowError that names the first rows that cannot be used: a run should not meet them after hours."""
    problems: list[str] = []
    for index in range(len(rows)):
        try:
            rows.check(index)
        except RowError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise RowError(
            f"{len(problems)} of {len(rows)} prompts cannot be used: {'; '.join(problems[:NAMED])}{more}"
        )


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("reading parquet needs pyarrow", "rl", error) from error
    from deepgen.data.sources.parquet import read_metadata  # here: few prompts are tables

    read_metadata(path)  # names a file that is cut short
    return pyarrow.parquet.read_table(path).to_pylist()


def _is_weight(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf
