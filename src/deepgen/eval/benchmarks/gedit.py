"""GEdit-Bench (Step1X-Edit, 2025): 606 edits in each of two languages, two questions each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.eval.benchmark import DataFile, Item, ItemScore, count_problem
from deepgen.eval.forms import Form, two_scores
from deepgen.eval.judged import Judged, Question
from deepgen.eval.scoring import Protocol, gedit
from deepgen.extras import missing_extra

_COUNTS = dict(zip(gedit.TASKS, (40, 40, 40, 40, 70, 60, 60, 57, 60, 99, 40), strict=True))
_SEMANTICS = """\
The first picture was edited into the second with this instruction: {instruction}
Give two whole numbers from 0 to 10: how well the instruction was followed, and how little was changed beyond
it
(10: nothing that should have stayed). Reply with JSON only: {"score": [a, b], "reasoning": "one sentence"}"""
_QUALITY = """\
Give two whole numbers from 0 to 10 for this picture: how natural it looks, and how free it is of artefacts
(10: none). Reply with JSON only: {"score": [a, b], "reasoning": "one sentence"}"""


@dataclass(frozen=True, kw_only=True)
class GEdit(Judged):
    """The result is shown in the size of its source."""

    name = "gedit"
    variants = ("en", "cn")
    is_edit = True
    headline = "G_O"
    rubrics = {"semantics": _SEMANTICS, "quality": _QUALITY}
    notes = {
        "official": "a reply without numbers is a failed item; the official scorer throws dice there",
        "fixed": "the same",
    }

    def files(self) -> tuple[DataFile, ...]:
        """None by name: a copy saved to disk, or the parquet files of the Hub."""
        return ()

    def check_files(self, data_dir: Path) -> tuple[list[str], list[str]]:
        """A folder written by `datasets`, or parquet files; no hashes are known."""
        folder = data_dir / self.name
        if any(folder.rglob("*.parquet")) or any(folder.rglob("dataset_info.json")):
            return [], []
        origin = "https://huggingface.co/datasets/stepfun-ai/GEdit-Bench (split train, 1,212 rows)"
        return [f"{folder} holds no parquet files and no saved dataset; get it from {origin}"], []

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """Rows of one language."""
        rows = _rows(data_dir / self.name)
        items = []
        for index, language in enumerate(rows["instruction_language"]):
            if language != self.variant:
                continue
            items.append(
                Item(
                    id=str(rows["key"][index]),
                    category=rows["task_type"][index],
                    prompt=rows["instruction"][index].strip(),
                    references=(_opener(rows, index),),
                    metadata={"intersection": bool(rows["Intersection_exist"][index])},
                )
            )
        found = Counter(item.category for item in items)
        problems = [
            problem
            for task, expected in _COUNTS.items()
            for problem in count_problem(self.label, f"edits of {task}", expected, found[task])
        ]
        return items, problems

    def picture_path(self, item: Item, sample: int) -> str:
        """fullset/TASK/LANGUAGE/KEY.png."""
        return f"fullset/{item.category}/{self.variant}/{item.id}.png"

    def finish(self, folder: Path, item: Item, pictures: Sequence[Path]) -> None:
        """The source beside the result."""
        from deepgen.data.png import save_png

        save_png(item.open_references()[0], pictures[0].with_name(f"{item.id}_SRCIMG.png"))

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """About the edit, and about the result alone."""
        source = references[0]
        result = image.convert("RGB").resize(source.size)
        return [
            Question(key="semantics", fields={"instruction": item.prompt}, images=(source, result)),
            Question(key="quality", images=(result,)),
        ]

    def form(self, item: Item, question: Question) -> Form:
        """Two numbers."""
        return two_scores(0, 10)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """Numbers from 0 to 10."""
        return gedit.parse(reply)

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """O in [0, 10]."""
        values = gedit.overall(answers["semantics"], answers["quality"])
        return values["O"], {
            **values,
            "task_type": item.category,
            "intersection": item.metadata["intersection"],
        }

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 10]."""
        return gedit.aggregate([row for score in scores for row in score.rows])


def _rows(folder: Path) -> dict[str, Any]:
    """Columns; pictures as bytes."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("GEdit-Bench needs `datasets`", "eval", error) from error
    parquet = sorted(str(path) for path in folder.rglob("*.parquet"))
    if parquet:
        table: Any = datasets.Dataset.from_parquet(parquet)
    else:
        table = datasets.load_from_disk(str(next(folder.rglob("dataset_info.json")).parent))
        table = table["train"] if isinstance(table, datasets.DatasetDict) else table
    for name in ("input_image", "input_image_raw"):
        if name in table.column_names:
            table = table.cast_column(name, datasets.Image(decode=False))
    names = ("key", "task_type", "instruction", "instruction_language", "input_image", "Intersection_exist")
    lacking = [name for name in names if name not in table.column_names]
    if lacking:
        raise ValueError(
            f"{folder} has no column {', '.join(lacking)}; it has {', '.join(table.column_names)}"
        )
    return {name: table[name] for name in names}


def _opener(rows: Mapping[str, Any], index: int) -> Callable[[], Image.Image]:
    return lambda: Image.open(BytesIO(rows["input_image"][index]["bytes"])).convert("RGB")


benchmark = GEdit
