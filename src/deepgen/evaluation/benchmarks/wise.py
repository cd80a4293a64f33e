"""WISE (Niu et al., 2025): 1,000 prompts that need knowledge of the world, one picture each.

Two generations exist that must not be mixed: `legacy`, which the paper of DeepGen quotes, and `verified`,
with other prompts, another judge and another formula.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, count_problem, mean
from deepgen.evaluation.data_rows import items_of, named, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, final_bit, grades
from deepgen.evaluation.text_files import read_list

Generation = Literal["legacy", "verified"]
GRADES = ("consistency", "realism", "aesthetic quality")
WEIGHTS: dict[Generation, dict[str, float]] = {
    "legacy": {
        "culture": 0.4,
        "time": 0.167,
        "space": 0.133,
        "biology": 0.1,
        "physics": 0.1,
        "chemistry": 0.1,
    },
    "verified": {"culture": 0.4, **dict.fromkeys(("time", "space", "biology", "physics", "chemistry"), 0.12)},
}
_FIRST_IDS: dict[Generation, tuple[int, ...]] = {
    "legacy": (1, 401, 568, 701, 801, 901),
    "verified": (1, 401, 521, 641, 761, 881),
}
NUM_PROMPTS = 1000
_FILES = {
    "legacy": (
        (
            "cultural_common_sense.json",
            400,
            "7a59216c768698280cea37caa574b52f3faf054d73b398b9bb6b3161baf8e3aa",
        ),
        (
            "spatio-temporal_reasoning.json",
            300,
            "e27d797885ad86e64d857d0cc93d33e04be572a8dcae95692a2c7e7876233f9a",
        ),
        ("natural_science.json", 300, "b262fae58e413c7a4bd3c3d5a089f8c6529feac227e4b6606be261a949035544"),
    ),
    "verified": (
        (
            "cultural_common_sense_verified.json",
            400,
            "23482925266e2784b2ba24b75239fdc6691bf85ae253d2c4aa38b71b45fefa89",
        ),
        (
            "spatio-temporal_reasoning_verified.json",
            240,
            "42c0b9d829365e392c2d4af283850dc76b1f922ab0c79198366de4f306eaf2b6",
        ),
        (
            "natural_science_verified.json",
            360,
            "6f346c336f16f611e5c73e0fcacdccb336c200d534cf111526b22d50ea912555",
        ),
    ),
}
_FOLDERS = {"legacy": "WISE_legacy/data", "verified": "data_verified"}
_LEGACY = """\
Grade a generated picture. It was asked for with this prompt: {prompt}
What the prompt means: {explanation}
Be strict, and grade each of three things with 0 (fails), 1 (partly) or 2 (fully):
Consistency - the picture shows what the prompt means, not only its words.
Realism - things look as they would in the world.
Aesthetic Quality - composition, color and detail.
Reply with exactly three lines:
Consistency: <0-2>
Realism: <0-2>
Aesthetic Quality: <0-2>"""
_VERIFIED = """\
A picture was asked for with this prompt: {prompt}
What the prompt means: {explanation}
Does the picture show that meaning rightly, and is it free of faults that make it useless? Reply with one
line,
"Score: 1" if both hold and "Score: 0" otherwise."""


@dataclass(frozen=True, kw_only=True)
class Wise(JudgeBenchmark):
    """One question a picture."""

    name = "wise"
    variants = ("legacy", "verified")
    min_coverage = 1.0  # the official overall is refused unless every prompt is there
    rubrics = {"legacy": _LEGACY, "verified": _VERIFIED}

    def files(self) -> tuple[DataFile, ...]:
        """Three files of the generation."""
        return tuple(
            DataFile(
                path=f"{self.variant}/{name}",
                origin=f"https://github.com/PKU-YuanGroup/WISE, {_FOLDERS[self.variant]}/ (revision eb51174)",
                sha256=digest,
                num_rows=count,
                aliases=(f"{_FOLDERS[self.variant]}/{name}",),
            )
            for name, count, digest in _FILES[self.variant]
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """By number."""
        items, problems = [], []
        for file in self.files():
            rows = read_list(self.locate(data_dir, file.path, *file.aliases))
            problems += count_problem(self.label, f"prompts in {file.path}", file.num_rows or 0, len(rows))
            names = named(rows, "prompt_id", f"{Path(file.path).stem}-")
            made, unreadable = items_of(self.label, names, self._item)
            items += made
            problems += unreadable
        return items, problems

    def _item(self, name: str, row: Mapping[str, Any]) -> Item:
        number = int(row["prompt_id"])
        return Item(
            id=str(number),
            category=category_of(number, self._generation),
            prompt=text_of(row, "Prompt").strip(),
            metadata={"explanation": text_of(row, "Explanation"), "subcategory": row.get("Subcategory")},
        )

    @property
    def _generation(self) -> Generation:
        return "verified" if self.variant == "verified" else "legacy"

    def image_path(self, item: Item, sample: int) -> str:
        """images/1.png."""
        return f"images/{item.id}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """With the explanation, which was not part of the model's prompt."""
        fields = {"prompt": item.prompt, "explanation": item.metadata["explanation"]}
        return [Question(key=self.variant, fields=fields, images=(image,))]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """By the generation."""
        if self.variant == "verified":
            return final_bit()
        return grades("Consistency", "Realism", "Aesthetic Quality", low=0, high=2)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """Three grades from 0 to 2, or one bit."""
        if key == "verified":
            return parse_verified(reply)
        grades = parse_legacy(reply)
        return grades if grades is not None and max(grades) <= 2 else None

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """In [0, 1]."""
        if self.variant == "verified":
            return float(answers["verified"]), {"prompt_id": int(item.id), "score": answers["verified"]}
        score = wiscore(answers["legacy"])
        return score, {"prompt_id": int(item.id), "score": score}

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 1]; both protocols are the same."""
        return aggregate([row for score in scores for row in score.rows], self._generation)


def category_of(prompt_id: int, generation: Generation) -> str:
    """The category a prompt counts for, by its number from 1 to 1000."""
    if not 1 <= prompt_id <= NUM_PROMPTS:
        raise ValueError(f"prompt_id is from 1 to {NUM_PROMPTS}, got {prompt_id}")
    index = sum(prompt_id >= first for first in _FIRST_IDS[generation]) - 1
    return tuple(WEIGHTS[generation])[index]


def named_grades(reply: str) -> dict[str, int]:
    """The digit behind each of the names that has one."""
    found: dict[str, int] = {}
    for name in GRADES:
        values = re.findall(rf"\*{{0,2}}{name}\*{{0,2}}\s*:?\s*(\d)", reply, flags=re.IGNORECASE)
        if values:
            found[name] = int(values[-1])
    return found


def parse_legacy(reply: str) -> list[int] | None:
    """[consistency, realism, aesthetic quality], or None unless all three are there.

    The name may be bold and its colon missing, the last value given to a name counts; where no name occurs,
    the first three of three or more lines that are bare grades are taken in their order.
    """
    found = named_grades(reply)
    if not found:
        bare = [
            int(line)
            for line in map(str.strip, reply.splitlines())
            if re.fullmatch("[0-2]", line, flags=re.ASCII)
        ]
        return bare[: len(GRADES)] if len(bare) >= len(GRADES) else None
    return [found[name] for name in GRADES] if len(found) == len(GRADES) else None


def parse_verified(reply: str) -> int | None:
    """1, 0 or None; what the judge thinks aloud is left out, and so is an end of thinking without a start."""
    reply = re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL).replace("</think>", "")
    match = re.search(r"\*{0,2}score\*{0,2}\s*:?\s*([01])(?!\d)", reply, flags=re.IGNORECASE)
    if match is not None:
        return int(match[1])
    bare = [line for line in map(str.strip, reply.splitlines()) if line in ("0", "1")]
    return int(bare[0]) if len(bare) == 1 else None


def wiscore(grades: Sequence[int]) -> float:
    """The score in [0, 1] of three grades: 0.7 consistency, 0.2 realism, 0.1 aesthetic quality."""
    consistency, realism, aesthetic = grades
    return (0.7 * consistency + 0.2 * realism + 0.1 * aesthetic) / 2


def aggregate(rows: Sequence[Mapping[str, Any]], generation: Generation) -> dict[str, float]:
    """Mean score in [0, 1] of each category, and `overall`, their weighted sum, where every category is
    there.

    Args:
        rows: `prompt_id` and `score`.
        generation: which weights and which numbering.
    """
    weights = WEIGHTS[generation]
    pools: dict[str, list[float]] = {}
    for row in rows:
        pools.setdefault(category_of(int(row["prompt_id"]), generation), []).append(float(row["score"]))
    table = {name: mean(pools[name]) for name in weights if name in pools}
    if len(table) < len(weights):
        return table
    return {"overall": sum(weights[name] * value for name, value in table.items()), **table}


benchmark = Wise
