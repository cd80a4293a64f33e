"""Sharding of a model among processes: each keeps a slice of every trained weight, gradient and moment.

PyTorch's `fully_shard` (FSDP2) gathers a block's weights where the block is computed and adds its gradients
up into slices. Optimizer, averages and checkpoints see the slices alone, as plain tensors: AdamW works on
each number by itself, and code that needs a whole matrix gathers it with `ShardSlice`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepgen.training.parallel import Processes

# As DeepSpeed's ZeRO: "fsdp" is stage 3, "zero2" stage 2, where weights stay whole from forward to backward.
Sharding = Literal["none", "zero2", "fsdp"]


@dataclass(frozen=True)
class ShardSlice:
    """The rows of a tensor that one process holds; the last processes may hold fewer, or none."""

    shape: tuple[int, ...]  # of the whole
    rank: int
    world_size: int

    @property
    def rows(self) -> range:
        """Which of the whole's first dimension."""
        most = -(-self.shape[0] // self.world_size)
        first = min(self.rank * most, self.shape[0])
        return range(first, min(first + most, self.shape[0]))

    def cut(self, whole: Tensor) -> Tensor:
        """These rows of a whole tensor."""
        return whole[self.rows.start : self.rows.stop]

    def gather(self, rows: Tensor) -> Tensor:
        """The whole from the rows of all processes; every process has to call it."""
        most = -(-self.shape[0] // self.world_size)
        padded = rows.new_zeros(most, *self.shape[1:])
        padded[: len(rows)] = rows
        pieces = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(pieces, padded)
        return torch.cat(pieces)[: self.shape[0]]


def shard(
    modules: nn.Module,
    processes: Processes,
    sharding: Sharding,
    *,
    dtype: torch.dtype = torch.float32,
    shards_frozen: bool = False,
    whole: Sequence[nn.Module] = (),
) -> None:
    """Divide a model among the processes, in place; with one process there is nothing to divide.

    Gathered together are the members of each outermost list of layers, then what remains of each part.

    Args:
        modules: the root, whose forward is called, and its parts.
        processes: among whom.
        sharding: what stays whole between forward and backward.
        dtype: of gathered weights that are trained; pieces and sums of gradients are in their own.
        shards_frozen: divide weights without gradient too; otherwise every process keeps them.
        whole: modules that every process keeps: those that some micro-batches do not pass through, since
            a gathering takes all processes, and those that hand out a weight itself.
    """
    if sharding == "none" or processes.world_size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise RuntimeError(
            f"sharding needs fully_shard with ignored_params, which torch {torch.__version__} lacks; "
            "install torch 2.7 or newer, or set sharding=none"
        )
    kept = {id(module) for top in whole for module in top.modules()}
    ignored = {parameter for top in whole for parameter in top.parameters()}
    if not shards_frozen:
        ignored |= {parameter for parameter in modules.parameters() if not parameter.requires_grad}
    low = {} if dtype == torch.float32 else {"param_dtype": dtype, "reduce_dtype": torch.float32}
    options: dict[str, Any] = {
        "mesh": init_device_mesh(processes.device.type, (processes.world_size,)),
        "reshard_after_forward": sharding == "fsdp",
        # Inputs keep their type, as without sharding: a timestep in bfloat16 would be another timestep.
        "mp_policy": MixedPrecisionPolicy(**low, cast_forward_inputs=False),
        "ignored_params": ignored,
    }
    for module in (*_blocks(modules), *modules.children()):
        if id(module) not in kept and any(parameter not in ignored for parameter in module.parameters()):
            fully_shard(module, **options)
    fully_shard(modules, **options)
    for module in modules.modules():
        if isinstance(module, FSDPModule):
            _add_up(module)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _add_up(module: Any) -> None:
    """Sum gradients instead of averaging them: a step's loss is the sum of the processes' losses."""
    if hasattr(module, "set_force_sum_reduction_for_comms"):
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums
    if hasattr(module, "set_gradient_divide_factor"):
        module.set_gradient_divide_factor(1.0)
    else:  # before torch 2.8
        module.set_reduce_scatter_divide_factor(1.0)


def is_sharded(modules: nn.Module) -> bool:
    """Whether `shard` divided it."""
    return hasattr(modules, "set_requires_gradient_sync")


def own_rows(parameter: nn.Parameter) -> nn.Parameter:
    """What this process holds of a parameter, in the same memory; the parameter itself where it is whole."""
    local: Any = getattr(parameter, "to_local", None)
    if local is None:
        return parameter
    with torch.no_grad():
        return nn.Parameter(local())


def piece_of(parameter: nn.Parameter) -> ShardSlice | None:
    """Which rows this process holds; None where the parameter is whole."""
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return None
    return ShardSlice(tuple(parameter.shape), mesh.get_local_rank(), mesh.size())


@dataclass(frozen=True)
class SyncedMicroBatch:
    """One micro-batch of a step.

    Attributes:
        batch: the micro-batch.
        is_counted: False for a repetition that only takes part in the collective calls; its loss counts zero.
    """

    batch: Any
    is_counted: bool = True


class MicroBatchSync:
    """A step's micro-batches, as many on every process where a sharded model needs it.

    A sharded forward takes all processes. One that has fewer micro-batches than another, because its rows
    were bad or the step is small, repeats its last one, and the repetition counts for nothing.

    Args:
        modules: what is trained.
        processes: those of the run.
        sums_once: exchange gradients in the last backward of a step; until then each process holds whole
            ones. Otherwise in every backward, which costs time and keeps rows alone.
    """

    def __init__(self, modules: Any, processes: Processes, *, sums_once: bool = True):
        self.modules, self.processes, self.sums_once = modules, processes, sums_once
        self._last: Any = None

    def __call__(self, batches: Iterable[Any]) -> Iterator[SyncedMicroBatch]:
        """The micro-batches of a step, with the repetitions that a sharded model needs."""
        if not is_sharded(self.modules):
            yield from map(SyncedMicroBatch, batches)
            return
        stream = iter(batches)
        following = next(stream, None)
        is_more = self.processes.any(following is not None)
        while is_more:
            batch, following = following, next(stream, None)
            is_more = self.processes.any(following is not None)
            if batch is None and self._last is None:
                raise RuntimeError(
                    "this process has no micro-batch in its first step, and a sharded model needs one; "
                    "raise global_batch_size or start fewer processes"
                )
            is_counted = batch is not None
            self._last = batch if is_counted else self._last
            self.modules.set_requires_gradient_sync(not (is_more and self.sums_once))
            yield SyncedMicroBatch(self._last, is_counted)
