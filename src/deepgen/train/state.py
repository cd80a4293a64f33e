"""Everything of a run that must survive a restart, and how it is written.

A checkpoint is a folder: `model.safetensors`, `ema.safetensors` and `training.pt` (optimizer, step, random
numbers). It is written beside its final name and renamed, so a folder that has the name is complete.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepgen.train.optim import OptimConfig, Optimizer, lr_factor


class TrainState:
    """Trained modules, their optimizer, float32 moving averages and the step."""

    def __init__(self, modules: nn.Module, optim: OptimConfig, num_steps: int, ema_decay: float):
        self.modules = modules
        self.optimizer = Optimizer(modules.named_parameters(), optim)
        self.num_steps = num_steps
        self.ema_decay = ema_decay
        self.ema = {name: value.detach().float().clone() for name, value in self._values().items()}
        self.step = 0

    def _values(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.modules.state_dict().items() if value.is_floating_point()}

    @torch.no_grad()
    def update(self) -> dict[str, float]:
        """Clip, optimizer step at the schedule's rate, moving averages. Returns the gradient norm and the
        rate.
        """
        factor = lr_factor(self.optimizer.config, self.step, self.num_steps)
        norm = self.optimizer.step(factor)
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))  # short at first, to forget the start
        for name, value in self._values().items():
            self.ema[name].lerp_(value.float(), 1 - decay)
        return {"grad_norm": norm, "lr_factor": factor}

    def save(self, output_dir: Path, keep: int = 2) -> Path:
        """Write the checkpoint of this step under `output_dir` and drop all but the newest `keep`."""
        folder = output_dir / f"step-{self.step:08d}"
        unfinished = output_dir / f".{folder.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_file(
            {k: v.contiguous() for k, v in self.modules.state_dict().items()},
            unfinished / "model.safetensors",
        )
        save_file(self.ema, unfinished / "ema.safetensors")
        torch.save(
            {"optimizer": self.optimizer.state_dict(), "step": self.step, "rng": torch.get_rng_state()},
            unfinished / "training.pt",
        )
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        for old in checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old)
        return folder

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint folder, bit by bit."""
        self.modules.load_state_dict(load_file(folder / "model.safetensors"))
        self.ema = load_file(folder / "ema.safetensors")
        saved = torch.load(folder / "training.pt", weights_only=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        torch.set_rng_state(saved["rng"])


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    return sorted(output_dir.glob("step-*"))


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest checkpoint of a run, or a FileNotFoundError."""
    found = checkpoints(output_dir)
    if not found:
        raise FileNotFoundError(f"no step-* checkpoint in {output_dir}")
    return found[-1]
