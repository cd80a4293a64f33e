"""Solvers by name; all are diffusers' own, each with its own arguments for the same schedule."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from deepgen.sampling.unipc import HostUniPC

_FLOW_MATCH = {"euler": FlowMatchEulerDiscreteScheduler, "heun": FlowMatchHeunDiscreteScheduler}
_MULTISTEP = {"dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
NAMES = (*_FLOW_MATCH, *_MULTISTEP)


def make_scheduler(name: str, scheduler: Any) -> Any:
    """The solver of that name on the noise schedule of `scheduler`, a `FlowMatchEulerDiscreteScheduler`.

    Raises:
        ValueError: the name is unknown, or the schedule shifts dynamically and the solver cannot.
    """
    if name == "euler":
        return scheduler
    if name not in NAMES:
        raise ValueError(f"unknown scheduler {name!r}; known: {', '.join(NAMES)}")
    if scheduler.config.use_dynamic_shifting:
        raise ValueError(f"scheduler {name!r} cannot follow this model's dynamic shift; use euler")
    steps, shift = scheduler.config.num_train_timesteps, scheduler.config.shift
    if name in _FLOW_MATCH:
        return _FLOW_MATCH[name](num_train_timesteps=steps, shift=shift)
    return _MULTISTEP[name](
        num_train_timesteps=steps, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def name_of(scheduler: Any) -> str:
    """The name of the solver that a scheduler is; its class's name where it is none of ours."""
    known = {kind: name for name, kind in {**_FLOW_MATCH, **_MULTISTEP}.items()}
    return known.get(type(scheduler), type(scheduler).__name__)


def without_waits(scheduler: Any) -> Any:
    """The same solver, with its coefficients computed on the host where diffusers' asks the device."""
    if type(scheduler) is UniPCMultistepScheduler:
        return HostUniPC.from_config(scheduler.config)
    return scheduler


def num_model_calls(name: str | None, num_steps: int) -> int:
    """Calls of the model in so many steps: heun looks ahead in each but the last."""
    return 2 * num_steps - 1 if name == "heun" else num_steps


def choose_solver(name: str | None, scheduler: Any) -> Any:
    """The scheduler where no solver is named or it is that solver, else the solver on its noise schedule.

    Raises:
        ValueError: see `make_scheduler`; or the pipeline's scheduler was replaced by another solver.
    """
    if name is None or type(scheduler) is {**_FLOW_MATCH, **_MULTISTEP}.get(name):
        return scheduler
    if type(scheduler) is not FlowMatchEulerDiscreteScheduler:
        raise ValueError(
            f"solver {name!r} is asked for and the pipeline has {type(scheduler).__name__}; leave out solver "
            "or give the pipeline its FlowMatchEulerDiscreteScheduler back"
        )
    return make_scheduler(name, scheduler)
