"""The three published stages on the storybook world; set `model` to what a stage begins with.

Rates are those that served the flat world (docs/tiny/README.md); batches fit two CPU cores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepgen.recipes.rl import rl_tiny
from deepgen.rl.evaluation import RLEvaluationConfig
from deepgen.rl.stage import RLConfig
from deepgen.training.loop import TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.stages.alignment import AlignmentConfig
from deepgen.training.stages.sft import SFTConfig

START = "storybook-parts"  # the folder that the pre-trained parts make, where no `model` is given
_MIXTURES = Path(__file__).parent / "mixtures"


def storybook_alignment() -> TrainConfig:
    """Stage 1: the connector alone."""
    return AlignmentConfig(
        model=START,
        data=_MIXTURES / "storybook.yaml",
        num_steps=600,
        optim=OptimConfig(lr=1e-3, muon_lr=None, weight_decay=0.05, warmup_steps=40, decay="cosine"),
        global_batch_size=96,
        micro_batch_size=32,
        ema_decay=0.99,
        save_every=100,
        keep=2,
    )


def storybook_sft() -> TrainConfig:
    """Stage 2: connector, DiT and a LoRA of the VLM."""
    return SFTConfig(
        model=START,
        data=_MIXTURES / "storybook.yaml",
        num_steps=400,
        optim=OptimConfig(
            lr=1e-3, muon_lr=0.003, weight_decay=0, warmup_steps=20, decay="linear", decay_share=0.9
        ),
        global_batch_size=96,
        micro_batch_size=48,
        ema_decay=0.99,
        save_every=100,
        keep=2,
    )


def storybook_rl() -> RLConfig:
    """Stage 3 on the exact reward, with a little of stage 2's loss; looks at every kind first and last.

    Rollouts are as in `rl-tiny`.
    """
    return replace(
        rl_tiny(),
        model=START,
        prompts=_MIXTURES / "storybook-rl.yaml",
        optim=OptimConfig(lr=1e-3, muon_lr=None, betas=(0.9, 0.99), warmup_steps=5, decay_share=0.3),
        sft_coef=1e-3,
        data=_MIXTURES / "storybook.yaml",
        global_batch_size=24,
        micro_batch_size=24,
        rollout_batch_size=64,
        evaluation=RLEvaluationConfig(
            prompts=_MIXTURES / "storybook-gate.yaml", every=100, prompts_per_set=16, batch_size=32
        ),
    )


RECIPES = {
    "storybook-alignment": storybook_alignment,
    "storybook-sft": storybook_sft,
    "storybook-rl": storybook_rl,
}
