"""Stages of training on a pretended CUDA device: the CPU's losses and gradients, and no wait in a
micro-batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

from deepgen.recipes import recipe, run
from deepgen.training.adapters import LoraSettings
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.state import TrainState
from device_steps import optimizer_steps
from pretended_device import PretendedDevice
from small_runs import small


@pytest.fixture(autouse=True)
def _own_processes() -> Iterator[None]:
    """accelerate remembers the device of a process."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()


def steps(
    mixture: Path,
    name: str,
    device: str,
    pretended: PretendedDevice | None = None,
    *,
    count: int = 2,
    **options: Any,
) -> tuple[list[float], list[float]]:
    """Losses of the micro-batches and norms of the gradients of some optimizer steps."""
    PartialState._reset_state()
    precision = options.pop("precision", "float32")
    config = replace(override(recipe(name), small(mixture, device=device, precision=precision)), **options)
    torch.manual_seed(0)  # of a LoRA's first weights
    stage = config.build(Processes(device))
    state = TrainState(stage.modules, config.optim, config.num_steps, None)
    found = optimizer_steps(_Seeded(stage), state, count, pretended)
    if pretended is not None:
        assert pretended.count("") == 0, pretended.report("")
    return found


class _Seeded:
    """A stage whose losses draw the same in both runs, as dropout would not."""

    def __init__(self, stage: Any) -> None:
        self.stage, self.step = stage, 0

    def batches(self, step: int) -> Any:
        self.step = step
        return self.stage.batches(step)

    def loss(self, batch: Any) -> Any:
        torch.manual_seed(self.step)
        return self.stage.loss(batch)


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "sft of a LoRA in the VLM": ("sft", {"vlm_lora": LoraSettings(rank=4, dropout=0.0)}),
    "sft of a LoRA in the DiT": (
        "sft",
        {"trains_transformer": False, "transformer_lora": LoraSettings(rank=4, dropout=0.0)},
    ),
    "sft with checkpointed activations": ("sft", {"is_checkpointing_activations": True}),
}


def check(mixture: Path, name: str, options: dict[str, Any]) -> None:
    losses, norms = steps(mixture, name, "cpu", **options)
    with PretendedDevice() as device:
        found, found_norms = steps(mixture, name, "cuda", device, **options)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found_norms == pytest.approx(norms, rel=1e-4)


def test_alignment_has_the_cpus_losses_and_does_not_wait_in_a_micro_batch(mixture: Path) -> None:
    check(mixture, "alignment", {"count": 1})


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIONS)
def test_other_stages_have_the_cpus_losses(case: str, mixture: Path) -> None:
    check(mixture, *OPTIONS[case])


@pytest.mark.slow
def test_a_device_trains_in_bfloat16_unless_it_is_told_otherwise(mixture: Path) -> None:
    losses, _ = steps(mixture, "alignment", "cpu")
    with PretendedDevice() as device:
        found, _ = steps(mixture, "alignment", "cuda", device, precision="auto")
    assert found == pytest.approx(losses, rel=0.05)
    assert found != pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_a_whole_run_is_saved_and_gone_on_with(mixture: Path, tmp_path: Path) -> None:
    logged = {}
    for name, device in (("cpu", "cpu"), ("device", "auto")):
        settings = small(mixture, device=device, precision="float32", log_every="1", save_every="1")
        with PretendedDevice() if name == "device" else nullcontext():
            PartialState._reset_state()
            run("alignment", tmp_path / name, overrides=settings)
            PartialState._reset_state()
            run("alignment", tmp_path / name, resume=True, overrides={**settings, "num_steps": "4"})
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logged[name] = [json.loads(line)["loss"] for line in lines]
    assert len(logged["cpu"]) == 4
    assert logged["device"] == pytest.approx(logged["cpu"], rel=1e-3)
