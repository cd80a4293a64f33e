"""`deepgen convert`: any layout to safetensors, in our folder layout or as one native state dict.

Tensors stream from the source to the destination one by one. Everything is checked before the first byte is
written, and written beside the destination under another name, so a destination that exists is complete.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from deepgen.models import names, remote_code, writer
from deepgen.models.bases import complete
from deepgen.models.checkpoint import ADAPTER_DIR, Checkpoint, LoadReport, read_checkpoint
from deepgen.models.layouts import HubOptions, detect
from deepgen.models.lora import DEFAULT_SCALE, adapter_config, adapter_tensors
from deepgen.models.parts import WEIGHT_STEM, WEIGHTED, Part, build, class_of
from deepgen.models.sums import read_sums, write_sums
from deepgen.models.tensors import LazyTensor
from deepgen.models.weights import LoraMode, adapt

logger = logging.getLogger(__name__)

Target = Literal["deepgen", "native"]
NATIVE_PARTS = ("transformer", "connector")  # what the original writes; VLM and VAE are its base models'


@dataclass
class Conversion:
    """What was written."""

    destination: Path
    files: list[str] = field(default_factory=list)
    tensors: int = 0
    nbytes: int = 0
    report: LoadReport = field(default_factory=LoadReport)


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    layout: Target = "deepgen",
    dtype: torch.dtype | str | None = None,
    lora: LoraMode = "merge",
    lora_scale: float | None = None,
    shard_size: str | int = "4GB",
    vlm: str | Path | None = None,
    transformer: str | Path | None = None,
    vae: str | Path | None = None,
    tokenizer: str | Path | None = None,
    scheduler: str | Path | None = None,
    connector_config: dict[str, Any] | None = None,
    hub: HubOptions | None = None,
    progress: bool = True,
) -> Conversion:
    """Write `source` again at `destination`.

    Args:
        source: path or hub id of any layout.
        destination: a folder that does not exist or is empty; for "native" also a name ending in
            `.safetensors`.
        layout: "deepgen", a folder `DeepGenPipeline.from_pretrained` and diffusers load; "native", the flat
            state dict of the original, without the base models' VLM and VAE, as the original writes it.
        dtype: cast floating point tensors; None keeps each as stored.
        lora: of the VLM: merged into its weights, written as a peft adapter (native: as the original's LoRA
            keys), or left out.
        lora_scale: alpha / rank of a checkpoint that does not say; 2.0 by default.
        shard_size: largest file, as "4GB".
        vlm: base models for what the source lacks, folders or hub ids; likewise `transformer`, `vae`,
            `tokenizer` and `scheduler`.
        transformer: see `vlm`.
        vae: see `vlm`.
        tokenizer: see `vlm`.
        scheduler: see `vlm`.
        connector_config: what tensor shapes cannot tell, such as `num_attention_heads`.
        hub: how hub ids are downloaded.
        progress: show a bar.

    Raises:
        FileExistsError: the destination is taken.
        FileNotFoundError: source or base model not found.
        CheckpointError: the source does not fit; lists every key that is missing or foreign.
        OSError: not enough room on the disk, said before anything is written.
    """
    if layout not in ("deepgen", "native"):
        raise ValueError(f"unknown layout {layout!r}; known: deepgen, native")
    destination = Path(destination).expanduser().absolute()
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise FileExistsError(f"{destination} exists; choose another destination or remove it first")
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    limit = writer.parse_size(shard_size)

    checkpoint = read_checkpoint(detect(source, hub), connector_config)
    checkpoint.refuse_quantized()
    if layout == "deepgen":
        complete(
            checkpoint,
            vlm=vlm,
            transformer=transformer,
            vae=vae,
            tokenizer=tokenizer,
            scheduler=scheduler,
            hub=hub,
        )
        adapt(checkpoint, lora, lora_scale)
    else:
        _keep_native(checkpoint, lora)
    checkpoint.check()
    for note in checkpoint.report.notes:
        logger.warning(note)

    total = sum(writer.written_bytes(part.tensors, kind) for part in checkpoint.parts.values())
    total += sum(pair.a.nbytes + pair.b.nbytes for pair in checkpoint.lora.values())
    result = Conversion(destination, report=checkpoint.report)
    with (
        _beside(destination, total) as folder,
        tqdm(
            total=total,
            unit="B",
            unit_scale=True,
            disable=not progress,
            desc=f"{source} -> {destination.name}",
        ) as bar,
    ):
        write = _write_deepgen if layout == "deepgen" else _write_native
        files = write(checkpoint, folder, kind, limit, bar.update)
        known = {file.path.relative_to(folder).as_posix(): file.sha256 for file in files}
        write_sums(folder, known=known)
        result.files = list(known)
        result.nbytes = sum(file.nbytes for file in files)
        result.tensors = sum(checkpoint.report.used.values()) + 2 * len(checkpoint.lora)
    return result


@contextmanager
def _beside(destination: Path, total: int) -> Iterator[Path]:
    """A folder to fill, which becomes `destination` when all went well and vanishes otherwise."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    needed = int(total * 1.01) + 50_000_000  # headers, configs, tokenizer
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{destination.parent} has {free / 1e9:.1f} GB free and the result takes {needed / 1e9:.1f} GB; "
            "free some, choose another disk, or convert to a smaller dtype",
        )
    folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private
        if destination.suffix == ".safetensors":
            file = _single_file(folder)
            digest = read_sums(folder)[file.name]
            file.replace(destination)
            shutil.rmtree(folder)
            write_sums(destination.parent, [destination.name], {destination.name: digest})
        else:
            folder.replace(destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _single_file(folder: Path) -> Path:
    files = list(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(
            f"the result takes {len(files)} shards; give a folder as destination or a larger shard_size"
        )
    return files[0]


# --- ours


def _write_deepgen(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, limit: int, progress: writer.Progress
) -> list[writer.Written]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint.tokenizer))
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    (folder / "scheduler").mkdir()
    shutil.copy(Path(str(checkpoint.scheduler)) / "scheduler_config.json", folder / "scheduler")
    files = []
    for name in WEIGHTED:
        part = checkpoint.parts[name]
        (folder / name).mkdir()
        _save_config(part, folder / name, dtype)
        files += writer.write_shards(
            folder / name, WEIGHT_STEM[name], part.tensors, dtype=dtype, shard_size=limit, progress=progress
        )
    if checkpoint.lora:
        (folder / ADAPTER_DIR).mkdir()
        _write_json(
            folder / ADAPTER_DIR / "adapter_config.json",
            adapter_config(checkpoint.lora, checkpoint.lora_scale),
        )
        path = folder / ADAPTER_DIR / "adapter_model.safetensors"
        files.append(
            writer.write_file(path, adapter_tensors(checkpoint.lora), dtype=dtype, progress=progress)
        )
    _write_json(folder / "model_index.json", _model_index(checkpoint, type(tokenizer).__name__))
    remote_code.write(folder)
    return files


