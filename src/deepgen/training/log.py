"""The log of a training run: a line on the terminal and a line in log.jsonl."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from deepgen.planning.accelerators import accelerator_of_device
from deepgen.training.parallel import Processes
from deepgen.training.trackers import make_trackers
from deepgen.transfer import to_host

logger = logging.getLogger(__name__)


class RunLog:
    """Collects metrics over the steps between two lines, and over all processes."""

    def __init__(self, output_dir: Path, config: Any, processes: Processes, first_step: int):
        self.num_steps, self.processes = config.num_steps, processes
        own = getattr(config, "images_per_step", None)  # where a step is not one global batch
        self.images_per_step: float | None = own or getattr(config, "global_batch_size", None)
        self._samples_dir = output_dir / "samples"
        self.last_step, self.last_time = first_step, time.perf_counter()
        self._added: list[tuple[str, float | Tensor, float]] = []
        self._waited, self._flops = 0.0, 0.0
        accelerator = (
            accelerator_of_device(torch.cuda.get_device_name()) if processes.device.type == "cuda" else None
        )
        self.peak_flops = None if accelerator is None else accelerator.tflops * 1e12
        self._file = (output_dir / "log.jsonl").open("a") if processes.is_main else None
        names = config.trackers if processes.is_main else ()
        self._trackers = make_trackers(names, output_dir, asdict(config))

    def __enter__(self) -> RunLog:
        """The log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        for tracker in self._trackers:
            tracker.close()
        if self._file is not None:
            with suppress(*(() if error is None else (OSError,))):  # a full disk was said already
                self._file.close()

    def add(self, metrics: Mapping[str, tuple[float | Tensor, float]]) -> None:
        """Metrics of a micro-batch or a step, each as (sum, count); with a count of 0 they are added up. Sums
        on a device are kept there until the log is written.
        """
        self._added += [(name, value, count) for name, (value, count) in metrics.items()]

    def _total(self) -> dict[str, tuple[float, float]]:
        """All that was added, as (sum, count) by name; the host waits once for what is on the device."""
        sums = [value.detach().float() for _, value, _ in self._added if isinstance(value, Tensor)]
        read = iter(to_host(sums))
        totals: dict[str, tuple[float, float]] = {}
        for name, value, count in self._added:
            total, number = totals.get(name, (0.0, 0.0))
            known = float(next(read)) if isinstance(value, Tensor) else value
            totals[name] = (total + known, number + count)
        return totals

    def waited(self, seconds: float) -> None:
        """Time in which the model waited for data."""
        self._waited += seconds

    def computed(self, flops: float) -> None:
        """Arithmetic of this process."""
        self._flops += flops

    def show(self, step: int) -> None:
        """Hand the picture an observer drew at this step, if one did, to the trackers."""
        path = self._samples_dir / f"step-{step:08d}.png"
        if self._trackers and path.is_file():
            with Image.open(path) as image:
                for tracker in self._trackers:
                    tracker.image(step, "samples", image)

    def write(self, step: int) -> None:
        """One line of means since the last one; every process has to call it."""
        seconds = time.perf_counter() - self.last_time
        means = self.processes.sum_metrics(self._total())
        steps_per_second = (step - self.last_step) / seconds
        line = {
            "step": step,
            **{name: float(f"{value:.5g}") for name, value in means.items()},
            "steps_per_second": float(f"{steps_per_second:.4g}"),
            "data_wait_share": round(self._waited / seconds, 4),
        }
        if self.images_per_step is not None:
            line["images_per_second"] = float(f"{self.images_per_step * steps_per_second:.4g}")
        if self.peak_flops is not None and self._flops:  # of the main process; the others do as much
            line["mfu"] = float(f"{self._flops / seconds / self.peak_flops:.4g}")
        if self._file is not None:
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                raise OSError(f"cannot write {self._file.name}: {error.strerror or error}") from error
            left = (self.num_steps - step) * seconds / max(1, step - self.last_step) / 60
            for tracker in self._trackers:
                tracker.log(step, {name: value for name, value in line.items() if name != "step"})
            brief = "  ".join(f"{name} {value:.4g}" for name, value in means.items() if "sigma" not in name)
            logger.info("step %d of %d, %.1f min left: %s", step, self.num_steps, left, brief)
        self._added, self._waited, self._flops = [], 0.0, 0.0
        self.last_step, self.last_time = step, time.perf_counter()
