"""GEdit-Bench (Step1X-Edit, 2025): 606 edits in each of two languages, two questions each.

A reply gives two numbers of 0 to 10, after VIEScore (Ku et al., 2024).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.data.images import open_image
from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, count_problem, mean
from deepgen.evaluation.data_rows import items_of, name_of, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, two_scores
from deepgen.extras import missing_extra
from deepgen.image_colors import to_srgb

TASKS = (
    *("background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change"),
    *("subject-add", "subject-remove", "subject-replace", "text_change", "tone_transfer"),
)
_DELIMITER = "||V^=^V||"
_COUNTS = dict(zip(TASKS, (40, 40, 40, 40, 70, 60, 60, 57, 60, 99, 40), strict=True))
_SEMANTICS = """\
The first picture was edited into the second with this instruction: {instruction}
Give two whole numbers from 0 to 10: how well the instruction was followed, and how little was changed beyond
it
(10: nothing that should have stayed). Reply with JSON only: {"score": [a, b], "reasoning": "one sentence"}"""
_QUALITY = """\
Give two whole numbers from 0 to 10 for this picture: how natural it looks, and how free it is of artefacts
(10: none). Reply with JSON only: {"score": [a, b], "reasoning": "one sentence"}"""


@dataclass(frozen=True, kw_only=True)
class GEdit(JudgeBenchmark):
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

        def item(name: str, index: Mapping[str, int]) -> Item:
            row = {key: rows[key][index["row"]] for key in _NAMES if key != "input_image"}
            return Item(
                id=name_of(row, "key"),
                category=text_of(row, "task_type"),
                prompt=text_of(row, "instruction").strip(),
                references=(_opener(rows, index["row"]),),
                metadata={"intersection": bool(row["Intersection_exist"])},
            )

        languages = enumerate(rows["instruction_language"])
        named = [(f"row{index}", {"row": index}) for index, each in languages if each in (self.variant, None)]
        items, problems = items_of(self.label, named, item)
        found = Counter(item.category for item in items)
        problems += [
            problem
            for task, expected in _COUNTS.items()
            for problem in count_problem(self.label, f"edits of {task}", expected, found[task])
        ]
        return items, problems

    def image_path(self, item: Item, sample: int) -> str:
        """fullset/TASK/LANGUAGE/KEY.png."""
        return f"fullset/{item.category}/{self.variant}/{item.id}.png"

    def finish(self, folder: Path, item: Item, paths: Sequence[Path]) -> None:
        """The source beside the result."""
        from deepgen.data.png import save_png

        save_png(item.open_references()[0], paths[0].with_name(f"{item.id}_SRCIMG.png"))

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """About the edit, and about the result alone."""
        source = references[0]
        result = to_srgb(image).resize(source.size)
        return [
            Question(key="semantics", fields={"instruction": item.prompt}, images=(source, result)),
            Question(key="quality", images=(result,)),
        ]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """Two numbers."""
        return two_scores(0, 10)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """Numbers from 0 to 10."""
        return parse(reply)

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """O in [0, 10]."""
        values = overall(answers["semantics"], answers["quality"])
        return values["O"], {
            **values,
            "task_type": item.category,
            "intersection": item.metadata["intersection"],
        }

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 10]."""
        return aggregate([row for score in scores for row in score.rows])


_NAMES = ("key", "task_type", "instruction", "instruction_language", "input_image", "Intersection_exist")


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
    lacking = [name for name in _NAMES if name not in table.column_names]
    if lacking:
        raise ValueError(
            f"{folder} has no column {', '.join(lacking)}; it has {', '.join(table.column_names)}"
        )
    return {name: table[name] for name in _NAMES}


def _opener(rows: Mapping[str, Any], index: int) -> Callable[[], Image.Image]:
    return lambda: open_image(rows["input_image"][index]["bytes"])


def parse(reply: str) -> list[float] | None:
    """The scores of a reply, or None where there are none.

    A reply is JSON with `score` (a list or a number), between two delimiters or from the first brace to the
    last, also with keys that lack their quotes; without braces, one list of two whole numbers among words or
    in a fence, or a bare whole number. All are from 0 to 10. What is done otherwise than in the official
    parser stands in `deepgen.evaluation.official_differences`.
    """
    parts = reply.split(_DELIMITER)
    if len(parts) == 3:
        text = parts[1]
    elif "{" in reply and "}" in reply:
        text = reply[reply.index("{") : reply.rindex("}") + 1]
    else:
        return _bare(reply.strip())
    try:
        score = json.loads(text.replace("\n", "").replace("\r", "").strip())["score"]
    except (KeyError, TypeError):
        return None
    except (ValueError, RecursionError):
        score = _score_of_object(text)
    scores = score if isinstance(score, list) else [score]
    numbers = [float(x) for x in scores if isinstance(x, int | float) and not isinstance(x, bool)]
    if not scores or len(numbers) < len(scores) or not all(0 <= x <= 10 for x in numbers):
        return None
    return numbers


_NUMBER = r"(?:0|[1-9]\d{0,2})"
_PAIR = rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]"
_NAMED = rf"[{{,]\s*['\"]?score['\"]?\s*:\s*(?:{_PAIR}|(-?\d{{1,9}}(?:\.\d{{1,9}})?)\s*[,}}])"


def _score_of_object(text: str) -> list[float] | None:
    """The list or number named score of an object that is no JSON, such as one whose keys lack their quotes;
    the last where there are several, as in JSON.
    """
    found = re.findall(_NAMED, text.replace("\n", ""), flags=re.ASCII)
    return [float(number) for number in found[-1] if number] if found else None


def _bare(text: str) -> list[float] | None:
    pairs = re.findall(_PAIR, text, flags=re.ASCII)
    if len(pairs) == 1:
        numbers = [float(number) for number in pairs[0]]
    else:
        try:
            numbers = [float(int(text.removesuffix(".")))] if len(text) < 10 else [math.inf]
        except ValueError:
            return None
    return numbers if all(0 <= number <= 10 for number in numbers) else None


def overall(semantics: Sequence[float], quality: Sequence[float]) -> dict[str, float]:
    """`SC`, `PQ` (the least of each list) and `O`, the root of their product, in [0, 10]."""
    sc, pq = min(semantics), min(quality)
    return {"SC": sc, "PQ": pq, "O": math.sqrt(sc * pq)}


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means in [0, 10]: `G_SC`, `G_PQ`, `G_O`, plain means of the task types, and those of each type.

    Args:
        rows: `task_type`, `SC`, `PQ`, `O` and `intersection` of one language. Where some rows are of the
            intersection, the three numbers over those are given too.
    """
    table: dict[str, float] = {}
    for suffix, chosen in (("", rows), (" intersection", [row for row in rows if row.get("intersection")])):
        tasks = [task for task in TASKS if any(row["task_type"] == task for row in chosen)]
        for key in ("SC", "PQ", "O"):
            means = {
                task: mean([float(row[key]) for row in chosen if row["task_type"] == task]) for task in tasks
            }
            if means:
                table[f"G_{key}{suffix}"] = mean(list(means.values()))
            if not suffix:
                table.update({f"{key} {task}": value for task, value in means.items()})
    return table


benchmark = GEdit
