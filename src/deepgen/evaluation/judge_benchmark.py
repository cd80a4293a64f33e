"""Base class of benchmarks with a judge: questions about each picture, repeated until a reply can be parsed.

A subclass says what is asked (`questions`), what a reply says (`read`), and what follows for a picture
(`row`). A reply that never has the requested form is recorded as a problem of its picture and quoted; it
counts neither as 0 nor as a guess. How the judge is called is in `deepgen.evaluation.judge`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image

from deepgen.evaluation.benchmark import Benchmark, Item, ItemScore, Settings
from deepgen.evaluation.response_schema import ResponseSchema
from deepgen.evaluation.scorers import BenchmarkJudge, JudgeRequest, Scorers


@dataclass(frozen=True, kw_only=True)
class Question:
    """One call.

    Attributes:
        key: what the answer is to `row`.
        prompt: the name of the prompt; that of `key` if empty.
        fields: put into the prompt.
        images: shown in this order.
    """

    key: str
    prompt: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    images: tuple[Image.Image, ...] = ()


# What an estimate goes by: replies are short, a token is about four letters or 28 x 28 pixels (Qwen-VL's).
LETTERS_A_TOKEN, SIDE_OF_TOKEN, TOKENS_A_REPLY = 4, 28, 150


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What scoring will take at most, without questions that are asked again.

    Attributes:
        questions: calls of the judge.
        tokens_in, tokens_out: of all of them, roughly.
    """

    questions: int
    tokens_in: float
    tokens_out: float


@dataclass(frozen=True, kw_only=True)
class JudgeBenchmark(Benchmark):
    """Base of benchmarks a judge scores."""

    needs = ("judge",)
    version = "2"  # of how replies are read
    rubrics: ClassVar[Mapping[str, str]] = {}  # our own prompts, by name
    attempts = 3
    side = 0  # longest side of a picture as JPEG; 0: PNG as it is

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """The questions about one picture."""
        raise NotImplementedError(f"{self.name} does not say what it asks")

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The answer in a reply, or None where it has none."""
        raise NotImplementedError(f"{self.name} does not say how it reads")

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """The picture's value and its row for `aggregate`."""
        raise NotImplementedError(f"{self.name} does not say what follows")

    def failed_row(self, item: Item) -> dict[str, Any] | None:
        """The row for `aggregate` of a picture without a verdict; None leaves it out of every number."""
        return None

    def response_schema(self, item: Item, question: Question) -> ResponseSchema | None:
        """The reply to our own prompt as JSON; None where it is asked for in text only."""
        return None

    def estimate(self, items: Sequence[Item], settings: Settings) -> Estimate:
        """What scoring will take, before it begins; references count as large as pictures."""
        shown = Image.new("RGB", (settings.width, settings.height))
        shown.thumbnail((self.side or max(shown.size),) * 2)
        asked = [question for item in items for question in self._questions(item, shown)]
        tokens = 0.0
        for question in asked:
            letters = len(self.rubrics[question.prompt or question.key]) + sum(
                len(text) for text in question.fields.values()
            )
            pixels = len(question.images) * shown.width * shown.height
            tokens += letters / LETTERS_A_TOKEN + pixels / SIDE_OF_TOKEN**2
        count = len(asked) * settings.num_samples
        return Estimate(
            questions=count,
            tokens_in=tokens * settings.num_samples,
            tokens_out=float(count * TOKENS_A_REPLY),
        )

    def num_questions(self, items: Sequence[Item]) -> int:
        """Questions of all pictures, counted with a blank one."""
        blank = Image.new("RGB", (1, 1))
        return sum(len(self._questions(item, blank)) for item in items) * self.settings.num_samples

    def _questions(self, item: Item, image: Image.Image) -> list[Question]:
        """The questions about an item, with one picture in place of all; none where its row has a fault."""
        return [] if item.fault else self.questions(item, image, [image] * len(item.references))

    def scorer_version(self, scorers: Scorers) -> str:
        """The judge and its prompts."""
        judge = _judge(scorers).describe(self.name, self.rubrics)
        return f"{self.label}-{self.version}-{self.protocol} {judge}"

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Ask about every picture of an item."""
        ask = self.asker(scorers)
        references = item.open_references()
        values, rows, words, problems = [], [], [], []
        num_questions = num_answered = 0
        for sample, image in enumerate(images):
            answers: dict[str, Any] = {}
            for question in self.questions(item, image, references):
                answer, reply = ask(item, question)
                answers[question.key] = answer
                if answer is None:
                    problems.append(f"sample {sample}, {question.key}: {_excerpt(reply)}")
                else:
                    words.append(f"{question.key}: {_excerpt(reply)}")
            unread = [key for key, answer in answers.items() if answer is None]
            num_questions += len(answers)
            num_answered += len(answers) - len(unread)
            made = None if unread else self._row(item, answers)
            if isinstance(made, tuple):
                values.append(made[0])
                rows.append(made[1])
            elif made is not None:
                problems.append(f"sample {sample}: {made}")
        return ItemScore(
            item=item.id,
            category=item.category,
            value=sum(values) / len(values) if values else None,
            rows=(*rows, *self.failed_rows(item, len(images) - len(values))),
            words="\n".join(words),
            problems=tuple(problems),
            num_expected=len(images),
            num_scored=len(values),
            num_questions=num_questions,
            num_answered=num_answered,
        )

    def _row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]] | str:
        """As `row`, or in words why nothing follows from the answers: rare data is a finding of its item."""
        try:
            return self.row(item, answers)
        except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            return f"no score follows from the answers ({type(error).__name__}: {error})"

    def failed_rows(self, item: Item, count: int) -> tuple[dict[str, Any], ...]:
        """The rows of pictures of an item that have no verdict."""
        row = self.failed_row(item)
        return () if row is None else (row,) * count

    def asker(self, scorers: Scorers) -> Callable[[Item, Question], tuple[Any, str]]:
        """What puts a question of an item: (answer or None, the reply or the reason there is none)."""
        judge = _judge(scorers)

        def ask(item: Item, question: Question) -> tuple[Any, str]:
            prompt = question.prompt or question.key
            request = JudgeRequest(
                benchmark=self.name,
                prompt=prompt,
                rubric=self.rubrics[prompt],
                fields=question.fields,
                images=question.images,
                side=self.side,
                schema=self.response_schema(item, question),
                attempts=self.attempts,
            )
            return judge.answer(request, lambda reply: self.read(item, question.key, reply))

        return ask


def _judge(scorers: Scorers) -> BenchmarkJudge:
    if scorers.judge is None:
        raise ValueError("this benchmark needs a judge; give --judge-url and --judge-model")
    return scorers.judge


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 240 else line[:237] + "..."


_FINAL_SCORE = [
    re.compile(rf"{name}\*{{0,2}}:?([\d*,\s]*)", flags=re.IGNORECASE)
    for name in ("Final Score", "Final Scores")
]


def parse_final_score(reply: str) -> list[int] | None:
    """Every whole number after the first "Final Score" that is followed by any; None where none is.

    RISEBench and UniREditBench share this form of a reply: words, then a final score. "Final Scores" counts
    where no "Final Score" has a number, as in the official scripts (PhoenixZ810/RISEBench, 5f22651).
    """
    for pattern in _FINAL_SCORE:
        for match in pattern.finditer(reply):
            numbers = [int(number[:9]) for number in re.findall(r"\d+", match[1])]  # no grade has ten digits
            if numbers:
                return numbers
    return None
