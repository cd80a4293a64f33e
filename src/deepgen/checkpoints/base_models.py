"""Base models: what a checkpoint leaves out is taken from the models it was trained from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepgen.checkpoints import infer_config as sizes
from deepgen.checkpoints.checkpoint import Checkpoint, open_part
from deepgen.checkpoints.layouts import HubOptions, read_object, resolve
from deepgen.checkpoints.limits import check_config
from deepgen.checkpoints.parts import read_config
from deepgen.checkpoints.published import BASE_PIPELINE, BASE_VLM
from deepgen.models.containment import check_folder

_MARKER = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


def complete(
    checkpoint: Checkpoint,
    *,
    vlm: str | Path | None = None,
    transformer: str | Path | None = None,
    vae: str | Path | None = None,
    tokenizer: str | Path | None = None,
    scheduler: str | Path | None = None,
    skip: tuple[str, ...] = (),
    hub: HubOptions | None = None,
) -> Checkpoint:
    """Fill in, from base models, the parts the checkpoint does not hold. Arguments are folders or hub ids.

    Parts in `skip` are left absent. A native checkpoint without LoRA on a plain VLM gets a note, since the
    published training adapted the VLM. Raises FileNotFoundError when a base model cannot be had.
    """
    parts, report = checkpoint.parts, checkpoint.report
    vlm = vlm or BASE_VLM
    bases = {"vlm": vlm, "transformer": transformer or BASE_PIPELINE, "vae": vae or BASE_PIPELINE}
    for name, source in bases.items():
        stored = parts.get(name)
        if name in skip or (stored is not None and stored.config is not None):
            continue
        folder = base_folder(name, source, hub)
        if stored is not None:
            stored.config = read_config(name, folder)
            continue
        parts[name] = open_part(name, folder, report, is_base=True)
        if name in checkpoint.buffers:
            parts[name].tensors = {**parts[name].tensors, **checkpoint.buffers[name]}
        report.bases[name] = str(source)
        if name == "vlm" and not checkpoint.lora:
            report.notes.append(
                f"{checkpoint.layout.source} has neither a VLM nor a LoRA for one, "
                f"so the plain {source} is used. "
                "If its VLM was fine-tuned (the published SFT and RL stages train a LoRA), "
                "its pictures may be wrong"
            )
    if "vlm" in parts and checkpoint.layout.kind != "deepgen":
        depth = parts["vlm"].config.text_config.num_hidden_layers
        part = parts["connector"]
        part.config = sizes.connector_config(part.tensors, depth, checkpoint.hints)
    if "tokenizer" not in skip:
        checkpoint.tokenizer = checkpoint.tokenizer or base_folder("tokenizer", tokenizer or vlm, hub)
    if "scheduler" not in skip:
        sources = [scheduler] if scheduler else [transformer, vae, BASE_PIPELINE]
        checkpoint.scheduler = checkpoint.scheduler or scheduler_folder(sources, hub)
    return checkpoint


def scheduler_folder(sources: Sequence[str | Path | None], hub: HubOptions | None) -> Path:
    """Of the first source that has one: base models may be whole pipelines or single parts."""
    faults = []
    for source in filter(None, sources):
        try:
            return base_folder("scheduler", source, hub)
        except FileNotFoundError as error:
            faults.append(str(error))
    raise FileNotFoundError("; ".join(faults))


def base_folder(name: str, source: str | Path, hub: HubOptions | None = None) -> Path:
    """The folder of one part of a base model: `source` itself, or the part's folder inside a pipeline.

    Raises FileNotFoundError that says which file was looked for.
    """
    hub = HubOptions(
        cache_dir=hub.cache_dir if hub else None,
        token=hub.token if hub else None,
        local_files_only=bool(hub and hub.local_files_only),
    )
    if name in ("vlm", "tokenizer"):
        weights = ["*.safetensors"] if name == "vlm" else []
        path = resolve(source, hub, allow=["*.json", "*.txt", *weights], ignore=["transformer/*", "vae/*"])
    else:
        path = resolve(source, hub, allow=[f"{name}/*", "model_index.json"])
    marker = _MARKER.get(name, "config.json")
    for folder in (path / name, path):
        if (folder / marker).is_file():
            check_folder(folder)
            if name == "scheduler":
                check_config(read_object(folder / marker), folder / marker)
            return folder
    raise FileNotFoundError(f"no {name} in {source}: looked for {path / name / marker} and {path / marker}")
