"""Supervised recipes: the settings (supervised_settings.py), and how their stage is opened.

The stage itself (supervised_stage.py) is given its model and data, and knows no files of weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deepgen.data.cache import read_manifest
from deepgen.data.fingerprint import mixture_facts
from deepgen.data.mixture import Mixture
from deepgen.data.opening import open_data, recognise, with_rule
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.parallel import Processes
from deepgen.training.start import Start, check_resume
from deepgen.training.supervised_settings import SupervisedSettings
from deepgen.training.supervised_stage import SupervisedStage, open_validation_data, own_image_rule

logger = logging.getLogger(__name__)


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
        if self.cache is not None:
            read_manifest(self.cache)  # before minutes of loading
        if self.validation.data is not None:
            open_validation_data(self)  # the stage opens it again
        mixture = self.open_data(processes)
        pipe = self.start.load(self.dtype(processes.device))
        return pipe, self.sized(mixture, pipe)

    def open_data(self, processes: Processes) -> Mixture:
        """What `data` is, opened before minutes of loading; the main process says what was left out."""
        if self.data is None:
            raise ValueError(
                "data is not set; give --data a folder of pictures with captions, or a mixture file, or a "
                "source of your own, PATH.py:NAME"
            )
        options = dict(option.split("=", 1) for option in self.data_options)
        found = recognise(self.data)
        if found.source == "folder" and self.data_task != "generate":  # so that `data cache FOLDER` fits
            options.setdefault("task", self.data_task)
        settings = {"seed": self.seed} if found.kind == "source" else {}
        mixture = open_data(self.data, options=options, root=self.data_root, **settings)
        for note in mixture.notes if processes.is_main else ():
            logger.info("%s", note)
        return mixture

    def sized(self, mixture: Mixture, pipe: DeepGenPipeline) -> Mixture:
        """The opened data, at the size the model draws where no mixture file says another."""
        assert self.data is not None
        is_source = recognise(self.data).kind == "source"
        return with_rule(mixture, own_image_rule(pipe)) if is_source else mixture

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
