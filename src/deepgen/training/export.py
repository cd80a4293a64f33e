"""Export of a run's checkpoint: to a pipeline folder, a LoRA file, or the original's layout.

Each can be written between the model the run began with and what it became (`strength`). What a run learns on
purpose is mostly kept half way, and what it forgets by the way is mostly not lost there (WiSE-FT, arXiv
2109.01903; docs/rl.md has it measured).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from deepgen.checkpoints.lora import DEFAULT_SCALE
from deepgen.checkpoints.names import lora_name, native_name
from deepgen.checkpoints.parts import WEIGHTED
from deepgen.checkpoints.saving import LORA_FILE, without_own_lora
from deepgen.checkpoints.sums import write_sums
from deepgen.distilled_lora import write_metadata
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.few_steps import KEY
from deepgen.training.checkpoint_folders import USE_OLDER, whole_checkpoint
from deepgen.training.checkpoints import read_checkpoint_folder
from deepgen.training.finite import require_finite
from deepgen.training.supervised import SupervisedConfig
from deepgen.training.supervised_stage import prepare_parts

logger = logging.getLogger(__name__)
Weights = Literal["ema", "raw"]
MAX_STRENGTH = 2


@dataclass(frozen=True)
class Trained:
    """What a run became, or a point on the way there.

    Args:
        config: the run's.
        run_dir: the run's folder.
        weights: the moving averages, or what the last step left. A run without averages has the latter only.
        strength: how far to go from the model the run began with, 0, to what it became, 1; at most 2.

    Raises:
        ValueError: the strength is out of range or asks for a way from a connector that began with random
            weights.
    """

    config: SupervisedConfig
    run_dir: Path
    weights: Weights = "ema"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise ValueError(f"strength must be between 0 and {MAX_STRENGTH}, got {self.strength:g}")
        if self.strength != 1 and self.config.new_connector:
            raise ValueError(
                f"strength {self.strength:g} lies between what a run became and what it began with, and "
                f"{self.run_dir} began with a fresh connector, which draws nothing; leave strength out"
            )

    def load(self) -> DeepGenPipeline:
        """The pipeline with the newest checkpoint's weights; adapters are still apart. Raises as `become`."""
        return self.become(self.config.start.load())

    def become(self, pipe: DeepGenPipeline) -> DeepGenPipeline:
        """Put the newest checkpoint's weights into the model the run began with; adapters stay apart.

        Args:
            pipe: that model, which is changed.

        Raises:
            FileNotFoundError: the folder holds no checkpoint.
            ValueError: the checkpoint is damaged or of another config.
        """
        config = self.config
        snapshot = read_checkpoint_folder(whole_checkpoint(self.run_dir, advice=USE_OLDER))
        has_averages = self.weights == "ema" and bool(snapshot.ema)
        found = snapshot.ema if has_averages else snapshot.model
        values = {name: value for name, value in found.items() if not name.startswith(config.untold)}
        require_finite(
            f"the {'averages' if has_averages else 'weights'}",
            values,
            f"{self.run_dir} had diverged; move step {snapshot.step} away to export the one before",
        )
        objective = prepare_parts(config, pipe)
        parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        if parameters.keys() != values.keys():
            unknown = sorted(parameters.keys() ^ values.keys())
            raise ValueError(
                f"{self.run_dir} was trained with another config: {len(unknown)} parameters differ, "
                f"such as {unknown[0]}"
            )
        other = next((name for name, p in parameters.items() if p.shape != values[name].shape), None)
        if other is not None:
            raise ValueError(
                f"{self.run_dir} began from another model than {config.start} is now: {other} is "
                f"{tuple(values[other].shape)} there and {tuple(parameters[other].shape)} here. A run of the "
                'former `tiny`, which drew flat shapes, is of `shapes`: write "model": "shapes" in its '
                "config.json"
            )
        _warn_of_nothing_learnt(self.run_dir, values)
        with torch.no_grad():
            for name, parameter in parameters.items():
                _move(name, parameter, values[name].to(parameter), self.strength)
        if config.few_steps is not None:  # so that it can be drawn with preset "turbo"
            pipe.register_to_config(defaults={**pipe.config.defaults, KEY: config.few_steps.to_json()})
        return pipe

    @property
    def stored_dtype(self) -> torch.dtype:
        """The number format of the model the run began with, in which an export is written."""
        return self.config.start.stored_dtype()


def _warn_of_nothing_learnt(run_dir: Path, values: Mapping[str, torch.Tensor]) -> None:
    updates = [value for name, value in values.items() if ".lora_B." in name]
    if updates and not any(bool(value.any()) for value in updates):  # B begins as zeros
        logger.warning(
            "%s learnt nothing: all %d updates of its LoRA are zero. A run of reinforcement learning ends "
            "so where the rewards of every group were equal (groups/flat_share in its log.jsonl): take "
            "prompts that the model gets right at times, or more images a group",
            run_dir,
            len(updates),
        )


