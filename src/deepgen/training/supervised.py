"""Supervised recipes: the settings (supervised_settings.py), and how their stage is opened.

The stage itself (supervised_stage.py) is given its model and data, and knows no files of weights.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deepgen.data.cache import read_manifest
from deepgen.data.mixture import Mixture, open_mixture, single_source
from deepgen.data.mixture_config import ImageRule
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.parallel import Processes
from deepgen.training.start import Start, check_resume
from deepgen.training.supervised_settings import PreflightConfig, SupervisedSettings
from deepgen.training.supervised_stage import SupervisedStage

if TYPE_CHECKING:
    from deepgen.training.preflight import Preflight

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SupervisedSettings):
    """What every supervised recipe can do: open its model and data, and remember what it began with."""

    def build(self, processes: Processes) -> SupervisedStage:
        """The stage, with its model and data opened."""
        mixture = self._opened_data()
        pipe = self.start.load(self.dtype(processes.device))
        mixture = mixture or _folder(self, pipe)
        if self.preflight is not None and processes.is_main:
            pipe.vae.to(processes.device)
            found = self.look_at_data(mixture, pipe)
            for line in found.lines():
                logger.info(line)
            for text in found.warnings:
                logger.warning("warning: %s", text)
        return SupervisedStage(self, processes, pipe, mixture)

    def _opened_data(self) -> Mixture | None:
        """The data, before minutes of loading; of a folder None, since its size rule is the model's."""
        if self.data is None:
            raise ValueError(
                "data is not set; give --data a folder of pictures with captions, or a mixture file"
            )
        if self.cache is not None:
            read_manifest(self.cache)
        data = self.data.expanduser()
        return None if data.is_dir() else open_mixture(data, self.data_root)

    def preflight_alone(self, device: torch.device) -> Preflight:
        """The look at the data without a run."""
        mixture = self._opened_data()
        pipe = self.start.load(self.dtype(device))
        pipe.vae.to(device)
        return self.look_at_data(mixture or _folder(self, pipe), pipe)

    def look_at_data(self, mixture: Mixture, pipe: DeepGenPipeline) -> Preflight:
        """What is worth knowing about the data before the first step."""
        from deepgen.training.preflight import CheckedModel, PlannedRun, preflight

        own = (pipe.defaults["height"], pipe.defaults["width"])
        return preflight(
            mixture,
            CheckedModel(tokenizer=pipe.tokenizer, vae=pipe.vae, size=own, world=pipe.config.get("world")),
            self.preflight or PreflightConfig(),
            PlannedRun(
                num_steps=self.num_steps,
                global_batch_size=self.global_batch_size,
                has_cache=self.cache is not None,
            ),
        )

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


def open_run_data(config: SupervisedConfig, pipe: DeepGenPipeline) -> Mixture:
    """The data of a run, at the sizes it is trained at."""
    if config.data is None:
        raise ValueError("data is not set")
    data = config.data.expanduser()
    return _folder(config, pipe) if data.is_dir() else open_mixture(data, config.data_root)


def _folder(config: SupervisedConfig, pipe: DeepGenPipeline) -> Mixture:
    """A folder of pictures as the only source, at the size the model draws."""
    assert config.data is not None
    folder = config.data.expanduser()
    options = {"path": str(folder)}
    if config.data_task != "generate":  # named only where it matters, so that `data cache FOLDER` fits
        options["task"] = config.data_task
    return single_source(folder.name, "folder", options, own_image_rule(pipe), seed=config.seed)


def own_image_rule(pipe: DeepGenPipeline) -> ImageRule:
    """The size rule where no mixture gives one: pictures as large as the model draws."""
    return ImageRule(image_size=round(math.sqrt(pipe.defaults["height"] * pipe.defaults["width"])))
