"""The scorers that benchmarks need, made once from their names: models on this machine, or services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.evaluation.default_scorers import CLIP, DETECTOR, OCR
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge
from deepgen.evaluation.scorers import HOW_TO_GIVE, Scorers
from deepgen.rewards.interfaces import TextReader


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Which scorers.

    Attributes:
        detector: Hub id or folder of a Mask2Former, or the http:// address of a service; see
            `deepgen.rewards.remote_scorers`.
        clip: Hub id or folder of a CLIPModel, for colors and CLIPScore.
        vqa: Hub id or folder of a BLIP or ViLT that answers questions, see `deepgen.evaluation.vqa`.
        ocr: rapidocr, or the http:// address of a service.
        min_confidence: lines of text RapidOCR is less sure of are left out.
        device: auto is cuda where there is one.
        judge: the endpoint, or None.
        prompts_dir: judge prompts, see `deepgen.evaluation.judge_prompts`; None takes our own.
        cache_dir: where the judge's replies are kept.
    """

    detector: str = DETECTOR
    clip: str = CLIP
    vqa: str = "Salesforce/blip-vqa-base"
    ocr: str = OCR
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
            raise ValueError(f"this benchmark needs a judge; {HOW_TO_GIVE[need]}")
        return PromptedJudge(config.judge, cache_dir=config.cache_dir, prompts_dir=config.prompts_dir)
    if need == "reader":
        return _make_reader(config)
    if need == "tower":
        from deepgen.rewards.clip import ClipImageTextScorer

        return ClipImageTextScorer(config.clip, config.device)
    if need == "vqa":
        from deepgen.evaluation.vqa import LocalVQA

        return LocalVQA(config.vqa, config.device)
    if need == "detector":
        from deepgen.rewards.clip import TowerOptions
        from deepgen.rewards.detector import make_detector

        return make_detector(config.detector, TowerOptions(model=config.clip, device=config.device))
    raise ValueError(f"unknown scorer {need!r}; known: {', '.join(HOW_TO_GIVE)}")


def _make_reader(config: ScorerConfig) -> TextReader:
    from deepgen.rewards.remote_scorers import RemoteReader, is_address

    if is_address(config.ocr):
        return RemoteReader(config.ocr)
    if config.ocr != "rapidocr":
        raise ValueError(f"unknown OCR {config.ocr!r}; give rapidocr or the http:// address of a service")
    from deepgen.rewards.ocr import RapidReader

    return RapidReader(config.min_confidence)
