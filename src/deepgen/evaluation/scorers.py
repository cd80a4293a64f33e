"""The models that look at images for a benchmark: detector, text reader, CLIP, VQA model, judge.

Only interfaces are here, so that a benchmark needs no library and a test or another engine can stand in; the
real ones are made by `deepgen.evaluation.make_scorers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from deepgen.evaluation.response_schema import ResponseSchema
from deepgen.rewards.interfaces import ImageTextScorer, ObjectDetector, QuestionAnswerer, TextReader

# What each is, for the message where it was not given.
HOW_TO_GIVE = {
    "detector": "give --detector and --clip",
    "reader": "give --ocr",
    "tower": "give --clip",
    "vqa": "give --vqa",
    "judge": "give --judge-url and --judge-model",
}


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """A question to the judge, before its prompt is filled in.

    Attributes:
        benchmark, prompt: name the prompt; official ones may stand in for ours.
        rubric: our own prompt.
        fields: put into the prompt's {fields}.
        images: shown after the text, in this order.
        side: longest side of an image, sent as JPEG; 0 is PNG in its own size.
        schema: the reply to our own prompt as JSON; None where it is asked for in text.
        attempts: how often it is asked until the reply can be read.
    """

    benchmark: str
    prompt: str
    rubric: str
    fields: Mapping[str, str]
    images: Sequence[Image.Image]
    side: int = 0
    schema: ResponseSchema | None = None
    attempts: int = 3


class BenchmarkJudge(Protocol):
    """The judge of benchmarks: `deepgen.evaluation.judge.PromptedJudge`, or a stand-in.

    Attributes:
        concurrency: questions at once.
    """

    concurrency: int

    def describe(self, benchmark: str, rubrics: Mapping[str, str]) -> str:
        """Model, sampling and prompts in one word each; replies to others are not reused."""
        ...

    def answer(self, request: JudgeRequest, read: Callable[[str], Any]) -> tuple[Any, str]:
        """(what `read` makes of the reply or None, the reply or the reason there is none)."""
        ...

    def prompt_source(self, benchmark: str) -> dict[str, Any]:
        """Where the prompts used so far are from, and which revision, as plain values."""
        ...

    def price(self, tokens_in: float, tokens_out: float) -> float | None:
        """What tokens cost; None without prices."""
        ...

    def bill(self) -> dict[str, Any]:
        """Questions, tokens and cost of this process, as plain values."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """Those that were given; a benchmark says which it needs."""

    detector: ObjectDetector | None = None
    reader: TextReader | None = None
    tower: ImageTextScorer | None = None
    vqa: QuestionAnswerer | None = None
    judge: BenchmarkJudge | None = None

    def version(self, need: str) -> str:
        """What one of them is, in one word; ValueError where it was not given."""
        scorer = getattr(self, need)
        if scorer is None:
            raise ValueError(f"this benchmark needs a {need}; {HOW_TO_GIVE[need]}")
        return scorer.version
