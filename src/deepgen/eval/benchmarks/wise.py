"""WISE (Niu et al., 2025): 1,000 prompts that need knowledge of the world, one picture each.

Two generations exist that must not be mixed: `legacy`, which the paper of DeepGen quotes, and `verified`,
with other prompts, another judge and another formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.eval.benchmark import DataFile, Item, ItemScore, count_problem
from deepgen.eval.forms import Form, final_bit, grades
from deepgen.eval.judged import Judged, Question
from deepgen.eval.scoring import Protocol, wise
from deepgen.eval.text_files import read_json

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
class Wise(Judged):
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
            rows = read_json(self.locate(data_dir, file.path, *file.aliases))
            problems += count_problem(self.label, f"prompts in {file.path}", file.num_rows or 0, len(rows))
            for row in rows:
                number = int(row["prompt_id"])
                items.append(
                    Item(
                        id=str(number),
                        category=wise.category_of(number, self._generation),
                        prompt=row["Prompt"].strip(),
                        metadata={"explanation": row["Explanation"], "subcategory": row["Subcategory"]},
                    )
                )
        return items, problems

    @property
    def _generation(self) -> wise.Generation:
        return "verified" if self.variant == "verified" else "legacy"

    def picture_path(self, item: Item, sample: int) -> str:
        """images/1.png."""
        return f"images/{item.id}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """With the explanation, which the model was not told."""
        fields = {"prompt": item.prompt, "explanation": item.metadata["explanation"]}
        return [Question(key=self.variant, fields=fields, images=(image,))]

    def form(self, item: Item, question: Question) -> Form:
        """By the generation."""
        if self.variant == "verified":
            return final_bit()
        return grades("Consistency", "Realism", "Aesthetic Quality", low=0, high=2)

    def read(self, item: Item, key: str, reply: str) -> Any:
        """Three grades from 0 to 2, or one bit."""
        if key == "verified":
            return wise.parse_verified(reply)
        grades = wise.parse_legacy(reply)
        return grades if grades is not None and max(grades) <= 2 else None

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """In [0, 1]."""
        if self.variant == "verified":
            return float(answers["verified"]), {"prompt_id": int(item.id), "score": answers["verified"]}
        score = wise.wiscore(answers["legacy"])
        return score, {"prompt_id": int(item.id), "score": score}

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 1]; both protocols are the same."""
        return wise.aggregate([row for score in scores for row in score.rows], self._generation)


benchmark = Wise
