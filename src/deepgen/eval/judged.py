"""What benchmarks with a judge share: questions about each picture, asked again until a reply can be read.

A subclass says what is asked (`questions`), what a reply says (`read`), and what follows for a picture
(`row`). A reply that never comes in the form asked for is a problem of its picture, quoted; it is worth
neither 0 nor a guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image

from deepgen.eval.benchmark import Benchmark, Item, ItemScore
from deepgen.eval.judge import Judge, fill
from deepgen.eval.scorers import Scorers
from deepgen.rewards.reward import RewardUnavailable


@dataclass(frozen=True, kw_only=True)
class Question:
    """One call.

    Attributes:
        key: what the answer is to `row`.
        wording: the name of the prompt; that of `key` if empty.
        fields: put into the wording.
        images: shown in this order.
    """

    key: str
    wording: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged(Benchmark):
    """Base of benchmarks a judge scores."""

    needs = ("judge",)
    rubrics: ClassVar[Mapping[str, str]] = {}  # our own wording, by name
    attempts = 3
    side = 0  # longest side of a picture as JPEG; 0: PNG as it is

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """What is asked about one picture."""
        raise NotImplementedError(f"{self.name} does not say what it asks")

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The answer in a reply, or None where it has none."""
        raise NotImplementedError(f"{self.name} does not say how it reads")

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """The picture's value and its row for `aggregate`."""
        raise NotImplementedError(f"{self.name} does not say what follows")

    def needs_every_answer(self) -> bool:
        """Whether one unreadable reply leaves the whole picture without a verdict."""
        return True

    def num_questions(self, items: Sequence[Item]) -> int:
        """Questions of all pictures, counted with a blank one."""
        blank = Image.new("RGB", (1, 1))
        each = [len(self.questions(item, blank, [blank] * len(item.references))) for item in items]
        return sum(each) * self.settings.num_samples

    def scorer_version(self, scorers: Scorers) -> str:
        """Judge and wordings."""
        judge = _judge(scorers)
        texts = [f"{name}={judge.wording(self.name, name, text)}" for name, text in self.rubrics.items()]
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
        ours = "ours" if judge.prompts_dir is None else "given"
        return f"{self.label}-{self.version}-{self.protocol} {judge.version} prompts {ours} {digest}"

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Ask about every picture of an item."""
        judge = _judge(scorers)
        references = item.open_references()
        values, rows, words, problems = [], [], [], []
        for sample, image in enumerate(images):
            answers: dict[str, Any] = {}
            for question in self.questions(item, image, references):
                answer, reply = self._ask(judge, item, question)
                answers[question.key] = answer
                if answer is None:
                    problems.append(f"sample {sample}, {question.key}: {_excerpt(reply)}")
                else:
                    words.append(f"{question.key}: {_excerpt(reply)}")
            unread = [key for key, answer in answers.items() if answer is None]
            if (unread and self.needs_every_answer()) or len(unread) == len(answers):
                continue
            value, row = self.row(item, answers)
            values.append(value)
            rows.append(row)
        return ItemScore(
            item=item.id,
            category=item.category,
            value=sum(values) / len(values) if values else None,
            rows=tuple(rows),
            words="\n".join(words),
            problems=tuple(problems),
            num_expected=len(images),
            num_scored=len(values),
        )

    def _ask(self, judge: Judge, item: Item, question: Question) -> tuple[Any, str]:
        name = question.wording or question.key
        text = fill(judge.wording(self.name, name, self.rubrics[name]), question.fields)
        reply = "nothing was asked"
        for attempt in range(self.attempts):
            try:
                reply = judge.ask(text, question.images, attempt=attempt, side=self.side)
            except RewardUnavailable as error:  # the connection has been patient already
                return None, str(error)
            answer = self.read(item, question.key, reply)
            if answer is not None:
                return answer, reply
        judge.forget(text, question.images, attempts=self.attempts, side=self.side)
        return None, f"no readable answer in {self.attempts} attempts, at last {reply[:120]!r}"


def _judge(scorers: Scorers) -> Judge:
    if scorers.judge is None:
        raise ValueError("this benchmark needs a judge; give --judge-url and --judge-model")
    return scorers.judge


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 240 else line[:237] + "..."
