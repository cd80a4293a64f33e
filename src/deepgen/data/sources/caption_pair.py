"""Format A, "caption pair": an array of `{"image": path, "annotation": path}`, the original's first stage.

The caption lies in a JSON file of its own, under a key that must be named: the sets keep several texts under
similar keys, and `caption` is often the raw alt text of the web page rather than the rewritten caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepgen.data.example import Example, ImageLimits, RowError, Task
from deepgen.data.fields import ImageFolders, check_first_rows, path_field, text_field
from deepgen.data.records import Records
from deepgen.text_lines import json_value


@dataclass(frozen=True, kw_only=True)
class CaptionPairOptions:
    """Where pictures and captions lie, which text is meant, and which pictures are refused.

    Attributes:
        caption_key: the text's key in the annotation file.
        min_side: both sides of a picture must exceed it.
        max_ratio: of the longer side to the shorter; a picture must stay below it.
        outside: paths may lead out of the two folders.
    """

    path: str
    image_dir: str
    caption_dir: str
    caption_key: str
    min_side: int = 80
    max_ratio: float = 10.0
    outside: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that no picture meets."""
        ImageLimits(min_side=self.min_side, max_ratio=self.max_ratio)


class CaptionPairs:
    """Pictures with captions in files beside them."""

    task: Task = "generate"

    def __init__(self, options: CaptionPairOptions) -> None:
        self.records = Records(options.path)
        self.notes = self.records.notes
        self.images = ImageFolders(Path(options.image_dir).expanduser(), anywhere=options.outside)
        self.captions = ImageFolders(Path(options.caption_dir).expanduser(), anywhere=options.outside)
        self.caption_key = options.caption_key
        self.limits = ImageLimits(min_side=options.min_side, max_ratio=options.max_ratio)
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record, key = self.records[index], self.records.key(index)
        annotation = path_field(record, "annotation", key, self.captions)
        return Example(
            task=self.task,
            text=self._caption(annotation, key),
            target=path_field(record, "image", key, self.images),
            key=key,
            limits=self.limits,
        )

    def _caption(self, annotation: Path, key: str) -> str:
        try:
            content = json_value(annotation.read_bytes())
        except OSError as error:
            raise RowError(f"{key}: cannot read its caption {annotation}: {error.strerror}") from error
        except ValueError as error:
            raise RowError(f"{key}: its caption {annotation}: {error}") from error
        if not isinstance(content, dict):
            raise RowError(f"{key}: expected an object in {annotation}, found {type(content).__name__}")
        return text_field(content, self.caption_key, f"{key} ({annotation})")


options, source = CaptionPairOptions, CaptionPairs
