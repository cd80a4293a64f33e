"""Which process of how many this is, as the launcher said, and a refusal where we would see fewer.

`torchrun` starts the processes and says through the environment who is who (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT). accelerate makes a process group of them, but where there is no accelerator only
when it is told to keep to the CPU; left alone it reports one process, and each would do the whole work. So
every command that divides its work asks `join`, and one that does not asks `require_one`.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import PartialState

_HOW = "start them with torchrun --nproc-per-node N -m deepgen ..."
# Launchers that start several processes and leave it to the program to know of them.
_OTHER_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """What the launcher said.

    Attributes:
        rank: this process, in [0, count).
        count: processes that share the work, on all machines.
        local_count: processes on this machine; None where the launcher does not say.
    """

    rank: int = 0
    count: int = 1
    local_count: int | None = None


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """Which process of how many this is; one of one where nothing was said.

    Args:
        environment: by default this process's.

    Raises:
        ValueError: several were started in a way that does not say who is who, or what was said makes no
            sense.
    """
    said = os.environ if environment is None else environment
    if "WORLD_SIZE" not in said:
        _refuse_unknown_launch(said)
        return Launch()
    count = _number(said, "WORLD_SIZE", 1)
    local = _number(said, "LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in said else None
    if count == 1:
        return Launch(local_count=local)
    if "RANK" not in said:
        raise ValueError(
            f"WORLD_SIZE says {count} processes and RANK does not say which this is; {_HOW}, or unset "
            "WORLD_SIZE to work alone"
        )
    rank = _number(said, "RANK", 0)
    if rank >= count:
        raise ValueError(f"expected RANK in [0, {count}), as WORLD_SIZE says, got {rank}; {_HOW}")
    return Launch(rank, count, local)


def _refuse_unknown_launch(said: Mapping[str, str]) -> None:
    """ValueError where several processes were started, or may have been, and WORLD_SIZE is not set."""
    for name, launcher in _OTHER_LAUNCHERS.items():
        if name in said and (count := _number(said, name, 0)) > 1:
            raise ValueError(
                f"{launcher} started {count} processes ({name}), and each would do the whole work: it does "
                "not set RANK, WORLD_SIZE and MASTER_ADDR; let it start one torchrun on each machine, as in "
                "examples/train.sbatch, or set them as docs/training.md shows"
            )
    for name in ("RANK", "LOCAL_RANK"):
        if said.get(name, "-1") != "-1":
            raise ValueError(
                f"{name} is {said[name]} and WORLD_SIZE, which says how many processes share the work, is "
                f"not set; {_HOW}, or unset {name} to work alone"
            )
    # accelerate launch sets the first; the others only where several processes were asked for.
    if "ACCELERATE_USE_CPU" in said and all(name in said for name in _ADDRESS):
        raise ValueError(
            "accelerate launch was asked for several processes and starts one on each machine without an "
            f"accelerator, which cannot know of the others; {_HOW}"
        )


def _number(said: Mapping[str, str], name: str, least: int) -> int:
    try:
        value = int(said[name])
    except ValueError:
        value = least - 1
    if value < least:
        raise ValueError(f"expected {name} to be a whole number of at least {least}, got {said[name]!r}")
    return value


def require_one(who: str, advice: str = "start it without torchrun") -> None:
    """ValueError where several processes were started and each would do the whole work.

    Args:
        who: what works alone, for the message.
        advice: what to do instead.
    """
    if (count := launched().count) > 1:
        raise ValueError(f"{who} works in one process, {count} were started; {advice}")


def join(device: str | None = None, timeout: timedelta | None = None) -> PartialState:
    """The processes that were started, brought together: nccl among accelerators, gloo among CPUs.

    Args:
        device: "cpu" keeps to the CPU where there is an accelerator; None or "auto" takes what is there.
        timeout: for which a process waits for the others; by default torch's.

    Raises:
        ValueError: more processes were started than come together here, or than there are accelerators.
    """
    launch = _started()
    from accelerate import PartialState

    options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    state = PartialState(cpu=device == "cpu" or (launch.count > 1 and not _has_backend(launch)), **options)
    if (state.num_processes, state.process_index) != (launch.count, launch.rank):
        raise ValueError(
            f"process {launch.rank} of {launch.count} was started, and accelerate takes it for process "
            f"{state.process_index} of {state.num_processes}: each would do the whole work; {_HOW}, and make "
            "no PartialState or Accelerator before"
        )
    if launch.count > 1:
        leave_at_exit()
    return state


def leave_at_exit() -> None:
    """Have this process leave the others' group before Python ends; once, however often it is called.

    A thread of gloo's may still hold a tensor of the last exchange. Where it lets go of it after Python has
    begun to end, PyTorch 2.13 aborts the process (pytorch/pytorch#190489): all work is done, and torchrun
    reports a failure. Leaving a group waits for its threads, unless something still holds the group, such as
    a mesh; those get a moment. Among accelerators nothing is done: there a process that failed would wait
    for the others.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        if dist.get_backend() != "gloo":
            return
        dist.destroy_process_group()
    time.sleep(0.3)


def _has_backend(launch: Launch) -> bool:
    """Whether there are accelerators that exchange tensors; one for each process of this machine."""
    import torch

    found = torch.accelerator.current_accelerator()
    if found is None:
        return False
    if found.type == "mps":
        raise ValueError(
            f"{launch.count} processes were started, and mps is one device for one process; start it without "
            "torchrun, or keep to the CPU (--device cpu)"
        )
    num_devices = torch.accelerator.device_count()
    if launch.local_count is not None and launch.local_count > num_devices:
        raise ValueError(
            f"{launch.local_count} processes were started on this machine, which has {num_devices} "
            f"{found.type} devices; start --nproc-per-node {num_devices}, or keep to the CPU (--device cpu)"
        )
    return True


def _started() -> Launch:
    """As launched; where a program made its process group itself, as that says."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return Launch(dist.get_rank(), dist.get_world_size())
    launch = launched()
    if launch.count > 1 and (missing := [name for name in _ADDRESS if not os.environ.get(name)]):
        raise ValueError(
            f"WORLD_SIZE says {launch.count} processes and {' and '.join(missing)} does not say where they "
            f"meet; {_HOW}"
        )
    return launch
