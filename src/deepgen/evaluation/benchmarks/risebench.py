"""RISEBench: edits that need reasoning about time, causes, space and logic; 360 of them, or the 64 on
GitHub.

The rule for samples that need not stay consistent changed on 2026-04-13. Before, they could never be right;
that is the rule the published numbers of DeepGen were made with. Both accuracies are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, count_problem, mean
from deepgen.evaluation.data_rows import items_of, name_of, named, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question, parse_final_score
from deepgen.evaluation.response_schema import ResponseSchema, one_grade
from deepgen.evaluation.text_files import read_list

CATEGORIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")
_COUNTS = {
    "full": dict(zip(CATEGORIES, (85, 90, 100, 85), strict=True)),
    "64": dict.fromkeys(CATEGORIES, 16),
}
_END = 'End with one line "Final Score: X".'
_CONSISTENCY = f"""\
The first picture was to be edited into the second with this instruction: {{instruction}}
From 1 to 5, how well was everything kept that the instruction leaves alone? {_END}"""
_REASONING = f"""\
A picture was to be edited with this instruction: {{instruction}}
The right result: {{reference}}
The last picture is the result. From 1 to 5, how well does it show the right result? {_END}"""
_IMAGE = f"""\
A picture was to be edited with this instruction: {{instruction}}
The first picture shows the right result, the last the result. From 1 to 5, how well do they agree? {_END}"""
_QUALITY = f"From 1 to 5, how clear and natural is this picture, free of artefacts? {_END}"
_TWO = f"""\
A picture was to be edited with this instruction: {{instruction}}
The right result: {{reference}}
The first picture is the source, the second the result. From 1 to 5, how well does it show the right result?
{_END}"""
_ANSWER = f"""\
The first picture was to be edited into the second with this instruction: {{instruction}}
The right answer: {{reference}}
How well was everything kept that the answer leaves alone? {_END}"""
_ALONE = f"""\
The first picture shows the right result of an edit, the last what was made. How well do they agree? {_END}"""
_BIT = " Give 1 if it is fully right and 0 otherwise."


@dataclass(frozen=True, kw_only=True)
class RISEBench(JudgeBenchmark):
    """Up to three calls an edit."""

    name = "risebench"
    variants = ("full", "64")
    is_edit = True
    headline = "accuracy"
    item_metric = "score"  # finer than right or wrong
    side = 768
    rubrics = {
        "consistency": _CONSISTENCY,
        "reasoning": _REASONING,
        "quality": _QUALITY,
        "spatial_consistency": _CONSISTENCY,
        "reasoning_two": _TWO,
        "spatial_reasoning": _REASONING,
        "spatial_reasoning_two": _TWO,
        "spatial_reasoning_picture": _IMAGE,
        "spatial_quality": _QUALITY,
        "logical_consistency": _CONSISTENCY + _BIT,
        "logical_consistency_answer": _ANSWER + _BIT,
        "logical_reasoning": _REASONING + " The source is not shown." + _BIT,
        "logical_reasoning_picture": _IMAGE + _BIT,
        "logical_reasoning_picture_alone": _ALONE + _BIT,
    }
    notes = {
        "official": "one sample free of consistency takes consistency out of every score; where an edit has "
        "a reference picture, consistency is judged against that",
        "fixed": "consistency is left out where it is not asked for, and judged against the source",
    }

    def files(self) -> tuple[DataFile, ...]:
        """The list of edits; pictures lie in folders beside it."""
        if self.variant == "64":
            return (
                DataFile(
                    path="data_total_64.json",
                    origin="https://github.com/PhoenixZ810/RISEBench, data/data_total.json (5f22651)",
                    sha256="8c60e730429e9f18df98e200fcefb9c246a4edeec17772eb1613076af2cb90c7",
                    num_rows=64,
                    aliases=("data_total.json", "data/data_total.json"),
                ),
            )
        return (
            DataFile(
                path="datav2_total_w_subtask.json",
                origin="https://huggingface.co/datasets/PhoenixZ/RISEBench, with data.zip unpacked beside it",
                num_rows=360,
            ),
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """In the file's order."""
        (file,) = self.files()
        path = self.locate(data_dir, file.path, *file.aliases)

        def item(name: str, row: Mapping[str, Any]) -> Item:
            if row["category"] not in CATEGORIES:
                raise ValueError(f"category is {row['category']!r}, none of {', '.join(CATEGORIES)}")
            names = ["image", *(["reference_img"] if is_set(row, "reference_img") else [])]
            return Item(
                id=name_of(row, "index"),
                category=row["category"],
                prompt=text_of(row, "instruction").strip(),
                references=tuple(path.parent / text_of(row, each) for each in names),
                metadata=row,
            )

        items, problems = items_of(self.label, named(read_list(path), "index"), item)
        found = Counter(item.category for item in items)
        problems += [
            problem
            for category, expected in _COUNTS[self.variant].items()
            for problem in count_problem(self.label, f"edits of {category}", expected, found[category])
        ]
        return items, problems

    def image_path(self, item: Item, sample: int) -> str:
        """images/CATEGORY/INDEX.png."""
        return f"images/{item.category}/{item.id}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """By category, as the official scorer shows them; logical edits have no question about quality."""
        row = item.metadata
        source, target = references[0], references[1] if len(references) > 1 else None
        kind = item.category.split("_")[0]
        prefix = f"{kind}_" if kind in ("spatial", "logical") else ""
        has_answer = kind == "logical" and is_set(row, "reference_txt")  # it wins over a reference picture
        if not prefix or has_answer:
            target = None
        reference = str(row["reference_txt"] if has_answer else row.get("reference") or "")
        fields = {"instruction": item.prompt, "reference": reference}

        def question(key: str, name: str, *shown: Image.Image) -> Question:
            return Question(key=key, prompt=f"{prefix}{name}", fields=fields, images=(*shown, image))

        asked: list[Question] = []
        if not is_set(row, "consistency_free"):
            before = target if target is not None and self.protocol == "official" else source
            name = "consistency_answer" if has_answer else "consistency"
            asked.append(question("consistency", name, before))
        if target is not None:
            alone = "_alone" if kind == "logical" and "reasoning_wo_ins" in row else ""
            asked.append(question("reasoning", f"reasoning_picture{alone}", target))
        elif kind != "logical" and is_set(row, "reasoning_img"):
            asked.append(question("reasoning", "reasoning_two", source))
        else:
            asked.append(question("reasoning", "reasoning"))
        if kind != "logical":
            asked.append(question("quality", "quality"))
        return asked

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """A bit for logical edits, a grade for others."""
        return one_grade(0, 1) if item.category == "logical_reasoning" else one_grade(1, 5)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The first number, from 0 to 5.

        The 0 and 1 of logical edits become 1 and 5. A judge that answers 5 there means full marks in either
        protocol; the official script takes every number from 1 on for a 1, so "official" takes 2 to 4 too.
        """
        numbers = parse_final_score(reply)
        if numbers is None or not 0 <= numbers[0] <= 5:
            return None
        if item.category != "logical_reasoning":
            return numbers[0]
        if numbers[0] in (2, 3, 4) and self.protocol == "fixed":
            return None  # between right and wrong, on a scale that was not asked for
        return 1 + 4 * min(numbers[0], 1)

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """The score in [1, 5]."""
        value = score(
            answers.get("consistency"),
            answers["reasoning"],
            answers.get("quality"),
            is_logical=item.category == "logical_reasoning",
        )
        row = {"category": item.category, "subtask": item.metadata.get("subtask")}
        return value, {**row, "consistency": None, **answers}

    def failed_row(self, item: Item) -> dict[str, Any]:
        """It counts as wrong, in its category and subtask."""
        return {"category": item.category, "subtask": item.metadata.get("subtask")}

    def item_values(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float | None]:
        """The score in [1, 5] of each, without consistency where `aggregate` leaves it out."""
        drops = protocol == "official" and has_free([row for score in scores for row in score.rows])
        values: dict[str, float | None] = {}
        for verdict in scores:
            row = next((row for row in verdict.rows if row.get("reasoning") is not None), None)
            values[verdict.item] = None if row is None else score_of(row, drops_consistency=drops)
        return values

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In percent; `accuracy` by the rule the published numbers were made with."""
        return aggregate([row for score in scores for row in score.rows], protocol)


def is_set(row: Mapping[str, Any], key: str) -> bool:
    """Whether a field of the data has a value: absent, null, not a number and empty mean that it has none."""
    value = row.get(key)
    return value is not None and value != "" and value == value  # NaN is not itself


def score(
    consistency: float | None, reasoning: float, quality: float | None, *, is_logical: bool = False
) -> float:
    """One number in [1, 5]; consistency is None where it is not asked for, quality of logical samples too.

    0.3, 0.5 and 0.2 of consistency, reasoning and quality; 0.8 and 0.2 without consistency; logical 0.3 and
    0.7. Without any reasoning it is halved, at least 1.
    """
    if is_logical:
        if consistency is None:
            raise ValueError("a logical sample without consistency has no score")
        value = 0.3 * consistency + 0.7 * reasoning
    else:
        if quality is None:
            raise ValueError("a sample without quality has no score")
        value = (
            0.8 * reasoning + 0.2 * quality
            if consistency is None
            else 0.3 * consistency + 0.5 * reasoning + 0.2 * quality
        )
    return max(value / 2, 1.0) if reasoning == 1 else value


def is_right(row: Mapping[str, Any], *, rule: str = "new") -> bool:
    """Full marks in every grade asked for; `rule` is "old" or "new" (see the file's head). A failed row is
    wrong.
    """
    if row.get("reasoning") is None:
        return False
    if row.get("consistency") is None and rule == "old":
        return False
    keys = ("consistency", "reasoning") if _is_logical(row) else ("consistency", "reasoning", "quality")
    return all(row.get(key) is None or row[key] == 5 for key in keys)


def _is_logical(row: Mapping[str, Any]) -> bool:
    return row["category"] == "logical_reasoning"


def has_free(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a judged sample that is not logical was free of consistency."""
    return any(
        row.get("reasoning") is not None and row.get("consistency") is None
        for row in rows
        if not _is_logical(row)
    )


def score_of(row: Mapping[str, Any], *, drops_consistency: bool) -> float:
    """The score of a judged row in [1, 5]; dropped consistency counts for logical samples all the same."""
    is_logical = _is_logical(row)
    consistency = None if drops_consistency and not is_logical else row.get("consistency")
    return score(consistency, row["reasoning"], row.get("quality"), is_logical=is_logical)


def aggregate(rows: Sequence[Mapping[str, Any]], protocol: Protocol = "fixed") -> dict[str, float]:
    """Percentages of all samples, of each category and each subtask: `accuracy` (old rule), `accuracy_new`,
    `score`, and of all and each category the means of `reasoning`, `consistency` and `quality`.

    Args:
        rows: `category`, and of samples that did not fail `consistency` (None: not asked for), `reasoning`
            and `quality` from 1 to 5; the 0 and 1 of logical samples are given as 1 and 5. May hold
            `subtask`.
        protocol: "official" leaves consistency out of every score as soon as one sample has none.
    """
    drops = protocol == "official" and has_free(rows)
    table: dict[str, float] = {}
    groups: list[tuple[str, Sequence[Mapping[str, Any]]]] = [("", rows)]
    for category in CATEGORIES:
        groups.append((f" {category}", [row for row in rows if row["category"] == category]))
    for suffix, chosen in groups:
        for key in ("reasoning", "consistency", "quality"):
            judged = [row for row in chosen if row.get("reasoning") is not None]
            grades = [float(row[key]) for row in judged if row.get(key) is not None]
            if grades:
                table[f"{key}{suffix}"] = 25 * (mean(grades) - 1)
    for subtask in sorted({str(row["subtask"]) for row in rows if row.get("subtask")}):
        groups.append((f" subtask {subtask}", [row for row in rows if row.get("subtask") == subtask]))
    for suffix, chosen in groups:
        if not chosen:
            continue
        table[f"accuracy{suffix}"] = 100 * mean([float(is_right(row, rule="old")) for row in chosen])
        table[f"accuracy_new{suffix}"] = 100 * mean([float(is_right(row)) for row in chosen])
        scores = [
            score_of(row, drops_consistency=drops) for row in chosen if row.get("reasoning") is not None
        ]
        if scores:
            table[f"score{suffix}"] = 25 * (mean(scores) - 1)
    return table


benchmark = RISEBench