def export_folder(trained: Trained, output_dir: Path) -> None:
    """Write a run as a folder that `DeepGenPipeline.from_pretrained` loads, with its adapters merged."""
    pipe = trained.load()
    merge_adapters(pipe)
    pipe = pipe.to(trained.stored_dtype)
    if trained.config.few_steps is not None:
        guidance = {"guidance_scale": 1.0, "edit_guidance_scale": 1.0}  # it is in the weights now
        pipe.register_to_config(defaults={**pipe.config.defaults, **guidance})
    for name in WEIGHTED:
        _require_finite_export(name, getattr(pipe, name).state_dict())
    pipe.save_pretrained(output_dir)


def merge_adapters(pipe: DeepGenPipeline) -> None:
    """Fold every adapter of a pipeline into the weights it adapts."""
    for name in ("transformer", "vlm"):
        if getattr(getattr(pipe, name), "peft_config", None):
            _merge(getattr(pipe, name))


def export_lora(trained: Trained, output_dir: Path) -> None:
    """Write a run's adapters as a file that `deepgen generate --lora` loads.

    Raises:
        ValueError: the run also trained whole weights, which no LoRA file holds, or no LoRA at all.
    """
    if trained.config.trains_connector or trained.config.trains_transformer:
        raise ValueError(
            f"{trained.run_dir} trained whole weights, which a LoRA file cannot hold; export a folder"
        )
    trained.load().save_lora_weights(output_dir)
    if trained.config.few_steps is not None:
        write_metadata(output_dir / LORA_FILE, trained.config.few_steps)
        write_sums(output_dir, [LORA_FILE])


def export_native(trained: Trained, output_dir: Path) -> None:
    """Write a run in the original's layout: connector, DiT and the VLM's LoRA, in one flat file.

    Adapters of the DiT are merged. Such a file does not store the scale of its LoRA, so B is scaled to the
    original's alpha / rank of 2. VLM and VAE are not in it; load it with `vlm=` and `vae=`, those
    the run began with.

    Raises:
        FileExistsError: there is such a file already.
    """
    file = output_dir / "model.safetensors"
    if file.exists():
        raise FileExistsError(f"{file} exists; choose another --output")
    config, dtype, pipe = trained.config, trained.stored_dtype, trained.load()
    if getattr(pipe.transformer, "peft_config", None):
        _merge(pipe.transformer)
    tensors: dict[str, torch.Tensor] = {}
    for part in ("connector", "transformer"):
        for name, tensor in getattr(pipe, part).state_dict().items():
            tensors[native_name(part, name)] = tensor.detach().to(dtype).contiguous()
    if config.vlm_lora is not None:
        scale = config.vlm_lora.alpha / config.vlm_lora.rank / DEFAULT_SCALE
        for name, tensor in pipe.vlm.state_dict().items():
            if found := lora_name(name):
                factor = scale if found[1] == "B" else 1.0
                tensors[native_name("vlm", name)] = (factor * tensor.detach().float()).to(dtype).contiguous()
    _require_finite_export("the model", tensors)
    output_dir.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"format": "pt"})
    about = {
        "_class_name": "DeepGen-1.0",
        "connector": _plain(pipe.connector.config),
        "transformer": _plain(pipe.transformer.config),
        "defaults": without_own_lora(pipe.config.defaults),
    }
    (output_dir / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    write_sums(output_dir, [file.name, "config.json"])


def _move(name: str, parameter: torch.nn.Parameter, learnt: torch.Tensor, strength: float) -> None:
    """Go that far from where a parameter is to what was learnt; of an adapter's two factors, B goes."""
    is_adapter = "lora_" in name
    if strength == 1 or (is_adapter and "_B" not in name):
        parameter.copy_(learnt)
    elif is_adapter:
        parameter.copy_(strength * learnt)  # it began at nothing
    else:
        parameter.lerp_(learnt, strength)


def _require_finite_export(part: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Of what is about to be written, in the number format it is written in."""
    advice = "the number format may be too small for a merged weight, or the model it began with is damaged"
    require_finite(f"{part}, as it would be written: weights", tensors, f"{advice}; nothing was written")


def _plain(config: Any) -> dict[str, Any]:
    """A part's config without what only says where it came from."""
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}


def _merge(module: torch.nn.Module) -> None:
    """Fold adapters into the weights they adapt, and leave plain layers behind."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, layer.get_base_layer())
    del module.peft_config
    module._hf_peft_config_loaded = False
