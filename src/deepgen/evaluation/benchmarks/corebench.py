"""T2I-CoReBench: 1,080 prompts in 12 dimensions with 13,536 yes-or-no questions.

The table of DeepGen holds the eight dimensions of reasoning only: the variant `reasoning`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, Settings, count_problem, mean
from deepgen.evaluation.data_rows import items_of, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, yes_or_no
from deepgen.evaluation.text_files import read_jsonl, read_object

COMPOSITION = ("C-MI", "C-MA", "C-MR", "C-TR")
REASONING = ("R-LR", "R-BR", "R-HR", "R-PR", "R-GR", "R-AR", "R-CR", "R-RR")
_HASHES = {
    "C-MI": "20684699d52c75d2553790c8ec4fc9da13550426f297fd06fa739e2399665b94",
    "C-MA": "a1c06bf30d6f952bff8a76c0accfd95b7b95d582baae622fd57b694a855a11cd",
    "C-MR": "e6c61d517d9c8ccb6925ef9e14affc3157bdfe7bb157fd8bb425454643a62375",
    "C-TR": "5cd3bf63a3b592903d7cb880ca6ec457dfe8cdfad0d2c69db51472cba8362a29",
    "R-LR": "219895df3fd37f141a971633a7af17c9aca1b54ef4c0b9967292156c7203e3b9",
    "R-BR": "f4d3fddd7dabb160f80c21d0ceda9cd155e452e625dfb357ca70b8aae0633d5c",
    "R-HR": "012c0d10d350a5edfe39fcaa6c4cc6fc5ab2adb70479e61f8162badf5670a15e",
    "R-PR": "ba8494bba888fa2599fded078526153fc0383d8d85a3ba90458199bc395a1e3e",
    "R-GR": "48e4e1557766fcedb33d28758c032e434a6a34456655c71f69e002b8f3d60cca",
    "R-AR": "c356fe77620c47e9f540c5755e2b08efa3c992c32bd99c47b1851485e98e53b5",
    "R-CR": "8a5a0c6fb2de8a8dfc521a22d12f47be19c2ce0cbc8a467f42395e0f51323978",
    "R-RR": "5f94745af411bb64b81a12a04dd9248d26380700876111b661d5535eccaa8dcd",
}
UNGRADED = -1  # a reply that is neither yes nor no, where that is not asked again
_RUBRIC = """\
A picture was asked for with this prompt: {prompt}
Question about the picture: {question}
Go by what can clearly be seen in it, not by the prompt. Reply with one small word, yes or no."""


@dataclass(frozen=True, kw_only=True)
class CoReBench(JudgeBenchmark):
    """Four pictures of each prompt, one call a question."""

    name = "corebench"
    variants = ("all", "reasoning")
    settings = Settings(num_samples=4)
    rubrics = {"question": _RUBRIC}
    notes = {
        "official": "replies are read as they are, so Yes with a capital is left out of the mean; a question "
        "that was not answered at all is asked again, where the official script leaves it out",
        "fixed": "replies are read in small letters, and what is neither yes nor no is asked again",
    }

    @property
    def headline(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """DeepGen's own overall is that of reasoning."""
        return "reasoning" if self.variant == "reasoning" else "overall"

    @property
    def _tasks(self) -> tuple[str, ...]:
        return REASONING if self.variant == "reasoning" else tuple(_HASHES)

    def files(self) -> tuple[DataFile, ...]:
        """One file a dimension; Hugging Face has them in one, corebench.jsonl, which does as well."""
        return tuple(
            DataFile(
                path=f"{task}.json",
                origin="https://github.com/KlingTeam/T2I-CoReBench, data/ (revision ebf7b7a)",
                sha256=_HASHES[task],
                num_rows=90,
                aliases=(f"data/{task}.json",),
            )
            for task in self._tasks
        )

    def check_files(self, data_dir: Path) -> tuple[list[str], list[str]]:
        """The one file has no known hash; its numbers are checked."""
        if self.locate(data_dir, "corebench.jsonl").is_file():
            return [], []
        return super().check_files(data_dir)

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """By dimension, then by number."""
        single = self.locate(data_dir, "corebench.jsonl")
        rows: dict[str, Any] = {}
        if single.is_file():
            lines = enumerate(read_jsonl(single), start=1)
            rows = {str(row.get("ID") or f"line{number}"): row for number, row in lines}
        else:
            for file in self.files():
                rows.update(read_object(self.locate(data_dir, file.path, *file.aliases)))
        known = [(name, row) for name, row in rows.items() if task_of(name) in (*self._tasks, name)]
        items, problems = items_of(self.label, known, self._item)
        items.sort(key=lambda item: (not item.fault and self._tasks.index(item.category), item.id))
        found = Counter(item.category for item in items)
        problems += [
            problem
            for task in self._tasks
            for problem in count_problem(self.label, f"prompts of {task}", 90, found[task])
        ]
        return items, problems

    def _item(self, name: str, row: Mapping[str, Any]) -> Item:
        if task_of(name) not in self._tasks:
            raise ValueError(f"ID is {name!r} instead of a task and a number")
        checklist = [text_of(entry, "question") for entry in row["Checklist"]]
        if not checklist:
            raise ValueError("Checklist has no question")
        prompt = text_of(row, "Prompt").strip()
        return Item(id=name, category=task_of(name), prompt=prompt, metadata={"checklist": checklist})

    def image_path(self, item: Item, sample: int) -> str:
        """images/C-MI/C-MI-001-0.png."""
        return f"images/{item.category}/{item.id}-{sample}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """One a line of the checklist."""
        return [
            Question(
                key=str(index),
                prompt="question",
                fields={"prompt": item.prompt, "question": text},
                images=(image,),
            )
            for index, text in enumerate(item.metadata["checklist"])
        ]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """One word."""
        return yes_or_no()

    def read(self, item: Item, key: str, reply: str) -> Any:
        """1, 0 or None; under "official" words that are neither are an answer that counts for nothing."""
        grade = parse(reply, self.protocol)
        return UNGRADED if grade is None and self.protocol == "official" else grade

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Share of yes in [0, 1]."""
        score = image_score([None if answer == UNGRADED else answer for answer in answers.values()])
        if score is None:
            raise ValueError("no reply about this picture is yes or no")
        return score, {"task": item.category, "score": score}

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In percent."""
        return aggregate([row for score in scores for row in score.rows])


def task_of(name: str) -> str:
    """C-MI of C-MI-001."""
    return name.rsplit("-", 1)[0]


def parse(reply: str, protocol: Protocol = "fixed") -> int | None:
    """1 for yes, else 0 for no, else None.

    The official path for open judges does not lower the case, so "Yes" is no answer there; the one for Gemini
    does, as does "fixed". What a judge thinks aloud before `</think>` and a blank line is left out.
    """
    if "</think>" in reply:
        reply = reply.rsplit("</think>", 1)[1]
    if protocol == "fixed":
        reply = reply.lower()
    if re.search(r"\byes\b", reply):
        return 1
    return 0 if re.search(r"\bno\b", reply) else None


def image_score(answers: Sequence[int | None]) -> float | None:
    """Share of yes among the graded questions; None where none is graded."""
    graded = [float(answer) for answer in answers if answer is not None]
    return mean(graded) if graded else None


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Scores in percent: each dimension is the mean over its pictures.

    `composition`, `reasoning` and `overall` are plain means of 4, 8 and 12 dimensions, where all are there.

    Args:
        rows: `task` (such as C-MI) and `score` in [0, 1] of every picture.
    """
    pools: dict[str, list[float]] = {}
    for row in rows:
        pools.setdefault(row["task"], []).append(float(row["score"]))
    table = {task: 100 * mean(pools[task]) for task in (*COMPOSITION, *REASONING) if task in pools}
    means = {
        "overall": (*COMPOSITION, *REASONING),
        "composition": COMPOSITION,
        "reasoning": REASONING,
    }
    whole = {
        name: mean([table[task] for task in tasks])
        for name, tasks in means.items()
        if all(task in table for task in tasks)
    }
    return {**whole, **table}


benchmark = CoReBench
