"""Benchmarks as validation: small slices of them, drawn with the weights as they are and scored as in
`deepgen eval run`.

Slices are small and settings the model's own, so these numbers follow a run and are not for publication. Each
look has a folder of its own, which `deepgen eval report` reads.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from deepgen.evaluation.benchmark import Benchmark, Settings, settings_with
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.judge import JudgeConfig
from deepgen.evaluation.make_scorers import ScorerConfig, make_scorers
from deepgen.evaluation.models import PipelineModel
from deepgen.evaluation.runner import RunConfig, Workers, run
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.scoring import TooFewVerdicts
from deepgen.generation import GenerationSettings
from deepgen.training.benchmarks import BenchmarksConfig
from deepgen.training.sharding import is_sharded
from deepgen.training.validation import evaluating

logger = logging.getLogger(__name__)


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
        self._scorers = _scorers(config, self.benchmarks) if stage.processes.is_main else Scorers()

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
            # a team of one: each process that is here draws all of them, see above
            result = run(benchmark, model, self._settings(benchmark), config, self._scorers, Workers())
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


def _scorers(config: BenchmarksConfig, benchmarks: list[Benchmark]) -> Scorers:
    """Those the benchmarks need; replies are not kept, since every look has new pictures."""
    judge = None
    if config.judge_url is not None:
        key = "" if config.judge_key_path is None else Path(config.judge_key_path).expanduser().read_text()
        judge = JudgeConfig(
            url=config.judge_url,
            model=config.judge_model,
            api_key=key.strip(),
            longest_pause=10.0,  # training waits for it
        )
    scorers = ScorerConfig(detector=config.detector, clip=config.clip, ocr=config.ocr, judge=judge)
    return make_scorers(scorers, [need for benchmark in benchmarks for need in benchmark.needs])


def benchmark_observers(config: BenchmarksConfig, stage: Any) -> list[BenchmarkValidation]:
    """One where benchmarks are named; on the main process, and on all where the model is sharded."""
    takes_part = stage.processes.is_main or is_sharded(stage.modules)
    return [BenchmarkValidation(config, stage)] if config.names and takes_part else []
