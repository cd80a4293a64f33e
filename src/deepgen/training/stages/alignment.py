"""Stage 1, alignment pre-training: the connector learns to speak to a frozen DiT for a frozen VLM.

Think tokens, connector layers and projectors are trained (432 M parameters of DeepGen 1.0). The defaults
are the published recipe's, counted in optimizer steps: 64 GPUs saw 1024 samples a step, one edit to three
captions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepgen.training.optim import OptimConfig
from deepgen.training.supervised import SupervisedConfig


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(SupervisedConfig):
    """Only the connector."""

    num_steps: int = 50_000
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-4, muon_lr=None, weight_decay=0.05, warmup_steps=500, decay="cosine", decay_share=0.99
        )
    )
    global_batch_size: int = 1024
    ema_decay: float | None = 0.9999
    save_every: int = 1000
    log_every: int = 10
    keep: int = 5
