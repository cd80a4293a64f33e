"""Config of the benchmarks that are run during training; benchmark_validation.py runs them.

Apart from them, so that a training without benchmarks loads nothing of the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepgen.evaluation.default_scorers import CLIP, DETECTOR, OCR
from deepgen.moved import renamed

__getattr__ = renamed(
    __name__, {"BenchmarkValidation": "deepgen.training.benchmark_validation.BenchmarkValidation"}
)


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig:
    """Which benchmarks are looked at, and how often.

    Attributes:
        names: as in `deepgen eval run`, such as shapes or wise:verified; empty looks at nothing.
        data: official files, one folder for each benchmark.
        every: optimizer steps between two looks; there is one after the last step too.
        limit: items of each, spread over its categories.
        num_samples: pictures of each item.
        num_inference_steps, guidance_scale, size: of pictures; default the model's own, which may have
            another guidance for edits.
        batch_size: items drawn together.
        allow_altered_data: read files that are not the official ones.
        detector, clip, ocr: who looks, as in `deepgen eval run`.
        judge_url, judge_model: a chat endpoint, where a benchmark needs one.
        judge_key_path: a file with its key; a key itself would end up in the saved settings of a run.
    """

    names: tuple[str, ...] = ()
    data: Path = Path("data")
    every: int = 500
    limit: int = 24
    num_samples: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    size: int | None = None
    batch_size: int = 8
    allow_altered_data: bool = False
    detector: str = DETECTOR
    clip: str = CLIP
    ocr: str = OCR
    judge_url: str | None = None
    judge_model: str = ""
    judge_key_path: str | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one, and benchmarks there are not."""
        if min(self.every, self.limit, self.num_samples, self.batch_size) < 1:
            raise ValueError("benchmarks need every, limit, num_samples and batch_size of at least 1")
        for setting in ("num_inference_steps", "guidance_scale", "size"):
            value = getattr(self, setting)
            if value is not None and value < 1:
                raise ValueError(f"benchmarks.{setting} must be at least 1 or none, got {value:g}")
        if self.names:
            from deepgen.evaluation.benchmarks import load_benchmark

            for name in self.names:
                load_benchmark(name)
