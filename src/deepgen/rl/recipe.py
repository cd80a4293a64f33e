"""A recipe of reinforcement learning: the settings (config.py), and how their stage (stage.py) is opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from deepgen.data.fingerprint import mixture_facts, prompt_facts
from deepgen.data.prompts import PromptMix
from deepgen.pipeline import DeepGenPipeline
from deepgen.rl.config import RLSettings
from deepgen.rl.judged_prompts import open_judged_prompts, open_mix, refuse_unused_rewards
from deepgen.rl.prompt_words import unknown_word_warning
from deepgen.rl.stage import RLStage
from deepgen.sampling.few_steps import KEY, read_few_steps
from deepgen.training.parallel import Processes
from deepgen.training.supervised import SupervisedConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RLConfig(RLSettings, SupervisedConfig):
    """A recipe of reinforcement learning."""

    def with_known_length(self) -> RLConfig:
        """Ends after `num_epochs` of the prompts, which are counted; itself where no epochs are asked for."""
        if self.num_epochs is None or self.prompts is None:
            return self
        mix = open_mix(self.prompts, self.rewards)
        return replace(self, num_steps=self.steps_of(sum(len(one.rows) for one in mix.sets)))

    def build(self, processes: Processes) -> RLStage:
        """The stage, with its model, prompts and rewards opened."""
        if self.prompts is None:
            raise ValueError(
                "prompts is not set; give a .yaml mix, or a file of prompts and --rewards NAME=1"
            )
        refuse_unused_rewards(self.rewards, self.prompts, self.evaluation.prompts)
        mix, ensemble = open_judged_prompts(self.prompts, self.rewards, self.panel)
        mixture = None
        if self.sft_coef:
            if self.data is None:
                raise ValueError(f"sft_coef {self.sft_coef} needs data: the mixture file of stage 2")
            mixture = self.open_data(processes)
        pipe = self.start.load(self.dtype(processes.device))
        if mixture is not None:
            mixture = self.sized(mixture, pipe)
        if self._passes_by_the_student(pipe) and processes.is_main:
            logger.warning(
                "warning: %s has a student for preset turbo as a LoRA beside it, which is not trained here: "
                "these %d steps are the undistilled model's, without its noise levels; export a run of "
                "distillation as a folder and take that: --model FOLDER",
                self.model,
                self.num_inference_steps,
            )
        self._look_at_prompts(mix, pipe, processes)
        return RLStage(self, processes, pipe, mix, ensemble, mixture)

    def _passes_by_the_student(self, pipe: DeepGenPipeline) -> bool:
        """Whether rollouts take as many steps as the model's student does, and the model is not it."""
        made_for = read_few_steps(pipe.defaults.get(KEY), str(self.model))
        return (
            made_for is not None
            and made_for.lora is not None
            and self.num_inference_steps == made_for.usual_steps
        )

    def _look_at_prompts(self, mix: PromptMix, pipe: DeepGenPipeline, processes: Processes) -> None:
        look, world = self.preflight, pipe.config.get("world")
        if look is None or not processes.is_main:
            return
        if said := unknown_word_warning(mix, pipe, world, self.seed, look.num_rows // 10, look.seconds / 2):
            logger.warning("warning: %s", said)

    def facts(self, stage: RLStage) -> dict[str, Any]:
        """The prompts, the rewards with their versions, and the rows of the supervised loss."""
        mixture = stage.supervised.mixture
        data = {} if mixture is None else {"data": mixture_facts(mixture)}
        return {
            **data,
            "prompts": prompt_facts(stage.mix),
            "rewards": stage.ensemble.facts(stage.mix.rewards),
        }
