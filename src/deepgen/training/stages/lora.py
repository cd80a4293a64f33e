"""Fine-tuning on a few dozen pictures of one's own: a LoRA on the DiT, and if asked on the VLM.

What it writes loads with `deepgen generate --lora`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepgen.training.adapters import LoraSettings
from deepgen.training.optim import OptimConfig
from deepgen.training.supervised import SupervisedConfig
from deepgen.training.supervised_settings import BeforeAfterConfig


@dataclass(frozen=True, kw_only=True)
class LoraConfig(SupervisedConfig):
    """A LoRA on the DiT."""

    num_steps: int = 500
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-4, muon_lr=None, warmup_steps=20, decay_share=0.3)
    )
    global_batch_size: int = 8
    trains_connector: bool = False
    transformer_lora: LoraSettings | None = field(
        default_factory=lambda: LoraSettings(rank=16, alpha=16, dropout=0.0)
    )
    ema_decay: float | None = None
    before_after: BeforeAfterConfig | None = field(default_factory=BeforeAfterConfig)
    save_every: int = 100
    log_every: int = 10
    num_workers: int = 0
