"""Supervised recipes: the settings (supervised_settings.py), and how their stage is opened.

The stage itself (supervised_stage.py) is given its model and data, and knows no files of weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from deepgen.data.cache import read_manifest
from deepgen.data.fingerprint import mixture_facts
from deepgen.data.mixture import Mixture
from deepgen.data.opening import open_data, recognise, with_rule
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.parallel import Processes
from deepgen.training.start import Start, check_resume
from deepgen.training.supervised_settings import PreflightConfig, SupervisedSettings
from deepgen.training.supervised_stage import SupervisedStage, open_validation_data, own_image_rule

if TYPE_CHECKING:
    from deepgen.training.preflight import Preflight

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SupervisedSettings):
    """What every supervised recipe can do: open its model and data, and remember what it began with."""

    def build(self, processes: Processes) -> SupervisedStage:
        """The stage, with its model and data opened."""
        mixture = self.open_data(processes)
        pipe = self.start.load(self.dtype(processes.device))
        mixture = self.sized(mixture, pipe)
        if self.preflight is not None and processes.is_main:
            pipe.vae.to(processes.device)
            found = self.look_at_data(mixture, pipe)
            for line in found.lines():
                logger.info(line)
            for text in found.warnings:
                logger.warning("warning: %s", text)
        return SupervisedStage(self, processes, pipe, mixture)

    def open_data(self, processes: Processes | None = None) -> Mixture:
        """What `data` is, opened before minutes of loading; the main process says what was left out."""
        if self.data is None:
            raise ValueError(
                "data is not set; give --data a folder of pictures with captions, or a mixture file, or a "
                "source of your own, PATH.py:NAME"
            )
        if self.cache is not None:
            read_manifest(self.cache)  # before minutes of loading
        if self.validation.data is not None:
            open_validation_data(self)  # the stage opens it again
        options = dict(option.split("=", 1) for option in self.data_options)
        found = recognise(self.data)
        if found.source == "folder" and self.data_task != "generate":  # so that `data cache FOLDER` fits
            options.setdefault("task", self.data_task)
        settings = {"seed": self.seed} if found.kind == "source" else {}
        mixture = open_data(self.data, options=options, root=self.data_root, **settings)
        for note in mixture.notes if processes is None or processes.is_main else ():
            logger.info("%s", note)
        return mixture

    def sized(self, mixture: Mixture, pipe: DeepGenPipeline) -> Mixture:
        """The opened data, at the size the model draws where no mixture file says another."""
        assert self.data is not None
        is_source = recognise(self.data).kind == "source"
        return with_rule(mixture, own_image_rule(pipe)) if is_source else mixture

    def preflight_alone(self, device: torch.device) -> Preflight:
        """The look at the data without a run."""
        mixture = self.open_data()
        pipe = self.start.load(self.dtype(device))
        pipe.vae.to(device)
        return self.look_at_data(self.sized(mixture, pipe), pipe)

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

    places: ClassVar[tuple[str, ...]] = ("model", "vlm", "transformer", "vae", "data", "data_root", "prompts")

    def facts(self, stage: SupervisedStage) -> dict[str, Any]:
        """The rows a run learns from."""
        return {} if stage.mixture is None else {"data": mixture_facts(stage.mixture)}

    def record(self) -> dict[str, Any]:
        """The weights the run began with, by name and fingerprint."""
        return {"starts_from": self.start.record()}

    def check_resume(self, written: Mapping[str, Any], output_dir: Path) -> None:
        """Refuse to go on from other weights than those the run began with."""
        check_resume(self.start, written, output_dir)


def open_run_data(config: SupervisedConfig, pipe: DeepGenPipeline) -> Mixture:
    """The data of a run, at the sizes it is trained at."""
    return config.sized(config.open_data(), pipe)
