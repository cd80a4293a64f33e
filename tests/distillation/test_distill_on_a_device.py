"""Distillation on a pretended CUDA device: the CPU's losses, and no wait in a micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

from deepgen.distillation.recipe import DistillConfig
from deepgen.recipes import recipe
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.state import TrainState
from device_steps import optimizer_steps
from pretended_device import PretendedDevice

WAITS_A_PROMPT = 1  # whether the negative condition is still that of these weights


@pytest.fixture(autouse=True)
def _own_processes() -> Iterator[None]:
    """accelerate remembers the device of a process."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()


def steps(
    config: DistillConfig, device: str, pretended: PretendedDevice | None = None
) -> tuple[list[float], list[float]]:
    """Losses of the micro-batches and norms of the gradients of a round's optimizer steps."""
    PartialState._reset_state()
    torch.manual_seed(0)  # of a LoRA's first weights
    stage: Any = replace(config, device=device).build(Processes(device))
    state = TrainState(stage.modules, config.optim, config.num_steps, None)
    found = optimizer_steps(stage, state, 2, pretended)
    if pretended is not None:
        assert pretended.count("") <= WAITS_A_PROMPT * config.paths_per_round, pretended.report("")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mean-velocity", "distribution-matching"])
def test_losses_are_the_cpus_and_nothing_waits_in_a_micro_batch(objective: Any, prompts: Path) -> None:
    config = recipe("distill-shapes")
    assert isinstance(config, DistillConfig)
    config = replace(
        config,
        objective=objective,
        prompts=prompts,
        precision="float32",
        num_inference_steps=(2, 1),
        teacher_steps=4,
        paths_per_round=4,
        passes_per_round=1,
        updates_per_pass=2,
        matching=replace(config.matching, warmup_rounds=0, fake_updates=2),
        num_steps=4,
        save_every=4,
        optim=OptimConfig(lr=1e-3, muon_lr=None, warmup_steps=1, decay_share=0.0),
    )
    losses, norms = steps(config, "cpu")
    with PretendedDevice() as device:
        found, found_norms = steps(config, "cuda", device)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found_norms == pytest.approx(norms, rel=1e-4)
