"""The interface of a benchmark: prompts from official files, paths of pictures, a verdict on each, one table.

One file each in `evaluation/benchmarks/`; the file's name is the benchmark's. It offers `benchmark`, a class
that is made with a variant. Scores of two versions are never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from deepgen.checkpoints.file_hash import hash_file
from deepgen.data.images import open_image
from deepgen.evaluation.scorers import Scorers
from deepgen.generation import GenerationSettings, refuse_unknown, standard_names

Protocol = Literal["official", "fixed"]
Reference = Path | Callable[[], Image.Image]


class CannotDraw(ValueError):
    """One item cannot be drawn, whatever is tried: refused, missing, broken."""


@dataclass(frozen=True, kw_only=True)
class Settings(GenerationSettings):
    """How a benchmark draws: generation settings that are part of it, so its defaults are the published ones
    and not the model's. Steps and guidance that are None are the model's own.

    Attributes:
        num_samples: pictures of each item.
        seed: the base seed; see `deepgen.evaluation.seeds`.
    """

    num_inference_steps: int | None = 50
    guidance_scale: float | None = 4.0
    negative_prompt: str = ""
    height: int = 512
    width: int = 512
    num_samples: int = 1
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse pictures of nothing."""
        super().__post_init__()
        for name in ("height", "width", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def recorded(self) -> dict[str, Any]:
        """What a run's manifest says; preset and solver belong to the model and stand with it."""
        return {name: value for name, value in asdict(self).items() if name not in ("preset", "solver")}


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """An official file.

    Attributes:
        path: under the benchmark's folder in the data folder.
        origin: where to get it.
        sha256: of the file that was seen; None where none was.
        num_rows: what it holds, for the reader.
        aliases: other names it goes by.
    """

    path: str
    origin: str
    sha256: str | None = None
    num_rows: int | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to draw.

    Attributes:
        id: unique within the variant, and safe in a file name.
        category: what tables and slices go by.
        prompt: words for the model.
        references: pictures an edit starts from.
        metadata: what scoring needs.
        fault: why the row of the data is no item; it is then neither drawn nor graded.
    """

    id: str
    category: str
    prompt: str
    references: tuple[Reference, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    def open_references(self) -> list[Image.Image]:
        """The references as a viewer shows them, in their own sizes; CannotDraw where one is no picture."""
        opened = []
        for number, reference in enumerate(self.references):
            try:
                opened.append(open_image(reference if isinstance(reference, Path) else reference()))
            except (OSError, TypeError, ValueError) as error:
                name = reference if isinstance(reference, Path) else f"picture {number} of {self.id}"
                raise CannotDraw(f"{name} cannot be opened ({error})") from error
        return opened


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """The verdict on the pictures of one item.

    Attributes:
        item: its id.
        category: its category.
        value: one number, higher is better; what items are compared and sorted by. None without any verdict.
        rows: what the benchmark's formula is fed with; plain values.
        words: what the scorer saw or said.
        problems: what could not be judged and why, one line each.
        num_expected, num_scored: pictures, and those with a verdict.
        num_questions, num_answered: what a judge was asked about the pictures that are there, and what it
            answered; 0 where there is no judge.
    """

    item: str
    category: str
    value: float | None
    rows: tuple[Mapping[str, Any], ...] = ()
    words: str = ""
    problems: tuple[str, ...] = ()
    num_expected: int = 1
    num_scored: int = 1
    num_questions: int = 0
    num_answered: int = 0


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Base of all benchmarks; a subclass says what differs.

    Attributes:
        variant: one of `variants`.
        protocol: "official" repeats known faults of the official scorer, "fixed" does what was meant.
    """

    variant: str = ""
    protocol: Protocol = "official"

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    variants: ClassVar[tuple[str, ...]] = ("",)  # the first is the default
    needs: ClassVar[tuple[str, ...]] = ()  # of detector, reader, tower, vqa, judge
    is_edit: ClassVar[bool] = False
    settings: ClassVar[Settings] = Settings()
    min_coverage: ClassVar[float] = 0.99  # share of pictures with a verdict below which there is no score
    headline: ClassVar[str] = "overall"  # the number that is quoted
    item_metric: ClassVar[str] = ""  # the number of the table that is compared by item; "" is the headline
    source_file: ClassVar[Path | None] = None  # of a benchmark that was loaded by its path
    sheet_path: ClassVar[str] = ""  # where official generators put all samples of item {id} on one sheet
    notes: ClassVar[Mapping[str, str]] = {}  # by protocol, what is done differently

    def __post_init__(self) -> None:
        """The default variant, or one that there is."""
        if not self.variant:
            object.__setattr__(self, "variant", self.variants[0])
        if self.variant not in self.variants:
            raise ValueError(
                f"{self.name} has no variant {self.variant!r}; known: {', '.join(self.variants)}"
            )

    @property
    def label(self) -> str:
        """Name and variant in one word, also the name of its folder."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    def files(self) -> tuple[DataFile, ...]:
        """The official files of the variant."""
        return ()

    def scoring_files(self) -> tuple[DataFile, ...]:
        """Official files that only scoring needs; verdicts made with others are not reused."""
        return ()

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """Items in the official order, and everything wrong with the files beyond their hashes."""
        raise NotImplementedError(f"{self.name} does not say what it draws")

    def image_path(self, item: Item, sample: int) -> str:
        """Where the picture of a sample lies under the benchmark's folder; `images/` is the official
        layout.
        """
        raise NotImplementedError(f"{self.name} does not say where pictures lie")

    def finish(self, folder: Path, item: Item, paths: Sequence[Path]) -> None:
        """Write what else the official layout holds of an item, once all its pictures are there."""

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """The verdict on the pictures of one item, in the order of its samples."""
        raise NotImplementedError(f"{self.name} does not say how it scores")

    def failed_rows(self, item: Item, count: int) -> tuple[dict[str, Any], ...]:
        """Rows for `aggregate` of as many pictures of an item as have no verdict; none leaves them out."""
        return ()

    def item_values(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float | None]:
        """The value of each item by the rule that `aggregate` follows, by which items are compared: higher
        where `item_metric` of a table of the item alone is higher, None where it has no part in that.
        """
        return {score.item: score.value for score in scores}

    def check_scoring(self, items: Sequence[Item]) -> list[str]:
        """What is missing for scoring though not for drawing, one line each."""
        return []

    def scorer_version(self, scorers: Scorers) -> str:
        """What verdicts were made with; others are not reused."""
        parts = [f"{self.label}-{self.version}-{self.protocol}"]
        return " ".join([*parts, *(scorers.version(need) for need in self.needs)])

    def num_questions(self, items: Sequence[Item]) -> int:
        """Questions a judge will be asked at most without retries; 0 where there is no judge."""
        return 0

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """Named numbers by the official formula."""
        raise NotImplementedError(f"{self.name} does not say how scores add up")

    # --- data ---------------------------------------------------------------------------------------------

    def locate(self, data_dir: Path, path: str, *aliases: str) -> Path:
        """Where a file or folder is: in the benchmark's own folder of the data folder, or in the data folder
        itself, under one of its names. The first of those places where it is nowhere.
        """
        places = [folder / name for folder in (data_dir / self.name, data_dir) for name in (path, *aliases)]
        return next((place for place in places if place.exists()), places[0])

    def check_files(self, data_dir: Path) -> tuple[list[str], list[str]]:
        """(missing, altered) official files, one line each."""
        missing, altered = [], []
        for file in self.files():
            path = self.locate(data_dir, file.path, *file.aliases)
            if not path.is_file():
                missing.append(f"{path} is missing; get it from {file.origin}")
            elif file.sha256 is not None and (found := hash_file(path)) != file.sha256:
                altered.append(f"{path} is altered: sha256 {found[:12]}... instead of {file.sha256[:12]}...")
        return missing, altered

    def items(self, data_dir: Path, *, allow_altered: bool = False) -> list[Item]:
        """Items in the official order.

        Args:
            data_dir: a folder with one folder for each benchmark.
            allow_altered: read files whose hash or counts differ from the official ones.

        Raises:
            FileNotFoundError: official files are missing; all of them are named.
            ValueError: files are altered, or their content is not what was expected; everything is listed.
        """
        missing, altered = self.check_files(data_dir)
        if missing:
            raise FileNotFoundError("; ".join(missing))
        items, problems = self.read_items(data_dir)
        ids = [item.id for item in items]
        doubles = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
        fatal = [f"{self.label}: item {name} is there twice" for name in doubles]
        fatal += [f"{self.label}: item {name!r} is no file name" for name in ids if not is_safe(name)]
        fatal += [
            f"{self.label}: item {item.id} has no prompt"
            for item in items
            if not item.prompt.strip() and not item.fault
        ]
        fatal += missing_references(self.label, items)
        if all(item.fault for item in items):
            fatal += problems if items else []
            fatal.append(f"{self.label}: no items in {data_dir}")
        if not allow_altered:
            fatal = [*altered, *problems, *fatal]
        if fatal:
            shown = "; ".join(fatal[:8])
            raise ValueError(shown if len(fatal) <= 8 else f"{shown}; and {len(fatal) - 8} more")
        return items


def settings_with(settings: Settings, **changes: Any) -> Settings:
    """Settings with those changes that are not None; UnknownFieldError for one that there is not."""
    refuse_unknown(changes, [one.name for one in fields(settings)])
    return replace(settings, **{key: value for key, value in changes.items() if value is not None})


def with_standard_names(drawing: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's `drawing`, of whatever version, with today's names of the settings."""
    return {**drawing, "settings": standard_names(drawing["settings"], ["num_steps"])}


def is_safe(name: str) -> bool:
    """Whether a name can be part of a path: no separators, no dots in front, not empty."""
    return bool(name) and not any(letter in name for letter in "/\\\0") and not name.startswith(".")


def missing_references(label: str, items: Sequence[Item]) -> list[str]:
    """Pictures to edit that are not there, one line each."""
    return [
        f"{label}: item {item.id} edits {reference}, which is missing"
        for item in items
        for reference in item.references
        if isinstance(reference, Path) and not reference.is_file()
    ]


def count_problem(label: str, what: str, expected: int, found: int) -> list[str]:
    """One line where a count is not the official one."""
    return [] if expected == found else [f"{label}: {found} {what} instead of {expected}"]


def mean(values: Sequence[float]) -> float:
    """Plain mean; ValueError for nothing, since an empty mean would be read as a score."""
    if not values:
        raise ValueError("the mean of no values is no score")
    return sum(values) / len(values)
