"""One picture by several processes: each branch of guidance on its own, and the tokens of each divided.

`torchrun` starts the processes, and every one holds the whole model and makes the same call with the same
seed. After every step each has the velocities of all, so each ends with the picture, up to rounding. Tokens
are divided by diffusers' context parallelism (Ulysses: before attention all heads of some tokens, within it
some heads of all tokens).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from deepgen.processes import leave_at_exit
from deepgen.sampling.guided_inputs import Rows

if TYPE_CHECKING:
    from deepgen.models.dit import DeepGenTransformer2DModel

Parallel = Literal["guidance", "context", "both"]
BRANCHES: tuple[Rows, Rows] = ("negative", "positive")


class GuidanceExchange:
    """Which branch this process computes, and how it comes by the other.

    Args:
        mesh: one dimension of two places, a process of each branch.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self.rows: Rows = BRANCHES[mesh.get_local_rank()]

    def __call__(self, velocity: Tensor) -> Tensor:
        """The velocities of both branches (2 B, ...), negative first, from this one's (B, ...)."""
        both = [torch.empty_like(velocity) for _ in BRANCHES]
        dist.all_gather(both, velocity.contiguous(), group=self._mesh.get_group())
        return torch.cat(both)


def divide(transformer: DeepGenTransformer2DModel, how: Parallel) -> GuidanceExchange | None:
    """Divide the work of every picture among all processes; once in a process's life.

    Args:
        transformer: its tokens are divided from now on, unless only guidance is.
        how: "guidance" gives each branch to one of two processes; "context" the tokens of a sample to all of
            them; "both" each branch to half of them, which divide its tokens.

    Returns:
        What brings the branches together; None where each process computes both.

    Raises:
        ValueError: the number of processes does not fit, or tokens would be divided without an accelerator.
    """
    count = dist.get_world_size() if dist.is_initialized() else 1
    degree = {"guidance": 1, "context": count, "both": count // 2}[how]
    fits = {"guidance": count == 2, "context": count >= 2, "both": count >= 4 and count % 2 == 0}[how]
    if not fits:
        wanted = {"guidance": "2 processes", "context": "2 or more", "both": "4 or more, an even number"}[how]
        raise ValueError(
            f"dividing a picture by {how} takes {wanted}, got {count}; start them with "
            "torchrun --nproc-per-node N -m deepgen ..."
        )
    if how != "guidance" and not torch.accelerator.device_count():
        raise ValueError("tokens are divided among accelerators, and there is none; divide by guidance")
    leave_at_exit()
    device = "cpu" if dist.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    names = ("guidance", "ring", "ulysses")
    mesh = init_device_mesh(str(device), (count // degree, 1, degree), mesh_dim_names=names)
    if degree > 1:
        config = ContextParallelConfig(ulysses_degree=degree, ulysses_anything=True, mesh=mesh)
        transformer.enable_parallelism(config=config, cp_plan=_plan())
    return None if count == degree else GuidanceExchange(mesh["guidance"])


def _plan() -> dict[str, Any]:
    """Tokens are divided before the first block and brought together after the projection to patches."""
    divided = ContextParallelInput(split_dim=1, expected_dims=3)
    return {
        "transformer_blocks.0": {"hidden_states": divided, "encoder_hidden_states": divided},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }
