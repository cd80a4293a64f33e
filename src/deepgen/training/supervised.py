"""Supervised recipes: the settings (supervised_settings.py), and how their stage is opened.

The stage itself (supervised_stage.py) is given its model and data, and knows no files of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.data.cache import read_manifest
from deepgen.data.mixture import Mixture, open_mixture, single_source
from deepgen.data.mixture_config import ImageRule
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.parallel import Processes
from deepgen.training.start import Start, check_resume
from deepgen.training.supervised_settings import SupervisedSettings
from deepgen.training.supervised_stage import SupervisedStage


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SupervisedSettings):
    """What every supervised recipe can do: open its model and data, and remember what it began with."""

    def build(self, processes: Processes) -> SupervisedStage:
        """The stage, with its model and data opened."""
        pipe, mixture = self.opened(processes)
        if self.preflight is not None and processes.is_main:
            from deepgen.training.preflight import look_at_data, say

            say(look_at_data(self, mixture, pipe, processes.device))
        return SupervisedStage(self, processes, pipe, mixture)

    def opened(self, processes: Processes) -> tuple[DeepGenPipeline, Mixture]:
        """The model on the CPU, and the data at the sizes it is trained at."""
        if self.data is None:
            raise ValueError(
                "data is not set; give --data a folder of pictures with captions, or a mixture file"
            )
        data = self.data.expanduser()
        if self.cache is not None:
            read_manifest(self.cache)  # before minutes of loading
        mixture = None if data.is_dir() else open_mixture(data, self.data_root)  # before minutes of loading
        pipe = self.start.load(self.dtype(processes.device))
        return pipe, mixture or _folder(self, data, pipe)

    @property
    def start(self) -> Start:
        """What the run begins with."""
        return Start(
            model=self.model,
            vlm=self.vlm,
            transformer=self.transformer,
            vae=self.vae,
            new_connector=self.new_connector,
            connector_options=self.connector_options,
            seed=self.seed,
        )

    def record(self) -> dict[str, Any]:
        """The weights the run began with, by name and fingerprint."""
        return {"starts_from": self.start.record()}

    def check_resume(self, written: Mapping[str, Any], output_dir: Path) -> None:
        """Refuse to go on from other weights than those the run began with."""
        check_resume(self.start, written, output_dir)


def _folder(config: SupervisedConfig, folder: Path, pipe: DeepGenPipeline) -> Mixture:
    """A folder of pictures as the only source, at the size the model draws."""
    options = {"path": str(folder)}
    if config.data_task != "generate":  # named only where it matters, so that `data cache FOLDER` fits
        options["task"] = config.data_task
    return single_source(folder.name, "folder", options, own_image_rule(pipe), seed=config.seed)


def own_image_rule(pipe: DeepGenPipeline) -> ImageRule:
    """The size rule where no mixture gives one: pictures as large as the model draws."""
    return ImageRule(image_size=round(math.sqrt(pipe.defaults["height"] * pipe.defaults["width"])))
