"""ImgEdit-Bench, basic: 737 edits of nine kinds, graded in one call by a prompt that depends on the kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, count_problem, mean
from deepgen.evaluation.data_rows import items_of, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, grades
from deepgen.evaluation.text_files import read_object

NUM_GRADES = 3
KINDS = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")
_COUNTS = {
    "extract": 117,
    "style": 100,
    "add": 95,
    "adjust": 94,
    "background": 94,
    "replace": 92,
    "remove": 86,
    "action": 36,
    "compose": 23,
}
_RUBRIC = """\
The first picture was edited into the second with this instruction: {instruction}
Give three whole numbers from 1 to 5: how fully the instruction was followed, how natural the result looks,
and how well everything else was kept. The second and third are not above the first. Reply with one short
sentence and then exactly three lines:
Instruction: <1-5>
Naturalness: <1-5>
Preservation: <1-5>"""


@dataclass(frozen=True, kw_only=True)
class ImgEdit(JudgeBenchmark):
    """One call an edit."""

    name = "imgedit"
    is_edit = True
    rubrics = dict.fromkeys(KINDS, _RUBRIC)
    notes = {
        "official": "a failed call is left out, where the official script stops; the mean is that of all "
        "lines with a number, however many there are",
        "fixed": "a failed call is left out; a reply has three grades from 1 to 5 or is asked for again",
    }

    def files(self) -> tuple[DataFile, ...]:
        """The list of edits; its pictures lie in folders beside it."""
        return (
            DataFile(
                path="basic_edit.json",
                origin="https://github.com/PKU-YuanGroup/ImgEdit, Benchmark/Basic (revision 547185d); "
                "pictures from https://huggingface.co/datasets/sysuyy/ImgEdit, Benchmark.tar (singleturn/)",
                sha256="5ee9b7d61e918692416f79896300f738598c83adff8de737b25be4aaff72dc69",
                num_rows=737,
                aliases=("singleturn.json", "singleturn/singleturn.json"),
            ),
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """In the file's order."""
        (file,) = self.files()
        path = self.locate(data_dir, file.path, *file.aliases)

        def item(name: str, row: Mapping[str, Any]) -> Item:
            if row["edit_type"] not in KINDS:
                raise ValueError(f"edit_type is {row['edit_type']!r}, none of {', '.join(KINDS)}")
            return Item(
                id=name,
                category=row["edit_type"],
                prompt=text_of(row, "prompt").strip(),
                references=(path.parent / text_of(row, "id"),),
            )

        items, problems = items_of(self.label, read_object(path).items(), item)
        found = Counter(item.category for item in items)
        problems += [
            problem
            for kind, expected in _COUNTS.items()
            for problem in count_problem(self.label, f"edits of kind {kind}", expected, found[kind])
        ]
        return items, problems

    def image_path(self, item: Item, sample: int) -> str:
        """images/KEY.png."""
        return f"images/{item.id}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """By the kind of edit."""
        return [
            Question(
                key=item.category,
                fields={"instruction": item.prompt},
                images=(references[0], image),
            )
        ]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """Three grades."""
        return grades("Instruction", "Naturalness", "Preservation", low=1, high=5)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The mean of the grades."""
        return parse(reply, self.protocol)

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """In [1, 5]."""
        score = answers[item.category]
        return score, {"edit_type": item.category, "score": score}

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [1, 5]."""
        return aggregate([row for score in scores for row in score.rows])


def parse(reply: str, protocol: Protocol = "official") -> float | None:
    """Mean of the grades, rounded to 2 digits, or None without any.

    A line counts when it splits at ": " into two parts of which the second is all digits, whatever the first
    is. Under "fixed" there have to be three such lines, from 1 to 5.
    """
    grades = []
    for line in reply.splitlines():
        parts = line.strip().split(": ")
        if len(parts) == 2 and parts[1].isdecimal():
            grades.append(float(parts[1][:9]))
    if protocol == "fixed" and (len(grades) != NUM_GRADES or not all(1 <= grade <= 5 for grade in grades)):
        return None
    return round(mean(grades), 2) if grades else None


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means in [1, 5] of each kind, rounded to 2 digits, `overall`, their plain mean, and `items`, that of
    all items.

    Args:
        rows: `edit_type` and `score`.
    """
    kinds = [kind for kind in KINDS if any(row["edit_type"] == kind for row in rows)]
    table = {
        kind: round(mean([float(row["score"]) for row in rows if row["edit_type"] == kind]), 2)
        for kind in kinds
    }
    return {
        "overall": mean(list(table.values())),
        **table,
        "items": mean([float(row["score"]) for row in rows]),
    }


benchmark = ImgEdit
