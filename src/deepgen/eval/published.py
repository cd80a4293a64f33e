"""Numbers others have published, for reference rows. Each table says whose they are and by what rule.

Judges and settings of these numbers are only partly stated by their authors: they are shown beside ours and
never tested against ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_PAPER = "DeepGen 1.0 (arXiv 2602.12205) and its repository"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Rows of one benchmark.

    Attributes:
        metric: the number of our table they stand for.
        source: where they were read.
        rows: by model.
        note: what was different, as far as known.
    """

    metric: str
    source: str
    rows: Mapping[str, float]
    note: str = ""


PUBLISHED: dict[str, Reference] = {
    "geneval": Reference(
        metric="overall",
        source=_PAPER,
        rows={
            "DeepGen 1.0 SFT": 0.86,
            "DeepGen 1.0 RL": 0.87,
            "Lumina-DiMOO": 0.88,
            "Qwen-Image": 0.87,
            "LongCat-Image": 0.87,
            "Z-Image-Turbo": 0.84,
            "X-Omni": 0.83,
            "BAGEL": 0.82,
            "OmniGen2": 0.80,
            "Hunyuan-Image-3.0": 0.72,
        },
        note="with mmdetection's checkpoint of the detector",
    ),
    "dpg": Reference(
        metric="overall",
        source=_PAPER,
        rows={
            "DeepGen 1.0 SFT": 87.05,
            "DeepGen 1.0 RL": 87.90,
            "Qwen-Image": 88.32,
            "X-Omni": 87.65,
            "Mammoth2": 87.20,
            "LongCat-Image": 86.80,
            "Hunyuan-Image-3.0": 86.10,
            "Lumina-DiMOO": 86.04,
            "Z-Image-Turbo": 85.15,
            "BAGEL": 85.10,
            "GLM-Image": 84.78,
            "OmniGen2": 83.57,
        },
        note="with mPLUG-large instead of a judge",
    ),
    "unigenbench-en": Reference(
        metric="overall",
        source=_PAPER,
        rows={
            "DeepGen 1.0 SFT": 74.18,
            "DeepGen 1.0 RL": 75.74,
            "Qwen-Image": 78.81,
            "Z-Image-Turbo": 71.40,
            "Lumina-DiMOO": 71.12,
            "OmniGen2": 63.09,
            "BAGEL": 61.53,
            "X-Omni": 53.77,
        },
        note="the judge is not stated",
    ),
    "wise-legacy": Reference(
        metric="overall",
        source=_PAPER,
        rows={
            "DeepGen 1.0 SFT": 0.72,
            "DeepGen 1.0 RL": 0.73,
            "GPT-Image-1": 0.80,
            "Seedream 4.0": 0.78,
            "BAGEL (CoT)": 0.70,
            "STAR": 0.66,
            "LongCat-Image": 0.65,
            "Qwen-Image": 0.62,
            "Hunyuan-Image-3.0": 0.57,
            "OmniGen2": 0.47,
        },
        note="the judge is not stated",
    ),
    "wise-verified": Reference(
        metric="overall",
        source="WISE_Verified leaderboard",
        rows={
            "DeepGen 1.0": 0.570,
            "BAGEL (CoT)": 0.628,
            "FLUX.2-dev": 0.565,
            "Qwen-Image": 0.510,
        },
    ),
    "corebench-reasoning": Reference(
        metric="reasoning",
        source=f"{_PAPER}, read in a copy of its text",
        rows={
            "DeepGen 1.0 SFT": 45.7,
            "DeepGen 1.0 RL": 46.5,
            "LongCat-Image": 52.2,
            "Qwen-Image": 46.3,
            "Hunyuan-Image-3.0": 46.0,
            "Z-Image-Turbo": 43.7,
            "BAGEL (CoT)": 41.1,
            "OmniGen2": 36.1,
            "FLUX.1-dev": 36.1,
            "Nano Banana": 70.5,
            "Seedream 4.0": 69.4,
            "GPT-Image-1": 67.0,
        },
        note="judged by Qwen3-VL-32B-Thinking",
    ),
    "cvtg2k": Reference(
        metric="word_accuracy",
        source=f"{_PAPER}, read in a copy of its text",
        rows={
            "DeepGen 1.0 SFT": 0.6605,
            "DeepGen 1.0 RL": 0.7533,
            "GLM-Image": 0.9116,
            "LongCat-Image": 0.8658,
            "Z-Image-Turbo": 0.8585,
            "GPT-Image-1": 0.8569,
            "Qwen-Image": 0.8288,
            "Hunyuan-Image-3.0": 0.7650,
            "FLUX.1-dev": 0.4965,
        },
        note="the official scorer reads with PaddleOCR 2.10",
    ),
    "gedit-en": Reference(
        metric="G_O",
        source=_PAPER,
        rows={
            "DeepGen 1.0 SFT": 7.12,
            "DeepGen 1.0 RL": 7.17,
            "LongCat-Image-Edit": 7.60,
            "Qwen-Image-Edit-2509": 7.54,
            "Mammoth2": 6.60,
            "BAGEL": 6.52,
            "OmniGen2": 6.41,
            "UniWorld-V1": 4.85,
        },
        note="the judge is not stated",
    ),
    "imgedit": Reference(
        metric="overall",
        source=_PAPER,
        rows={
            "DeepGen 1.0 SFT": 4.09,
            "DeepGen 1.0 RL": 4.14,
            "LongCat-Image-Edit": 4.50,
            "Qwen-Image-Edit-2509": 4.35,
            "Mammoth2": 4.06,
            "OmniGen2": 3.43,
            "UniWorld-V1": 3.26,
            "BAGEL": 3.20,
        },
        note="the judge is not stated",
    ),
    "risebench-full": Reference(
        metric="accuracy",
        source="pictures of tables in DeepGen's repositories",
        rows={
            "DeepGen 1.0 SFT": 13.3,
            "DeepGen 1.0 RL": 10.8,
            "Nano Banana": 32.8,
            "GPT-Image-1": 28.9,
            "BAGEL (CoT)": 11.9,
            "Seedream 4.0": 10.8,
            "Qwen-Image-Edit-2509": 8.9,
            "FLUX.1-Kontext-dev": 5.8,
        },
        note="by the rule in force before 2026-04-13",
    ),
    "unireditbench": Reference(
        metric="overall",
        source="pictures of tables in DeepGen's repositories",
        rows={
            "DeepGen 1.0 SFT": 77.5,
            "DeepGen 1.0 RL": 75.7,
            "GPT-Image-1": 73.4,
            "Nano Banana": 68.3,
            "Qwen-Image-Edit-2509": 56.5,
            "Seedream 4.0": 55.8,
            "BAGEL (CoT)": 51.0,
            "Lumina-DiMOO": 48.5,
            "FLUX-Kontext-Pro": 45.8,
            "OmniGen2": 43.4,
        },
    ),
}
