"""The noise levels of a sampling run, from any diffusers scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgen.transfer import to_device


def set_timesteps(
    scheduler: Any,
    num_steps: int,
    device: torch.device | str | None = None,
    *,
    num_tokens: int | None = None,
    sigmas: np.ndarray | None = None,
) -> Tensor:
    """Prepare a flow scheduler for `num_steps` steps and return 1000 * sigma of every model call,
    (num_calls,) float32.

    Heun calls the model twice a step. Some schedulers round their timesteps to integers; sigmas are exact in
    all of them, so the DiT's input is taken from those.

    Args:
        scheduler: any diffusers scheduler with flow sigmas (flow matching, or `use_flow_sigmas=True`).
        num_steps: solver steps.
        device: where the timesteps are wanted; the scheduler's own stay on the host.
        num_tokens: DiT tokens of the target, which set mu where the scheduler shifts dynamically.
        sigmas: noise levels (num_steps,) before the shift, instead of the scheduler's own spacing.

    Raises:
        ValueError: the scheduler does not work on flow sigmas, or takes none that are given.
    """
    config = scheduler.config
    if "Flow" not in type(scheduler).__name__ and not config.get("use_flow_sigmas", False):
        raise ValueError(
            f"{type(scheduler).__name__} does not follow the flow-matching path; "
            "use FlowMatchEuler, FlowMatchHeun, or DPM-Solver++/UniPC with use_flow_sigmas=True"
        )
    kwargs: dict[str, Any] = {} if sigmas is None else {"sigmas": sigmas}
    if sigmas is not None and "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"{type(scheduler).__name__} spaces its steps itself and takes no sigmas")
    if (
        config.get("use_dynamic_shifting", False)
        and "mu" in inspect.signature(scheduler.set_timesteps).parameters
    ):
        kwargs["mu"] = dynamic_mu(num_tokens or config.base_image_seq_len, config)
    scheduler.set_timesteps(num_steps, **kwargs)  # on the host, which looks levels up without waiting
    calls = len(scheduler.timesteps)
    levels = scheduler.sigmas[:calls].to(torch.float32) * config.num_train_timesteps
    return to_device(levels, device)


def dynamic_mu(num_tokens: int, config: Any) -> float:
    """mu of a dynamic shift: linear in the number of target tokens, base_shift at base_image_seq_len."""
    slope = (config.get("max_shift", 1.16) - config.get("base_shift", 0.5)) / (
        config.get("max_image_seq_len", 4096) - config.get("base_image_seq_len", 256)
    )
    return config.get("base_shift", 0.5) + slope * (num_tokens - config.get("base_image_seq_len", 256))


def check_sigmas(sigmas: Sequence[float] | None, num_inference_steps: int | None) -> int | None:
    """The number of steps that noise levels make, or the one given without them; ValueError unless they
    fall and lie in (0, 1].
    """
    if sigmas is None:
        return num_inference_steps
    levels = [float(sigma) for sigma in sigmas]
    is_falling = all(before > after for before, after in pairwise(levels))
    if not levels or not is_falling or not all(0 < sigma <= 1 for sigma in levels):
        raise ValueError(f"sigmas must fall and lie above 0 and up to 1, got {levels}")
    if num_inference_steps is not None and num_inference_steps != len(levels):
        raise ValueError(
            f"{len(levels)} sigmas are as many steps, and num_inference_steps is {num_inference_steps}"
        )
    return len(levels)
