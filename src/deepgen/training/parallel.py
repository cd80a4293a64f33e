"""One process or many: the few things the loop has to know about it.

`torchrun` or `accelerate launch` starts the processes and says who is who; without them there is one.
Every process knows the plan of the whole step and computes its share of the micro-batches, as many as
fall to it; then gradients are summed once. So nothing is exchanged while gradients accumulate, and shares
need not be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET = 2**25  # elements that travel together
_PATIENCE = timedelta(hours=2)  # of the others, while the first one validates or evaluates alone


class Processes:
    """This process's place among the others.

    Args:
        device: "cpu" keeps to the CPU where there is an accelerator; None takes what is there.

    Raises:
        ValueError: more processes were started than come together, see `deepgen.processes`.
    """

    def __init__(self, device: str | None = None):
        from deepgen.processes import join

        self._state = join(device, _PATIENCE)

    @property
    def rank(self) -> int:
        """0 to `world_size` - 1."""
        return self._state.process_index

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return self._state.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self._state.is_main_process

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device(self._state.device or "cpu")

    def require_one(self, who: str) -> None:
        """ValueError where several processes would do the same work several times."""
        if self.world_size > 1:
            raise ValueError(
                f"{who} trains on one process, {self.world_size} were started; start it without torchrun"
            )

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()

    def any(self, value: bool) -> bool:
        """Whether it is true on some process; the same answer on all of them."""
        if self.world_size == 1:
            return value
        return bool(self._sum(torch.tensor(float(value), device=self.device)) > 0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients of all processes added up; a parameter that got none anywhere keeps none."""
        if self.world_size == 1:
            return
        touched = torch.tensor(
            [p.grad is not None for p in parameters], dtype=torch.float32, device=self.device
        )
        is_touched = self._sum(touched) > 0
        members = [p for p, is_one in zip(parameters, is_touched.tolist(), strict=True) if is_one]
        for parameter in members:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in members if p.grad is not None]):
            flat = self._sum(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, piece in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def sum_metrics(self, metrics: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Means of metrics, each given as (sum, count), over all processes; names may differ between them.

        A count of 0 makes a metric a number that is added up, such as of images without a score.
        """
        totals: dict[str, tuple[float, float]] = {}
        for part in self.gather(dict(metrics)):
            for name, (value, count) in part.items():
                total, number = totals.get(name, (0.0, 0.0))
                totals[name] = (total + value, number + count)
        return {name: total / number if number else total for name, (total, number) in totals.items()}

    def gather(self, value: Any) -> list[Any]:
        """What every process has, in the order of their ranks; the same list on all of them."""
        if self.world_size == 1:
            return [value]
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, value)
        return everyone

    def _sum(self, tensor: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors in their order, grouped by type up to `_BUCKET` elements."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        if not buckets or buckets[-1][0].dtype != tensor.dtype or size + tensor.numel() > _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets
