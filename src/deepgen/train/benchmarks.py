"""Benchmarks as validation: small slices of them, drawn with the weights as they are and scored as in
`deepgen eval run`.

Slices are small and settings the model's own, so these numbers follow a run and are not for publication. Each
look has a folder of its own, which `deepgen eval report` reads.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.evaluation.benchmark import Benchmark, Settings, settings_with
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.judge import JudgeConfig
from deepgen.evaluation.make_scorers import ScorerConfig, make_scorers
from deepgen.evaluation.models import PipelineModel
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.scoring import TooFewVerdicts
from deepgen.generation import GenerationSettings
from deepgen.train.sharding import is_sharded
from deepgen.train.validation import evaluating

logger = logging.getLogger(__name__)


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
    detector: str = ScorerConfig.detector
    clip: str = ScorerConfig.clip
    ocr: str = ScorerConfig.ocr
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
        for name in self.names:
            load_benchmark(name)

    def scorers(self, benchmarks: list[Benchmark]) -> Scorers:
        """Those the benchmarks need; replies are not kept, since every look has new pictures."""
        judge = None
        if self.judge_url is not None:
            key = "" if self.judge_key_path is None else Path(self.judge_key_path).expanduser().read_text()
            judge = JudgeConfig(url=self.judge_url, model=self.judge_model, api_key=key.strip())
        config = ScorerConfig(detector=self.detector, clip=self.clip, ocr=self.ocr, judge=judge)
        return make_scorers(config, [need for benchmark in benchmarks for need in benchmark.needs])


class BenchmarkValidation:
    """An observer that runs benchmarks; data and scorers are opened at once, so what is missing is known
    before the first step.

    Args:
        config: what and how often.
        stage: whose pipeline draws; it has `pipe`, `modules`, `processes` and `autocast`.
    """

    def __init__(self, config: BenchmarksConfig, stage: Any) -> None:
        self.config, self.stage = config, stage
        self.every = config.every
        self.benchmarks = [load_benchmark(name) for name in config.names]
        for benchmark in self.benchmarks:
            items = benchmark.items(config.data, allow_altered=config.allow_altered_data)
            if lacking := benchmark.check_scoring(items):
                raise ValueError("; ".join(lacking))
        self._scorers = config.scorers(self.benchmarks) if stage.processes.is_main else Scorers()

    def __call__(self, step: int, output_dir: Path) -> dict[str, tuple[float, float]]:
        """`benchmark/LABEL` and `benchmark/LABEL judged`, the share of pictures with a verdict; pictures and
        verdicts go to `benchmarks/step-NNNNNNNN/`.
        """
        metrics: dict[str, tuple[float, float]] = {}
        with evaluating(self.stage), tempfile.TemporaryDirectory() as aside:
            # a sharded model takes all processes to draw; what the others draw is the same and is dropped
            folder = output_dir / "benchmarks" / f"step-{step:08d}"
            if not self.stage.processes.is_main:
                folder = Path(aside)
            elif folder.exists():
                shutil.rmtree(folder)  # of a run that was resumed from before
            name = f"step {step}"
            model = PipelineModel(name, self.stage.pipe, f"weights at {name}", is_deepgen=True)
            for benchmark in self.benchmarks:
                metrics |= self._run(benchmark, model, folder)
        return metrics

    def _run(
        self, benchmark: Benchmark, model: PipelineModel, folder: Path
    ) -> dict[str, tuple[float, float]]:
        config = RunConfig(
            output_dir=folder,
            data_dir=self.config.data,
            batch_size=self.config.batch_size,
            limit=self.config.limit,
            allow_partial=True,
            allow_altered=self.config.allow_altered_data,
            has_scoring=self.stage.processes.is_main,
        )
        try:
            result = run(benchmark, model, self._settings(benchmark), config, self._scorers)
        except TooFewVerdicts as error:  # a judge that is away does not stop a training
            logger.warning("%s", error)
            return {f"benchmark/{benchmark.label} judged": (0.0, 1.0)}
        if result is None:
            return {}
        metrics = {f"benchmark/{benchmark.label} judged": (result["coverage"], 1.0)}
        if (value := result["table"].get(benchmark.headline)) is not None:
            metrics[f"benchmark/{benchmark.label}"] = (value, 1.0)
        return metrics

    def _settings(self, benchmark: Benchmark) -> Settings:
        config, defaults = self.config, self.stage.pipe.defaults
        settings = GenerationSettings(
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            height=config.size or defaults["height"],  # of edits too
            width=config.size or defaults["width"],
        ).resolve(defaults, benchmark.is_edit)
        return settings_with(
            benchmark.settings,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            height=settings.height,
            width=settings.width,
            num_samples=config.num_samples,
        )


def benchmark_observers(config: BenchmarksConfig, stage: Any) -> list[BenchmarkValidation]:
    """One where benchmarks are named; on the main process, and on all where the model is sharded."""
    takes_part = stage.processes.is_main or is_sharded(stage.modules)
    return [BenchmarkValidation(config, stage)] if config.names and takes_part else []
