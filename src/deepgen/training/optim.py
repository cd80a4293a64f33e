"""Optimizers: Muon for matrices and convolutions, AdamW for everything else, behind one interface.

Muon replaces the momentum of a weight matrix by the nearest orthogonal matrix, so every direction is learned
at the same speed; for small models from scratch it buys several times fewer steps (spec/tiny.md: 22.6 dB
against 32.5 dB for the same VAE). PyTorch's own `torch.optim.Muon` takes 2-D tensors only and orthogonalises
them one by one in bfloat16, which a CPU without matrix instructions for it does fifty times slower than
float32; this one flattens convolutions, works in float32 and batches equal shapes. Source: Jordan et al.
2024, "Muon"; the scale of the step is theirs, sqrt(max(1, rows / columns)).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepgen.config import BELOW_ONE, NOT_NEGATIVE, POSITIVE, check_bounds
from deepgen.extras import missing_extra
from deepgen.training.sharding import ShardSlice

# Quintic iteration that maps singular values in (0, 1] close to 1 (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters whose names begin with `prefix`, and what AdamW does differently with them."""

    prefix: str
    lr: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Learning rates, decay and schedule; `muon_lr` of None trains everything with AdamW.

    Steps are optimizer steps. Weight decay applies to parameters of two dimensions or more; the first
    group whose prefix fits a parameter's name overrides the rates.

    Attributes:
        lr: peak learning rate of AdamW, above 0.
        muon_lr: peak rate of Muon for matrices and convolutions, above 0; none trains all with AdamW.
        betas: decays of AdamW's two moments.
        eps: added to AdamW's denominator.
        momentum: of Muon.
        weight_decay: share of a weight that lr times it removes in a step.
        warmup_steps: steps in which the rates rise from 0 to their peak.
        decay: the form of the fall at the end.
        final_lr_share: share of the peak rate at the last step.
        clip_norm: largest norm of all gradients together; more is scaled down.
    """

    lr: float = 1e-3
    muon_lr: float | None = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95
    # Products of Muon's iteration; bfloat16 halves its time on processors that have instructions for it.
    muon_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.0
    groups: tuple[ParamGroup, ...] = ()
    is_8bit: bool = False  # AdamW's moments in 8 bits (bitsandbytes)
    warmup_steps: int = 20
    decay: Literal["linear", "cosine"] = "linear"
    decay_share: float = 0.3  # the last share of the run, in which the rate falls to `final_lr_share`
    final_lr_share: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and rates that are not positive."""
        if not 0 <= self.decay_share <= 1 or not 0 <= self.final_lr_share <= 1:
            raise ValueError(f"shares must be in [0, 1], got {self.decay_share} and {self.final_lr_share}")
        if self.lr <= 0 or (self.muon_lr is not None and self.muon_lr <= 0):
            raise ValueError(f"learning rates must be positive, got {self.lr} and {self.muon_lr}")
        check_bounds(
            self,
            {
                **dict.fromkeys(("eps", "clip_norm"), POSITIVE),
                **dict.fromkeys(("weight_decay", "warmup_steps"), NOT_NEGATIVE),
                "momentum": BELOW_ONE,
            },
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {self.betas}")


def lr_factor(config: OptimConfig, step: int, num_steps: int) -> float:
    """What the rates are multiplied by at `step`: linear warm-up, constant, decay at the end."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_share == 0:
        return warmup
    left = min(1.0, max(0.0, (num_steps - step) / max(1.0, config.decay_share * num_steps)))
    if config.decay == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return warmup * (config.final_lr_share + (1 - config.final_lr_share) * left)


def orthogonalize(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of a batch (N, rows, columns), approximately, in the input's dtype."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT.contiguous() if is_tall else matrices  # products of views take three times as long
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; parameters of more than two dimensions are flattened to (first, rest).

    Of a matrix divided among processes each keeps its rows of the momentum; all of them orthogonalise the
    whole and apply their rows.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        pieces: Mapping[nn.Parameter, ShardSlice] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        self._pieces = {} if pieces is None else pieces
        self._dtype = dtype
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
                update = param.grad.lerp(momentum, group["momentum"])  # Nesterov
                if param in self._pieces:
                    update = self._pieces[param].gather(update)
                update = update.flatten(1)
                by_shape[tuple(update.shape)].append((param, update))
            for (rows, columns), members in by_shape.items():
                updates = orthogonalize(torch.stack([update for _, update in members]).to(self._dtype))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (param, _), update in zip(members, updates, strict=True):
                    if group["weight_decay"]:
                        param.mul_(1 - group["lr"] * group["weight_decay"])
                    own = self._pieces[param].cut(update) if param in self._pieces else update
                    param.add_(own.view_as(param).to(param.dtype), alpha=-scale)


class Optimizer:
    """Muon and AdamW side by side: `step`, `zero_grad`, and a state that saves as plain tensors and numbers.

    A parameter goes to Muon when it has two dimensions or more and its name does not say that it is a table
    (embeddings, think tokens), whose rows are looked up rather than multiplied.
    """

    tables = ("embed_tokens", "think_tokens", "pos_embed.pos_embed")

    def __init__(
        self,
        named_params: Iterable[tuple[str, nn.Parameter]],
        config: OptimConfig,
        pieces: Mapping[nn.Parameter, ShardSlice] | None = None,
    ):
        self._pieces = {} if pieces is None else pieces  # parameters of which only these rows are here
        matrices: list[nn.Parameter] = []
        rest: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        self._names: dict[nn.Parameter, str] = {}
        for name, param in named_params:
            if not param.requires_grad:
                continue
            self._names[param] = name
            is_matrix = param.ndim >= 2 and not any(table in name for table in self.tables)
            if config.muon_lr is not None and is_matrix:
                matrices.append(param)
            else:
                rest[_rates(config, name, param)].append(param)
        self.config = config
        self.params = [*matrices, *(param for params in rest.values() for param in params)]
        if not self.params:
            raise ValueError("nothing to train: no parameter requires a gradient")
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(
                Muon(
                    matrices,
                    lr=config.muon_lr or 0.0,
                    momentum=config.momentum,
                    weight_decay=config.weight_decay,
                    pieces=self._pieces,
                    dtype=getattr(torch, config.muon_dtype),
                )
            )
        if rest:
            groups = [
                {"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in rest.items()
            ]
            self.parts.append(_adamw(config, groups))
        for part in self.parts:
            for group in part.param_groups:
                group["base_lr"] = group["lr"]

    def step(self, factor: float, norm: Tensor) -> None:
        """Clip gradients of that norm, update with the base rates times `factor`, clear the gradients."""
        nn.utils.clip_grads_with_norm_(self.params, self.config.clip_norm, norm)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["base_lr"] * factor
            part.step()
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """As if nothing had been computed since the last step."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def norm(self, params: Sequence[nn.Parameter]) -> Tensor:
        """Of the gradients of some of the parameters, rows that other processes hold included."""
        whole = [p.grad for p in params if p.grad is not None and p not in self._pieces]
        # PyTorch puts the norm of no gradients on the CPU; some parts learn in some steps only.
        norm = nn.utils.get_total_norm(whole) if whole else torch.zeros((), device=params[0].device)
        if not self._pieces:
            return norm
        own = [p.grad for p in params if p.grad is not None and p in self._pieces]
        square = nn.utils.get_total_norm(own).to(next(iter(self._pieces)).device) ** 2
        dist.all_reduce(square)
        return (square + norm.to(square) ** 2) ** 0.5

    def tensors(self) -> dict[str, Tensor]:
        """The moments, under "parameter/moment"; rates follow from config and step, so they are not state."""
        return {
            f"{self._names[param]}/{key}": value
            for part in self.parts
            for param, state in part.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave.

        Raises:
            ValueError: moments of a parameter that this optimizer does not train.
        """
        owners = {self._names[param]: (part, param) for part in self.parts for param in _params(part)}
        for part in self.parts:
            part.state.clear()
        for name, value in tensors.items():
            parameter, key = name.rsplit("/", 1)
            if parameter not in owners:
                raise ValueError(f"the checkpoint holds moments of {parameter!r}, which is not trained here")
            part, param = owners[parameter]
            device = "cpu" if key == "step" and not param.is_cuda else param.device
            part.state[param][key] = value.to(device, copy=True)


def _params(part: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [param for group in part.param_groups for param in group["params"]]


def _rates(config: OptimConfig, name: str, param: nn.Parameter) -> tuple[float, float]:
    """Learning rate and weight decay of one parameter under AdamW."""
    group = next((group for group in config.groups if name.startswith(group.prefix)), ParamGroup(prefix=""))
    lr = config.lr if group.lr is None else group.lr
    decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    return lr, decay if param.ndim >= 2 else 0.0


def _adamw(config: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if not config.is_8bit:
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]  # an extra
    except ModuleNotFoundError as error:
        raise missing_extra("optim.is_8bit needs bitsandbytes", "quant", error) from error
    return AdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps)
