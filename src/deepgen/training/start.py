"""Initial weights of a supervised run: a DeepGen model, one completed by base models, or base models alone.

A run remembers where it began, by name and by a fingerprint of the weights, so that it is neither resumed nor
exported from others by mistake.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepgen.checkpoints.base_models import base_folder, complete
from deepgen.checkpoints.checkpoint import read_checkpoint
from deepgen.checkpoints.dtypes import common_dtype
from deepgen.checkpoints.fresh import (
    BaseModels,
    changed_connector,
    check_base,
    fresh_connector,
    load_fresh,
    open_bases,
    planned_architecture,
)
from deepgen.checkpoints.layouts import Layout, detect, weight_files
from deepgen.checkpoints.parts import WEIGHTED, stored_dtype
from deepgen.embedded import embedded_name, model_source
from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_SHAPES, DEEPGEN_TINY, Architecture
from deepgen.pipeline import DeepGenPipeline

_EMBEDDED = {"tiny": DEEPGEN_TINY, "shapes": DEEPGEN_SHAPES}
_SAMPLES, _SAMPLE_BYTES = 16, 2**16  # of each weight file


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins.

    Attributes:
        model: a name, folder or file, as for `deepgen generate --model`; None begins from base models alone.
        vlm, transformer, vae: base models; beside a `model` those it leaves out, without one those that are
            not the published ones.
        new_connector: begin with a fresh connector instead of the model's.
        connector_options: in what it differs, as `name=value`.
        seed: of a fresh connector's weights.
    """

    model: str | None
    vlm: str | None = None
    transformer: str | None = None
    vae: str | None = None
    new_connector: bool = False
    connector_options: tuple[str, ...] = ()
    seed: int = 0

    @property
    def given(self) -> dict[str, str]:
        """The base models that were named."""
        named = {"vlm": self.vlm, "transformer": self.transformer, "vae": self.vae}
        return {name: source for name, source in named.items() if source is not None}

    @property
    def bases(self) -> BaseModels:
        """The base models of a run without a `model`."""
        return BaseModels(**self.given)

    @property
    def sources(self) -> dict[str, str]:
        """What is read, by the field that names it."""
        return self.bases.sources if self.model is None else {"model": self.model, **self.given}

    def __str__(self) -> str:
        """Every source by name."""
        by_source: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            by_source.setdefault(source, []).append(name)
        words = [
            source if names == ["model"] else f"{source} ({', '.join(names)})"
            for source, names in by_source.items()
        ]
        fresh = ["a fresh connector"] if self.new_connector else []
        options = f" ({', '.join(self.connector_options)})" if self.connector_options else ""
        return " + ".join([*words, *(f"{word}{options}" for word in fresh)])

    def check(self) -> None:
        """Refuse wrong base models from their small files; nothing is loaded.

        Raises:
            FileNotFoundError: one is not there.
            ValueError: one is another model, or the model holds that part itself.
        """
        if self.model is None:
            for name, source in self.bases.sources.items():
                check_base(name, source)
            return
        for name, source in self.given.items():
            check_base(name, source)
        if self.given:
            held = set(read_checkpoint(detect(model_source(self.model)), shapes_only=True).parts) & set(
                self.given
            )
            if held:
                names = ", ".join(sorted(held))
                raise ValueError(
                    f"{self.model} holds its own {names}; leave out {names}, or set model=none to begin from "
                    "base models with a fresh connector"
                )

    def load(self, dtype: torch.dtype | None = None) -> DeepGenPipeline:
        """The pipeline to train; without `dtype` each part as stored."""
        self.check()
        if self.model is None:
            parts = load_fresh(
                self.bases, dtype=dtype, connector_options=self.connector_options, seed=self.seed
            )
            return DeepGenPipeline(**parts)
        pipe = DeepGenPipeline.from_pretrained(self.model, torch_dtype=dtype, **self.given)
        if self.new_connector:
            fresh = fresh_connector(pipe.connector, self.connector_options, seed=self.seed)
            pipe.register_modules(connector=fresh)
        return pipe

    def stored_dtype(self) -> torch.dtype:
        """The number format the transformer is stored in; of a file that leaves it out, its base model's."""
        if self.model is None:
            return stored_dtype(open_bases(self.bases, self.connector_options).parts["transformer"])
        checkpoint = complete(read_checkpoint(detect(model_source(self.model))), **self.given)
        return common_dtype(checkpoint.parts)  # as `from_pretrained` chooses it, without reading weights

    def architecture(self) -> Architecture:
        """Sizes, for a plan; opens configs at most, and none of published models."""
        if self.model is None:
            return planned_architecture(self.bases, self.connector_options)
        known = _EMBEDDED.get(embedded_name(self.model), DEEPGEN_1_0)
        if not self.connector_options:
            return known
        connector = changed_connector({"tap_stride": 6, **known.connector}, self.connector_options)
        return Architecture(**{**vars(known), "connector": connector})

    def record(self) -> dict[str, dict[str, str]]:
        """Every source with the fingerprint of its weights, for the run's folder."""
        return {
            name: {"source": source, "fingerprint": fingerprint(_files(name, source))}
            for name, source in self.sources.items()
        }


def check_resume(start: Start, written: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on from other models than a run began with.

    Args:
        start: of the run that is to go on.
        written: the run's config.json.
        where: its folder.

    Raises:
        ValueError: another model, or the same name with other weights. A folder may have moved.
    """
    known = {name: written.get(name) for name in ("model", "vlm", "transformer", "vae")}
    earlier = written.get("starts_from") or {
        name: {"source": source} for name, source in Start(**known).sources.items()
    }
    now = start.sources
    if earlier.keys() != now.keys():
        began = _named({name: found["source"] for name, found in earlier.items()})
        raise ValueError(
            f"{where} began from {began}, and this "
            f"would go on from {_named(now)}; resume with the same --model, or the same --set "
            "vlm=, transformer= and vae="
        )
    for name, source in now.items():
        before = earlier[name]
        if "fingerprint" in before:
            is_same = before["fingerprint"] == fingerprint(_files(name, source))
        else:
            is_same = before["source"] == source
        if not is_same:
            change = "whose weights have changed since" if before["source"] == source else f"not {source}"
            raise ValueError(
                f"{where} began from {name} {before['source']}, {change}; "
                "resume with the weights it began with"
            )


def fingerprint(files: Iterable[Path]) -> str:
    """A sum that tells sets of weights apart: sizes, and samples of 64 KiB all over each file, headers
    included. A full sum would read gigabytes at every start.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            for index in range(_SAMPLES):
                content.seek(max(0, size - _SAMPLE_BYTES) * index // (_SAMPLES - 1), os.SEEK_SET)
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _named(sources: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {source}" for name, source in sources.items())


def _files(name: str, source: str) -> tuple[Path, ...]:
    """The weight files behind a source."""
    if name != "model":
        return weight_files(base_folder(name, source))
    layout: Layout = detect(model_source(source))
    if layout.files:
        return layout.files
    folders = [layout.path / part for part in WEIGHTED if (layout.path / part).is_dir()]
    return tuple(file for folder in folders for file in weight_files(folder))
