"""From a run's checkpoint to something that draws: a pipeline folder, or a LoRA file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from deepgen.pipeline import DeepGenPipeline
from deepgen.train.checkpoints import latest_checkpoint, read_checkpoint_folder
from deepgen.train.supervised import SupervisedConfig, fresh_connector, prepare_parts

Weights = Literal["ema", "raw"]


def load_trained(config: SupervisedConfig, run_dir: Path, weights: Weights = "ema") -> DeepGenPipeline:
    """The pipeline of a run, with the newest checkpoint's weights; adapters are still apart.

    Args:
        config: the run's.
        run_dir: the run's folder.
        weights: the moving averages, or what the last step left. A run without averages has the latter only.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: the checkpoint is of another config.
    """
    snapshot = read_checkpoint_folder(latest_checkpoint(run_dir))
    values = snapshot.ema if weights == "ema" and snapshot.ema else snapshot.model
    pipe = DeepGenPipeline.from_pretrained(config.model)
    if config.connector_options:  # its sizes are not the model's
        pipe.register_modules(connector=fresh_connector(pipe.connector, config.connector_options))
    objective = prepare_parts(config, pipe)
    parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if parameters.keys() != values.keys():
        unknown = sorted(parameters.keys() ^ values.keys())
        raise ValueError(
            f"{run_dir} was trained with another config: {len(unknown)} parameters differ, "
            f"such as {unknown[0]}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    return pipe


def export_folder(
    config: SupervisedConfig, run_dir: Path, output_dir: Path, weights: Weights = "ema"
) -> None:
    """Write a run as a folder that `DeepGenPipeline.from_pretrained` loads, with its adapters merged."""
    pipe = load_trained(config, run_dir, weights)
    dtype = DeepGenPipeline.from_pretrained(config.model).transformer.dtype
    adapted = [name for name in ("transformer", "vlm") if getattr(getattr(pipe, name), "peft_config", None)]
    for name in adapted:
        _merge(getattr(pipe, name))
    pipe.to(dtype).save_pretrained(output_dir)


def export_lora(config: SupervisedConfig, run_dir: Path, output_dir: Path, weights: Weights = "ema") -> None:
    """Write a run's adapters as a file that `deepgen generate --lora` loads.

    Raises:
        ValueError: the run also trained whole weights, which no LoRA file holds, or no LoRA at all.
    """
    if config.trains_connector or config.trains_transformer:
        raise ValueError(f"{run_dir} trained whole weights, which a LoRA file cannot hold; export a folder")
    load_trained(config, run_dir, weights).save_lora_weights(output_dir)


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
