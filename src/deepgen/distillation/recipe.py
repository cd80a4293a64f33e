"""A recipe of distillation: the settings (config.py), and how their stage (stage.py) is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepgen.data.fingerprint import prompt_facts
from deepgen.data.prompts import open_prompts
from deepgen.distillation.config import DistillSettings
from deepgen.distillation.stage import DistillStage
from deepgen.sampling.few_steps import KEY
from deepgen.training.parallel import Processes
from deepgen.training.supervised import SupervisedConfig


@dataclass(frozen=True, kw_only=True)
class DistillConfig(DistillSettings, SupervisedConfig):
    """A recipe of distillation."""

    def build(self, processes: Processes) -> DistillStage:
        """The stage, with its model and prompts opened."""
        if self.prompts is None:
            raise ValueError(
                "prompts is not set; give a .txt, .jsonl or .parquet file of prompts, or a .yaml mix of "
                "generation and edits: --prompts FILE"
            )
        mix = open_prompts(self.prompts, is_scored=False)
        pipe = self.start.load(self.dtype(processes.device))
        if KEY in pipe.defaults and "lora" not in pipe.defaults[KEY]:
            raise ValueError(
                f"{self.model} was distilled already and has no guidance to learn from; distil the model it "
                "was made from"
            )
        return DistillStage(self, processes, pipe, mix)

    def facts(self, stage: DistillStage) -> dict[str, Any]:
        """The prompts."""
        return {"prompts": prompt_facts(stage.mix)}
