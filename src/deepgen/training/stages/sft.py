"""Stage 2, joint supervised fine-tuning: connector and DiT, and a LoRA on the VLM.

The defaults are the published recipe's, counted in optimizer steps: 64 GPUs saw 768 samples a step, one
edit to two captions, starting from stage 1. `vlm_lora.targets="upstream"` adapts what the original
adapts, dead weights included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepgen.training.adapters import LoraSettings
from deepgen.training.optim import OptimConfig
from deepgen.training.supervised import SupervisedConfig


@dataclass(frozen=True, kw_only=True)
class SFTConfig(SupervisedConfig):
    """Connector, DiT and VLM LoRA."""

    num_steps: int = 133_333
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=5e-5, muon_lr=None, weight_decay=0.05, warmup_steps=1333, decay="cosine", decay_share=0.99
        )
    )
    global_batch_size: int = 768
    trains_transformer: bool = True
    vlm_lora: LoraSettings | None = field(default_factory=LoraSettings)
    ema_decay: float | None = 0.9999
    save_every: int = 1000
    log_every: int = 10
    keep: int = 5
