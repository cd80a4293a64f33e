"""Optimizer steps of a stage, with the waits for a pretended device by what they happened in."""

from __future__ import annotations

from typing import Any

from deepgen.training.finite import StepWatch
from deepgen.training.state import TrainState
from pretended_device import PretendedDevice

WAITS_AN_UPDATE = 2  # the norms with what is watched, and whether the weights are finite


def optimizer_steps(
    stage: Any, state: TrainState, count: int, device: PretendedDevice | None
) -> tuple[list[float], list[float]]:
    """Losses of the micro-batches and norms of the gradients. Losses do not wait, and updates little; what
    the making of batches waited is left in the phase "".
    """
    device = device or PretendedDevice()  # that is not entered, and counts nothing
    device.forget()
    losses, norms = [], []
    for step in range(count):
        watch = StepWatch()
        for batch in stage.batches(step):
            device.phase = "micro-batch"
            result = stage.loss(batch)
            result.loss.backward()
            watch.add(result, batch)
            losses.append(result.loss.detach())
            device.phase = ""
        device.phase = "update"
        norms.append((state.update(watch) or {})["grad_norm"])
        device.phase = ""
    assert device.count("micro-batch") == 0, device.report("micro-batch")
    assert device.count("update") <= count * WAITS_AN_UPDATE, device.report("update")
    device.phase = "read"
    return [float(loss) for loss in losses], norms
