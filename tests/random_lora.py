"""LoRA files of random weights, as PEFT names them, for tests that compare drawings with and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from deepgen.pipeline import DeepGenPipeline

LAYERS = {"transformer": ["to_q", "to_k", "to_v"], "vlm": ["q_proj"]}


def write_lora(
    pipe: DeepGenPipeline,
    path: Path,
    seed: int,
    layers: Mapping[str, Sequence[str]] = LAYERS,
    rank: int = 4,
    alpha: int = 64,
) -> None:
    """An adapter large enough to be seen, by default for two parts; the pipeline keeps it, too."""
    torch.manual_seed(seed)
    weights = {}
    for part, modules in layers.items():
        module = getattr(pipe, part)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(modules), init_lora_weights=False)
        module.add_adapter(config, adapter_name=path.stem)
        state = get_peft_model_state_dict(module, adapter_name=path.stem)
        weights |= {f"{part}.{key}": value.contiguous() for key, value in state.items()}
    save_file(weights, path)
