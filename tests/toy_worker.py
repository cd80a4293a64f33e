"""One of several processes that train the toy: `toy_worker.py OUTPUT SPOILT_RANK WHAT`, started by torchrun.

On that rank step 3 goes wrong; every process has to see it, or the others would wait for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from deepgen.models.errors import NotFiniteError
from deepgen.training.config import StageLoss
from deepgen.training.loop import train
from toy_run import ToyConfig, ToyStage


def main() -> None:
    output, spoilt, skips = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    real = ToyStage.loss

    def loss(self: ToyStage, batch: torch.Tensor) -> StageLoss:
        found = real(self, batch)
        if self.step == 3 and dist.get_rank() == spoilt:
            # finite gradients: only the number itself is wrong, and only here
            return StageLoss(found.loss, found.metrics, watched={"rows": torch.tensor(float("nan"))})
        return found

    ToyStage.loss = loss  # type: ignore[method-assign]
    try:
        state = train(ToyConfig(num_steps=5, max_skipped_steps=skips), output)
        print(f"rank {dist.get_rank()} done at {state.step}, left out {state.num_skipped}", flush=True)
    except NotFiniteError as error:
        print(f"rank {dist.get_rank()} stopped: {error}", flush=True)


if __name__ == "__main__":
    main()
