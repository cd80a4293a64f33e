"""Loading: any layout to the six parts of a pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import PreTrainedModel

from deepgen.checkpoints import lora as low_rank
from deepgen.checkpoints.base_models import complete
from deepgen.checkpoints.checkpoint import Checkpoint, pipeline_settings, read_checkpoint
from deepgen.checkpoints.dtypes import AskedDtype, check_dtype, part_dtypes
from deepgen.checkpoints.layouts import HubOptions, Layout, detect
from deepgen.checkpoints.parts import WEIGHTED, Part, materialize

logger = logging.getLogger(__name__)
# Where a part came from is said in the log of diffusers' own loading, where its users look for it.
loading_logger = diffusers_logging.get_logger("diffusers.pipelines.pipeline_utils")

LoraMode = Literal["merge", "adapter", "ignore"]


def load_components(
    source: str | Path | Layout,
    *,
    torch_dtype: AskedDtype = None,
    vlm: Any = None,
    transformer: Any = None,
    vae: Any = None,
    tokenizer: Any = None,
    scheduler: Any = None,
    lora: LoraMode = "merge",
    lora_scale: float | None = None,
    connector_config: dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    device_map: torch.device | str | None = None,
    quantization_config: Any = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> dict[str, Any]:
    """The parts of a pipeline from any layout, loaded strictly: every key is used or is in the error.

    They are the arguments of `DeepGenPipeline`: the six parts, and `defaults` where they are known.

    Args:
        source: path, hub id or detected layout.
        torch_dtype: of all parts, or a mapping of parts; None is as stored, and where parts are stored in
            several types, the type of most weights (`checkpoints/dtypes.py`).
        vlm: base model used where the checkpoint has none: a folder, a hub id, or a loaded model, as are the
            next four.
        transformer: as `vlm`; a pipeline folder serves for this, `vae` and `scheduler`.
        vae: as `vlm`.
        tokenizer: as `vlm`; by default the VLM's.
        scheduler: as `vlm`.
        lora: of the VLM: merged into its weights, kept as an adapter, or left out.
        lora_scale: alpha / rank; by default 2.0, as trained, or what the adapter's own config says.
        connector_config: what tensor shapes cannot tell, such as `num_attention_heads`.
        attn_implementation: of the VLM, as in transformers.
        device_map: one device, for all parts.
        quantization_config: refused; quantise a converted folder.
        revision: of a hub id; this and the next three as in huggingface_hub.
        cache_dir: see `revision`.
        token: see `revision`.
        local_files_only: see `revision`.

    Raises:
        FileNotFoundError: the source or a base model is not there; says what was looked for and where.
        CheckpointError: broken files, missing, foreign or misshapen keys, ranks of a DeepSpeed run that are
            not there.
    """
    _refuse_placement(device_map, quantization_config)
    check_dtype(torch_dtype)
    hub = HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    layout = source if isinstance(source, Layout) else detect(source, hub)
    given = {
        "vlm": vlm,
        "transformer": transformer,
        "vae": vae,
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }
    ready = {
        name: value
        for name, value in given.items()
        if value is not None and not isinstance(value, str | Path)
    }
    bases = {name: value for name, value in given.items() if name not in ready}

    checkpoint = read_checkpoint(layout, _with_depth(connector_config, vlm))
    for name in ready:
        checkpoint.parts.pop(name, None)
    complete(checkpoint, **bases, skip=tuple(ready), hub=hub)
    checkpoint.refuse_quantized()
    adapt(checkpoint, lora, lora_scale)
    checkpoint.check()
    for note in checkpoint.report.notes:
        logger.warning(note)

    dtypes = part_dtypes(torch_dtype, checkpoint.parts, ready)
    loaded = dict(ready)
    for name in WEIGHTED:
        if name in checkpoint.parts:
            attention = attn_implementation if name == "vlm" else None
            loaded[name] = materialize(checkpoint.parts[name], dtypes[name], attention, device_map)
    if lora == "adapter" and checkpoint.lora and "vlm" not in ready:
        low_rank.attach(loaded["vlm"], checkpoint.lora, checkpoint.lora_scale, loaded["vlm"].dtype)
    loaded |= _load_small(checkpoint, ready)
    for name, part in loaded.items():
        loading_logger.info(f"Loaded {name} as {type(part).__name__} from {layout.source}.")
    if defaults := checkpoint.pipeline_defaults():
        loaded["defaults"] = defaults
    loaded |= pipeline_settings(layout)
    if device_map:
        for part in loaded.values():
            if isinstance(part, nn.Module):
                part.to(device_map)
    return loaded


def adapt(checkpoint: Checkpoint, mode: LoraMode, scale: float | None) -> None:
    """Apply the choice of what becomes of the VLM's LoRA. ValueError for an unknown one."""
    if mode not in ("merge", "adapter", "ignore"):
        raise ValueError(f"unknown lora mode {mode!r}; known: merge, adapter, ignore")
    checkpoint.lora_scale = checkpoint.lora_scale if scale is None else scale
    part = checkpoint.parts.get("vlm")
    if not checkpoint.lora or part is None:
        return
    merged = low_rank.merge(
        part.tensors, checkpoint.lora, checkpoint.lora_scale
    )  # also checks that every pair fits
    if mode == "merge":
        checkpoint.parts["vlm"] = Part(part.name, merged, part.config, part.origin)  # no base any more
        checkpoint.lora = {}
    elif mode == "ignore":
        for pair in checkpoint.lora.values():
            checkpoint.report.ignored |= {tensor.name: "lora='ignore'" for tensor in (pair.a, pair.b)}
        checkpoint.lora = {}


def _with_depth(connector_config: dict[str, Any] | None, vlm: Any) -> dict[str, Any]:
    if not isinstance(vlm, PreTrainedModel):
        return connector_config or {}
    return {"vlm_num_layers": vlm.config.text_config.num_hidden_layers, **(connector_config or {})}


def _load_small(checkpoint: Checkpoint, ready: dict[str, Any]) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import AutoTokenizer

    small = {}
    if "tokenizer" not in ready:
        small["tokenizer"] = AutoTokenizer.from_pretrained(str(checkpoint.tokenizer))
    if "scheduler" not in ready:
        small["scheduler"] = FlowMatchEulerDiscreteScheduler.from_pretrained(str(checkpoint.scheduler))
    return small


def single_device(device_map: Any) -> torch.device | None:
    """The device a map names for everything; None where it names none, as "balanced" or a map of parts."""
    if not isinstance(device_map, str | torch.device):
        return None
    try:
        return torch.device(device_map)
    except RuntimeError:  # no device of this name
        return None


def _refuse_placement(device_map: Any, quantization_config: Any) -> None:
    way_out = "run `deepgen convert SRC DST` and load the folder DST, where diffusers does this"
    if quantization_config is not None:
        raise ValueError(f"quantization_config is not supported while reading this layout; {way_out}")
    if device_map is not None and single_device(device_map) is None:
        raise ValueError(
            f"device_map={device_map!r} is no device; while reading this layout give one, such as 'cuda', or "
            f"{way_out}"
        )
