"""A recipe of distillation: the settings (config.py), and how their stage (stage.py) is opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.data.fingerprint import prompt_facts
from deepgen.data.prompts import open_prompts
from deepgen.distillation.config import DistillSettings, Objective
from deepgen.distillation.matching_stage import MatchingStage
from deepgen.distillation.stage import DistillStage, StudentStage
from deepgen.sampling.few_steps import KEY
from deepgen.training.parallel import Processes
from deepgen.training.run_folder import read_run
from deepgen.training.start import check_resume
from deepgen.training.supervised import SupervisedConfig

logger = logging.getLogger(__name__)

OBJECTIVES: dict[Objective, type[StudentStage]] = {
    "mean-velocity": DistillStage,
    "distribution-matching": MatchingStage,
}


@dataclass(frozen=True, kw_only=True)
class DistillConfig(DistillSettings, SupervisedConfig):
    """A recipe of distillation."""

    def build(self, processes: Processes) -> StudentStage:
        """The stage, with its model and prompts opened."""
        if self.prompts is None:
            raise ValueError(
                "prompts is not set; give a .txt, .jsonl or .parquet file of prompts, or a .yaml mix of "
                "generation and edits: --prompts FILE"
            )
        if self.student is not None:
            self._check_student(self.student)
        elif self.objective == "distribution-matching":
            logger.warning(
                "warning: the objective distribution-matching begins with no student; it is meant for one "
                "that a run of mean-velocity made: --student RUN"
            )
        mix = open_prompts(self.prompts, is_scored=False)
        pipe = self.start.load(self.dtype(processes.device))
        if KEY in pipe.defaults and "lora" not in pipe.defaults[KEY]:
            raise ValueError(
                f"{self.model} was distilled already and has no guidance to learn from; distil the model it "
                "was made from"
            )
        return OBJECTIVES[self.objective](self, processes, pipe, mix)

    def _check_student(self, run_dir: Path) -> None:
        """ValueError where that is no run of distillation, or one from another model."""
        written = read_run(run_dir)
        if "paths_per_round" not in written:
            what = "holds another run" if written else "holds no run"
            raise ValueError(
                f"student {run_dir} {what}; give the output folder of a run of distillation, such as "
                "runs/distill of `deepgen train distill -o runs/distill`"
            )
        check_resume(self.start, written, run_dir)

    def facts(self, stage: StudentStage) -> dict[str, Any]:
        """The prompts."""
        return {"prompts": prompt_facts(stage.mix)}
