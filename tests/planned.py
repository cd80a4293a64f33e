"""Parts on the meta device or with small weights, marked as a stage marks them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from deepgen.checkpoints.parts import WEIGHTED, build, named_config, part_class
from deepgen.models.config import ARCHITECTURES
from deepgen.training.adapters import LoraSettings
from deepgen.training.plan import PlanConfig, _models

STAGE_1 = PlanConfig(global_batch_size=1024)
STAGE_2 = PlanConfig(
    trains_transformer=True,
    vlm_lora=LoraSettings(targets="upstream"),
    edit_share=1 / 3,
    global_batch_size=768,
)


@cache
def frozen(name: str) -> dict[str, nn.Module]:
    """All parts of a named architecture on the meta device, nothing trained."""
    architecture = ARCHITECTURES[name]
    models = {part: build(part, named_config(part, architecture)) for part in WEIGHTED}
    for model in models.values():
        model.requires_grad_(False)
    return models


@cache
def stage(number: int) -> dict[str, Any]:
    """The published model as a stage trains it, on the meta device."""
    return _models(STAGE_1 if number == 1 else STAGE_2)


def tiny(part: str) -> Any:
    """A part of the model of flat shapes with random weights, nothing trained."""
    torch.manual_seed(0)
    config = named_config(part, ARCHITECTURES["deepgen-shapes"])
    model = part_class(part)(config) if part == "vlm" else part_class(part)(**config)
    return model.requires_grad_(False).eval()
