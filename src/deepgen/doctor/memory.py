"""Which `--memory` suits the 5B model on each device here. Runs in a worker process.

The planner of `--memory auto` is asked, with what is free now and with all there is; so this is what a
drawing would choose, and what it would choose once other programs have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepgen.doctor.torch_facts import DeviceFacts, gather


@dataclass(frozen=True, kw_only=True)
class MemorySuggestion:
    """How the model is kept on one device.

    Attributes:
        device: its name.
        free_bytes: of what the plan was made for.
        plan: in words; None where nothing fits.
        with_all: the plan with all of the memory; None where nothing fits then either.
        option: what to type.
        needed_bytes: on the device, at its highest.
        waiting_bytes: in main memory.
        least_bytes: what the smallest plan needs.
        package: that the plan needs besides, such as "torchao"; empty where it needs none.
    """

    device: str
    free_bytes: int
    total_bytes: int
    plan: str | None
    with_all: str | None
    option: str = ""
    needed_bytes: int = 0
    waiting_bytes: int = 0
    least_bytes: int = 0
    package: str = ""


def suggestions(architecture: str, devices: tuple[DeviceFacts, ...] | None = None) -> list[MemorySuggestion]:
    """One for each device.

    Args:
        architecture: a named one, such as "deepgen-1.0".
        devices: default those that PyTorch finds.
    """
    from deepgen.checkpoints.memory import meta_models

    models = meta_models(architecture)
    return [suggestion(models, one) for one in (gather().devices if devices is None else devices)]


def suggestion(models: Mapping[str, Any], device: DeviceFacts) -> MemorySuggestion:
    """For a device, of the parts on the meta device."""
    from deepgen.checkpoints.memory import MARGIN, PLANS, MemoryPlan, choose, need

    value_bytes = 2 if device.has_own_memory else 4

    def chosen(budget: int) -> MemoryPlan | None:
        try:
            return choose(models, budget, can_offload=device.has_own_memory)
        except ValueError:  # nothing fits; what is least is said below
            return None

    possible = [plan for plan in PLANS if device.has_own_memory or plan.offload == "none"]
    least = min(need(models, plan, value_bytes=value_bytes).device for plan in possible)
    plan, with_all = chosen(device.free_bytes), chosen(device.total_bytes)
    needed = None if plan is None else need(models, plan, value_bytes=value_bytes)
    package = {"int8": "torchao", "nf4": "bitsandbytes"}.get(plan.quantize, "") if plan else ""
    return MemorySuggestion(
        device=device.name,
        free_bytes=device.free_bytes,
        total_bytes=device.total_bytes,
        plan=None if plan is None else str(plan),
        with_all=None if with_all is None else str(with_all),
        option="" if plan in (None, MemoryPlan()) else "--memory auto",
        needed_bytes=0 if needed is None else needed.device,
        waiting_bytes=0 if needed is None else needed.host,
        least_bytes=int(least / MARGIN),
        package=package,
    )
