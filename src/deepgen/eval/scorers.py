"""Who looks at pictures: detector, OCR engine, CLIP, VQA model, judge. A benchmark is given those it needs.

Each is a small interface, so that a test or another engine can stand in; `make_scorers` makes the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from deepgen.eval.judge import Judge, JudgeConfig
from deepgen.rewards.ocr import Reader


class FindsObjects(Protocol):
    """Finds objects of GenEval's classes.

    Attributes:
        version: the detector and what names colors, in one word.
    """

    version: str

    def __call__(self, image: Image.Image) -> dict[str, list[tuple[float, float, float, float, float]]]:
        """By class, boxes with their confidence: left, top, right, bottom, confidence in [0, 1]."""
        ...

    def colors(self, image: Image.Image, name: str, indices: Sequence[int]) -> list[str]:
        """The colors of some of the boxes of a class in the picture that was asked about."""
        ...


class LikensTexts(Protocol):
    """The cosine of a picture and a text.

    Attributes:
        version: the tower in one word.
    """

    version: str

    def __call__(self, image: Image.Image, text: str) -> float:
        """In [-1, 1]."""
        ...


class AnswersQuestions(Protocol):
    """Answers questions about a picture.

    Attributes:
        version: the model in one word.
    """

    version: str

    def __call__(self, image: Image.Image, question: str) -> str:
        """The answer, in small letters."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """Those that were given; a benchmark says which it needs."""

    detector: FindsObjects | None = None
    reader: Reader | None = None
    tower: LikensTexts | None = None
    vqa: AnswersQuestions | None = None
    judge: Judge | None = None

    def version(self, need: str) -> str:
        """What one of them is, in one word; ValueError where it was not given."""
        scorer = getattr(self, need)
        if scorer is None:
            raise ValueError(f"this benchmark needs a {need}; {_HOW[need]}")
        return scorer.version


_HOW = {
    "detector": "give --detector and --clip",
    "reader": "give --ocr",
    "tower": "give --clip",
    "vqa": "give --vqa",
    "judge": "give --judge-url and --judge-model",
}


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Which scorers.

    Attributes:
        detector: Hub id or folder of a Mask2Former, or the http:// address of a service; see
            `deepgen.eval.remote`.
        clip: Hub id or folder of a CLIPModel, for colors and CLIPScore.
        vqa: Hub id or folder of a BLIP or ViLT that answers questions, see `deepgen.eval.vqa`.
        ocr: rapidocr, or the http:// address of a service.
        min_confidence: lines of text RapidOCR is less sure of are left out.
        device: auto is cuda where there is one.
        judge: the endpoint, or None.
        prompts_dir: judge prompts, see `deepgen.eval.wordings`; None takes our own wording.
        cache_dir: where the judge's replies are kept.
    """

    detector: str = "facebook/mask2former-swin-small-coco-instance"
    clip: str = "openai/clip-vit-large-patch14"
    vqa: str = "Salesforce/blip-vqa-base"
    ocr: str = "rapidocr"
    min_confidence: float = 0.5
    device: str = "auto"
    judge: JudgeConfig | None = None
    prompts_dir: Path | None = None
    cache_dir: Path | None = None


def make_scorers(config: ScorerConfig, needs: Sequence[str]) -> Scorers:
    """The scorers some benchmarks need, loaded once."""
    made: Mapping[str, Any] = {need: _make(config, need) for need in dict.fromkeys(needs)}
    return Scorers(**made)


def _make(config: ScorerConfig, need: str) -> Any:
    if need == "judge":
        if config.judge is None:
            raise ValueError(f"this benchmark needs a judge; {_HOW[need]}")
        return Judge(config.judge, cache_dir=config.cache_dir, prompts_dir=config.prompts_dir)
    if need == "reader":
        return _make_reader(config)
    if need == "tower":
        from deepgen.eval.detection import Likeness

        return Likeness(config.clip, config.device)
    if need == "vqa":
        from deepgen.eval.vqa import LocalVQA

        return LocalVQA(config.vqa, config.device)
    if need == "detector" and is_address(config.detector):
        from deepgen.eval.remote import RemoteDetector

        return RemoteDetector(config.detector)
    if need == "detector":
        from deepgen.eval.detection import ObjectFinder

        return ObjectFinder(config.detector, config.clip, config.device)
    raise ValueError(f"unknown scorer {need!r}; known: {', '.join(_HOW)}")


def _make_reader(config: ScorerConfig) -> Reader:
    if is_address(config.ocr):
        from deepgen.eval.remote import RemoteReader

        return RemoteReader(config.ocr)
    if config.ocr != "rapidocr":
        raise ValueError(f"unknown OCR {config.ocr!r}; give rapidocr or the http:// address of a service")
    from deepgen.rewards.ocr import RapidReader

    return RapidReader(config.min_confidence)


def is_address(name: str) -> bool:
    """Whether a scorer is a service elsewhere."""
    return name.startswith(("http://", "https://"))
