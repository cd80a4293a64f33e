"""UniREditBench: 2,700 edits of real scenes and of games, judged against a text and a reference picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, count_problem, mean
from deepgen.evaluation.data_rows import items_of, name_of, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question, parse_final_score
from deepgen.evaluation.response_schema import ResponseSchema, one_grade
from deepgen.evaluation.text_files import read_list

_END = 'End with one line "Final Score: X".'
_CONSISTENCY = f"""\
The first picture was to be edited into the second with this instruction: {{instruction}}
From 1 to 5, how well was everything kept that the instruction leaves alone? {_END}"""
_REASONING = f"""\
The first picture was to be edited with this instruction: {{instruction}}
The right result in words: {{reference}}
The second picture shows the right result, the third what was made. From 1 to 5, how well does it agree with
both? {_END}"""
_QUALITY = f"From 1 to 5, how clear and natural is this picture, free of artefacts? {_END}"


@dataclass(frozen=True, kw_only=True)
class UniREditBench(JudgeBenchmark):
    """Three calls an edit."""

    name = "unireditbench"
    is_edit = True
    side = 768
    attempts = 5
    rubrics = {"consistency": _CONSISTENCY, "reasoning": _REASONING, "quality": _QUALITY}

    def files(self) -> tuple[DataFile, ...]:
        """The list; pictures lie beside it."""
        return (
            DataFile(
                path="data.json",
                origin="https://huggingface.co/datasets/maplebb/UniREditBench, with original_image.zip and "
                "reference_image.zip unpacked beside it",
                num_rows=2700,
            ),
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """In the file's order; rules of a game come before the instruction."""
        path = self.locate(data_dir, "data.json")

        def item(name: str, row: Mapping[str, Any]) -> Item:
            instruction, rules = text_of(row, "instruction").strip(), row.get("rules") or ""
            paths = (text_of(row, "original_image_path"), text_of(row, "reference_image_path"))
            return Item(
                id=f"{text_of(row, 'name')}-{name_of(row, 'idx')}",
                category=row["name"],
                prompt=f"{rules} {instruction}" if rules else instruction,
                references=tuple(path.parent / name for name in paths),
                metadata={
                    "index": row["idx"],
                    "judged": f"{rules}\n{instruction}" if rules else instruction,
                    "reference": str(row.get("reference_effect") or ""),
                    "world": "game" if rules else "real",
                },
            )

        named = [(f"row{index}", row) for index, row in enumerate(read_list(path))]
        items, problems = items_of(self.label, named, item)
        return items, [*problems, *count_problem(self.label, "edits", 2700, len(items))]

    def image_path(self, item: Item, sample: int) -> str:
        """images/NAME/IDX.png."""
        return f"images/{item.category}/{item.metadata['index']}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """About what was kept, what was reached, and how it looks."""
        source, target = references
        fields = {"instruction": item.metadata["judged"], "reference": item.metadata["reference"]}
        return [
            Question(key="consistency", fields=fields, images=(source, image)),
            Question(key="reasoning", fields=fields, images=(source, target, image)),
            Question(key="quality", fields=fields, images=(image,)),
        ]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """One grade."""
        return one_grade(1, 5)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The first number, from 0 to 5: a 0 counts in the official script, as in that of RISEBench."""
        numbers = parse_final_score(reply)
        return numbers[0] if numbers is not None and 0 <= numbers[0] <= 5 else None

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """In [1, 5]."""
        value = score(**answers)
        return value, {"name": item.category, "world": item.metadata["world"], **answers}

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In percent; both protocols are the same."""
        return aggregate([row for score in scores for row in score.rows])


def score(consistency: float, reasoning: float, quality: float) -> float:
    """0.3 consistency, 0.5 reasoning and 0.2 quality, in [1, 5]."""
    return 0.3 * consistency + 0.5 * reasoning + 0.2 * quality


def is_right(consistency: float, reasoning: float, quality: float) -> bool:
    """Full marks in all three."""
    return consistency == reasoning == quality == 5


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Percentages: `overall`, 25 (mean - 1) of all scored samples, `accuracy`, and the means of
    `consistency`, `reasoning` and `quality`, of all and by `name` and `world`.

    Args:
        rows: `name` (the sub-dimension), `consistency`, `reasoning`, `quality` and perhaps `world` (real or
            game).
    """
    groups: list[tuple[str, Sequence[Mapping[str, Any]]]] = [("", rows)]
    for key in ("world", "name"):
        for value in sorted({str(row[key]) for row in rows if row.get(key)}):
            groups.append((f" {value}", [row for row in rows if row.get(key) == value]))
    table: dict[str, float] = {}
    for suffix, chosen in groups:
        grades = [(row["consistency"], row["reasoning"], row["quality"]) for row in chosen]
        table[f"overall{suffix}"] = 25 * (mean([score(*each) for each in grades]) - 1)
        table[f"accuracy{suffix}"] = 100 * mean([float(is_right(*each)) for each in grades])
        for key, values in zip(
            ("consistency", "reasoning", "quality"), zip(*grades, strict=True), strict=True
        ):
            table[f"{key}{suffix}"] = 25 * (mean(values) - 1)
    return table


benchmark = UniREditBench
