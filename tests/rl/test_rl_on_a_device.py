"""Reinforcement learning on a pretended CUDA device: rollouts and losses are the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image

from deepgen.data.prompts import PromptMix, PromptSet
from deepgen.pipeline import DeepGenPipeline
from deepgen.rewards.ensemble import RewardEnsemble
from deepgen.rewards.reward import EachAlone, RewardResult
from deepgen.rl.recipe import RLConfig
from deepgen.rl.stage import RLStage
from deepgen.sampling.windows import WindowConfig
from deepgen.training.adapters import LoraSettings
from deepgen.training.finite import StepWatch
from deepgen.training.parallel import Processes
from deepgen.training.state import TrainState
from pretended_device import PretendedDevice

LEVELS = 1


@pytest.fixture(autouse=True)
def _own_processes() -> Iterator[None]:
    """accelerate remembers the device of a process."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()


class _Prompts:
    def __init__(self, *, edits: bool) -> None:
        self.edits = edits

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        shown = (Image.new("RGB", (64, 64), (40 * index, 90, 120)),) if self.edits else ()
        return f"picture {'of many ' * (index % 3)}things", f"row {index}", shown, {}


class _Bright(EachAlone):
    version = "bright-1"

    def judge(self, candidate) -> RewardResult:
        return RewardResult(float(np.asarray(candidate.image).mean() / 255))


CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "edits": {"edits": True},
    "kl": {"objective_options": ("kl_coef=0.1",)},
    "nft": {"objective": "nft", "shares_noise": False, "updates_per_rollout": 2},
    "guard": {"objective": "grpo_guard", "sampler": "flow"},
    "connector": {"trains_connector": True},
}


def rollout_and_update(
    pipe: DeepGenPipeline, place: str, device: PretendedDevice | None, *, edits: bool = False, **changes: Any
) -> tuple[list[float], list[float], list[np.ndarray]]:
    """Losses of the micro-batches, norms of the gradients and images, of two optimizer steps."""
    size = {} if edits else {"height": 32, "width": 48}
    base = RLConfig(
        device=place,
        precision="float32",
        num_steps=4,
        group_size=2,
        prompts_per_rollout=2,
        micro_batch_size=4,
        num_inference_steps=3,
        window=WindowConfig(kind="full"),
        sheet_every=0,
        objective_options=("kl_coef=0",),
        transformer_lora=LoraSettings(rank=2, alpha=4, dropout=0.0),
        **size,
    )
    prompts = PromptSet(name="set", rows=_Prompts(edits=edits), weight=1.0, rewards={"bright": 1.0})
    PartialState._reset_state()
    torch.manual_seed(0)  # of the adapters
    panel = RewardEnsemble({"bright": _Bright()})
    stage = RLStage(replace(base, **changes), Processes(place), pipe, PromptMix(sets=(prompts,)), panel)
    state = TrainState(stage.modules, stage.config.optim, 4, None)
    losses, norms, images = [], [], []
    for step in range(2):
        watch = StepWatch()
        for batch in stage.batches(step):
            if device is not None:
                device.phase = "micro-batch"
            result = stage.loss(batch)
            result.loss.backward()
            watch.add(result, batch)
            losses.append(result.loss.detach())
            if device is not None:
                device.phase = "rollout"
        stage.check_step()
        norms.append((state.update(watch) or {})["grad_norm"])
        stage.take_metrics()
        assert stage.buffer is not None
        images += [np.asarray(one, int) for rollout in stage.buffer.rollouts for one in rollout.images]
    return [float(loss) for loss in losses], norms, images


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_rollout_with_its_update_is_the_cpus(
    case: str, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    losses, norms, images = rollout_and_update(pipe, "cpu", None, **CASES[case])
    with PretendedDevice() as device:
        found, found_norms, drawn = rollout_and_update(fresh_pipe, "cuda", device, **CASES[case])
    assert found == pytest.approx(losses, rel=1e-3, abs=1e-6)
    assert found_norms == pytest.approx(norms, rel=1e-3)
    for ours, theirs in zip(drawn, images, strict=True):
        assert np.abs(ours - theirs).max() <= LEVELS
    assert not [wait for wait in device.waits if wait.phase == "micro-batch"], device.report()
    # Between the steps of a rollout: whether a table of modulations rounds as single steps, once for a shape.
    drawing = [wait.line for wait in device.waits if wait.line.startswith("sampling/")]
    assert all("<genexpr>" in line for line in drawing), device.report()
