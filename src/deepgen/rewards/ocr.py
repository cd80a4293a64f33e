"""Shared part of the OCR rewards: the text a prompt asks for, and the OCR engine.

The engine is RapidOCR (PP-OCR models on onnxruntime); it reads Chinese, English and more, and runs on a CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image

from deepgen.extras import missing_extra
from deepgen.image_colors import to_srgb
from deepgen.moved import renamed
from deepgen.rewards.reward import Candidate, CannotJudge, RewardResult
from deepgen.rewards.text_match import MatchConfig, TextBox, match_text, quoted_spans, reading_order


def targets_of(candidate: Candidate) -> list[str]:
    """The text asked for: `targets` of the metadata, or else every quoted span of the prompt.

    CannotJudge where there is neither, since a zero would blame the picture for the prompt.
    """
    targets = candidate.metadata.get("targets")
    if targets is not None:
        return texts_of(targets, "targets")
    spans = quoted_spans(candidate.prompt)
    if not spans:
        raise CannotJudge("the prompt quotes no text and its row has no targets, so there is nothing to read")
    return spans


def texts_of(value: Any, name: str) -> list[str]:
    """A text or a list of texts from the metadata, as a list; CannotJudge for anything else."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise CannotJudge(f"{name} must be a list of texts, got {value!r}")
    if not any(text.strip() for text in texts):
        raise CannotJudge(f"{name} holds no text")
    return list(texts)


def text_result(targets: Sequence[str], lines: Sequence[str], config: MatchConfig) -> RewardResult:
    """The match as a verdict; its words are "exact" or what was missed, and what was read."""
    match = match_text(targets, lines, config)
    kind = (
        "exact"
        if match.is_exact
        else f"letters {match.similarity:.2f}, order {match.order:.2f}, extra {match.extra:.2f}"
    )
    return RewardResult(match.score, f"{kind}; read {' / '.join(lines)!r}")


class RapidReader:
    """RapidOCR with its shipped models, which read Chinese and English.

    Args:
        min_confidence: lines the engine is less sure of are left out, in [0, 1].
    """

    def __init__(self, min_confidence: float) -> None:
        try:
            from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise missing_extra("reading text needs RapidOCR", "rl", error) from error
        self._engine = RapidOCR(params={"Global.log_level": "warning"})
        self.version = f"rapidocr-{metadata.version('rapidocr')}-{min_confidence:g}"
        self._min_confidence = min_confidence
        self._lock = threading.Lock()  # the engine keeps state between its three models

    def __call__(self, image: Image.Image) -> list[str]:
        """The lines in reading order."""
        pixels = np.asarray(to_srgb(image))[:, :, ::-1]  # the engine expects BGR, as OpenCV has it
        with self._lock:
            found = self._engine(np.ascontiguousarray(pixels))
        return reading_order(boxes_of(found.boxes, found.txts, found.scores, self._min_confidence))


def boxes_of(corners: Any, texts: Any, scores: Any, min_confidence: float) -> list[TextBox]:
    """What the engine returns, as boxes: corners (N, 4, 2), texts, confidences; None where it found none."""
    if corners is None or texts is None:
        return []
    boxes = []
    for quad, text, score in zip(corners, texts, scores, strict=True):
        if score >= min_confidence and text.strip():
            (left, top), (right, bottom) = np.min(quad, axis=0), np.max(quad, axis=0)
            boxes.append(TextBox(text=text, left=left, top=top, right=right, bottom=bottom))
    return boxes


__getattr__ = renamed(
    __name__,
    {"Reader": "deepgen.rewards.interfaces.TextReader", "text_verdict": "deepgen.rewards.ocr.text_result"},
)
