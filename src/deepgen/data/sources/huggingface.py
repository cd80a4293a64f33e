"""Data sets of the Hugging Face library: a folder written by `save_to_disk`, or a name on the hub.

Pictures are taken undecoded, as paths or bytes, so that they go through the same door as everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.data.example import Example, Task
from deepgen.data.fields import ImageFolders, check_first_rows, image_value, images_value, text_field
from deepgen.extras import missing_extra


@dataclass(frozen=True, kw_only=True)
class HuggingFaceOptions:
    """Which data set, and which columns mean what.

    Attributes:
        path: a folder written by `save_to_disk`; or else
        dataset: a name on the hub, downloaded by the library (with `config` where it has several).
        references: columns of the pictures given to an edit; a column may hold a list. None: to generate.
    """

    path: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    text: str = "text"
    target: str = "image"
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """One of the two places."""
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path (a folder of save_to_disk) or dataset (a name on the hub)")


_ANYWHERE = ImageFolders(Path(), anywhere=True)  # the library's own cache holds the files it names


class HuggingFace:
    """Rows of a data set."""

    def __init__(self, options: HuggingFaceOptions) -> None:
        self.options = options
        self.task: Task = "edit" if options.references else "generate"
        self.name = options.path or options.dataset or ""
        rows = _load(options)
        wanted = [options.text, options.target, *options.references]
        missing = [column for column in wanted if column not in rows.column_names]
        if missing:
            raise ValueError(
                f"{self.name}: expected the columns {', '.join(wanted)}, found: "
                f"{', '.join(rows.column_names)}; name them with the options text, target and references"
            )
        self.rows = _undecoded(rows.select_columns(list(dict.fromkeys(wanted))))
        check_first_rows(self, self.name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row, key, folder = self.rows[index], f"{self.name}:{index}", _ANYWHERE
        return Example(
            task=self.task,
            text=text_field(row, self.options.text, key),
            target=image_value(row[self.options.target], self.options.target, key, folder),
            references=images_value(row, self.options.references, key, folder),
            key=key,
        )


def _load(options: HuggingFaceOptions) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("Hugging Face data sets need `datasets`", "train", error) from error
    if options.dataset is not None:
        return datasets.load_dataset(options.dataset, options.config, split=options.split)
    path = Path(options.path or "").expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path.absolute()}; expected one written by save_to_disk")
    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's on files that are cut short are of these kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no whole data set of save_to_disk: {reason}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if options.split not in loaded:
        raise ValueError(f"{path}: there is no split {options.split!r}; known: {', '.join(loaded)}")
    return loaded[options.split]


def _undecoded(rows: Any) -> Any:
    import datasets

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):  # a list of pictures
            rows = rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


options, source = HuggingFaceOptions, HuggingFace