def _save_config(part: Part, folder: Path, dtype: torch.dtype | None) -> None:
    stored = {tensor.dtype for tensor in part.tensors.values()}
    model: Any = build(part.name, part.config, dtype or (stored.pop() if len(stored) == 1 else torch.float32))
    if part.name == "vlm":
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(str(folder))
    else:
        model.save_config(str(folder))


def _model_index(checkpoint: Checkpoint, tokenizer: str) -> dict[str, Any]:
    import diffusers

    index: dict[str, Any] = {
        "_class_name": remote_code.CLASS_NAME,
        "_diffusers_version": diffusers.__version__,
    }
    for name in WEIGHTED:
        found = class_of(name, checkpoint.parts[name].config)
        library = found.__module__.split(".")[0]
        index[name] = [found.__module__ if library == "deepgen" else library, found.__name__]
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    index["tokenizer"] = ["transformers", tokenizer]
    if defaults := checkpoint.pipeline_defaults():
        index["defaults"] = defaults
    return index


# --- native


def _keep_native(checkpoint: Checkpoint, lora: LoraMode) -> None:
    """Only what a native file holds. Without a VLM to merge into, LoRA stays as keys unless ignored."""
    left_out = [name for name in checkpoint.parts if name not in NATIVE_PARTS]
    for name in left_out:
        del checkpoint.parts[name]
    if left_out:
        checkpoint.report.notes.append(
            f"a native file holds no {' or '.join(left_out)}: load it with the same base models, "
            "and keep the source if its VLM was fine-tuned"
        )
    if checkpoint.lora and checkpoint.lora_scale != DEFAULT_SCALE:
        checkpoint.report.notes.append(
            "a native file does not store the scale of its LoRA: "
            f"load it with lora_scale={checkpoint.lora_scale}"
        )
    if lora == "ignore":
        checkpoint.lora = {}


def _write_native(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, limit: int, progress: writer.Progress
) -> list[writer.Written]:
    tensors: dict[str, LazyTensor] = {}
    for part in checkpoint.parts.values():
        tensors |= {names.native_name(part.name, name): tensor for name, tensor in part.tensors.items()}
    for module, pair in checkpoint.lora.items():
        for side, tensor in (("A", pair.a), ("B", pair.b)):
            leaf = f"lora_embedding_{side}.default" if pair.is_embedding else f"lora_{side}.default.weight"
            tensors[names.native_name("vlm", f"{module}.{leaf}")] = tensor
    configs = {name: part.config for name, part in checkpoint.parts.items()}
    _write_json(
        folder / "config.json",
        {"_class_name": "DeepGen-1.0", **configs, "defaults": checkpoint.pipeline_defaults()},
    )
    return writer.write_shards(folder, "model", tensors, dtype=dtype, shard_size=limit, progress=progress)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
