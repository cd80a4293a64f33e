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
from deepgen.data.mixture_config import ImageRule, MixtureConfig, SourceEntry
from deepgen.data.sources import SOURCES, Source, make_source
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.parallel import Processes
from deepgen.training.start import Start, check_resume
from deepgen.training.supervised_settings import SupervisedSettings
from deepgen.training.supervised_stage import SupervisedStage
from deepgen.user_files import split_place


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SupervisedSettings):
    """What every supervised recipe can do: open its model and data, and remember what it began with."""

    def build(self, processes: Processes) -> SupervisedStage:
        """The stage, with its model and data opened."""
        if self.data is None:
            raise ValueError(
                "data is not set; give --data a folder of pictures with captions, or a mixture file, or a "
                "source of your own, PATH.py:NAME"
            )
        data = self.data.expanduser()
        if self.cache is not None:
            read_manifest(self.cache)  # before minutes of loading
        own = make_source(str(data)) if split_place(str(data)) else None  # before minutes of loading
        mixture = None if own or data.is_dir() else open_mixture(data, self.data_root)  # the same
        pipe = self.start.load(self.dtype(processes.device))
        if own is not None:
            mixture = _of_source(str(data), own, own_image_rule(pipe), self.seed)
        return SupervisedStage(self, processes, pipe, mixture or _folder(self, data, pipe))

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
    options = {"path": str(folder), "task": config.data_task}
    return single_source(folder.name, "folder", options, own_image_rule(pipe), seed=config.seed)


def _of_source(place: str, source: Source, image: ImageRule, seed: int) -> Mixture:
    """A source of the user's own as the only one."""
    entry = SourceEntry(name=SOURCES.short(place), source=place, task=source.task, options={})
    config = MixtureConfig(sources=(entry,), ratios={source.task: 1}, image=image, seed=seed)
    return Mixture(config, {entry.name: source})


def own_image_rule(pipe: DeepGenPipeline) -> ImageRule:
    """The size rule where no mixture gives one: pictures as large as the model draws."""
    return ImageRule(image_size=round(math.sqrt(pipe.defaults["height"] * pipe.defaults["width"])))
