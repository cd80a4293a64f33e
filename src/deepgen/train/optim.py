"""Optimizers: Muon for matrices and convolutions, AdamW for everything else, behind one interface.

Muon replaces the momentum of a weight matrix by the nearest orthogonal matrix, so every direction is learned
at the same speed; for small models from scratch it buys several times fewer steps (spec/tiny.md: 22.6 dB
against 32.5 dB for the same VAE). PyTorch's own `torch.optim.Muon` takes 2-D tensors only and orthogonalises
them one by one in bfloat16, which a CPU without matrix instructions for it does fifty times slower than
float32; this one flattens convolutions, works in float32 and batches equal shapes. Source: Jordan et al.
2024, "Muon"; the scale of the step is theirs, sqrt(max(1, rows / columns)).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Quintic iteration that maps singular values in (0, 1] close to 1 (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Learning rates, decay and schedule; `muon_lr` of None trains everything with AdamW."""

    lr: float = 1e-3
    muon_lr: float | None = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    weight_decay: float = 0.0
    warmup_steps: int = 20
    decay_share: float = (
        0.3  # the last share of the run, in which the rate falls linearly to `final_lr_share`
    )
    final_lr_share: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and rates that are not positive."""
        if not 0 <= self.decay_share <= 1 or not 0 <= self.final_lr_share <= 1:
            raise ValueError(f"shares must be in [0, 1], got {self.decay_share} and {self.final_lr_share}")
        if self.lr <= 0 or (self.muon_lr is not None and self.muon_lr <= 0):
            raise ValueError(f"learning rates must be positive, got {self.lr} and {self.muon_lr}")


def lr_factor(config: OptimConfig, step: int, num_steps: int) -> float:
    """What the rates are multiplied by at `step`: linear warm-up, constant, linear decay at the end."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (num_steps - step) / max(1.0, config.decay_share * num_steps)
    decay = config.final_lr_share + (1 - config.final_lr_share) * min(1.0, max(0.0, left))
    return warmup * (decay if config.decay_share > 0 else 1.0)


def orthogonalize(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of a batch (N, rows, columns), approximately, in the input's dtype."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; parameters of more than two dimensions are flattened to (first, rest)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of every parameter that has a gradient. `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(param)
                momentum = state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                update = param.grad.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
                by_shape[tuple(update.shape)].append((param, update))
            for (rows, columns), members in by_shape.items():
                updates = orthogonalize(torch.stack([update for _, update in members]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (param, _), update in zip(members, updates, strict=True):
                    if group["weight_decay"]:
                        param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(update.view_as(param), alpha=-scale)


class Optimizer:
    """Muon and AdamW side by side: `step`, `zero_grad`, and a state that saves as plain tensors and numbers.

    A parameter goes to Muon when it has two dimensions or more and its name does not say that it is a table
    (embeddings, think tokens), whose rows are looked up rather than multiplied.
    """

    tables = ("embed_tokens", "think_tokens", "pos_embed.pos_embed")

    def __init__(self, named_params: Iterable[tuple[str, nn.Parameter]], config: OptimConfig):
        matrices, rest = [], []
        for name, param in named_params:
            if param.requires_grad:
                is_matrix = config.muon_lr is not None and param.ndim >= 2
                (matrices if is_matrix and not any(t in name for t in self.tables) else rest).append(param)
        self.config = config
        self.params = [*matrices, *rest]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(
                Muon(
                    matrices,
                    lr=config.muon_lr or 0.0,
                    momentum=config.momentum,
                    weight_decay=config.weight_decay,
                )
            )
        if rest:
            self.parts.append(
                torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
            )
        for part in self.parts:
            for group in part.param_groups:
                group["base_lr"] = group["lr"]

    def step(self, factor: float) -> float:
        """Clip, update with the base rates times `factor`, clear the gradients. Returns the gradient norm."""
        norm = nn.utils.clip_grad_norm_(self.params, self.config.clip_norm)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["base_lr"] * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the parameters must be the same ones in the same order."""
        if len(state["parts"]) != len(self.parts):
            raise ValueError(
                f"the saved optimizer has {len(state['parts'])} parts, this one {len(self.parts)}"
            )
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
