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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from deepgen.checkpoints import names, remote_code, writer
from deepgen.checkpoints.base_models import base_folder, complete
from deepgen.checkpoints.checkpoint import (
    ADAPTER_DIR,
    Checkpoint,
    LoadReport,
    open_part,
    pipeline_settings,
    read_checkpoint,
)
from deepgen.checkpoints.layouts import HubOptions, detect, read_json, weight_files
from deepgen.checkpoints.lora import adapter_config, adapter_tensors, merge, native_tensors
from deepgen.checkpoints.lora_files import DISTILLED
from deepgen.checkpoints.parts import WEIGHT_STEM, WEIGHTED, Part, build, class_of
from deepgen.checkpoints.saving import without_own_lora
from deepgen.checkpoints.sums import hash_file, read_sums, write_sums
from deepgen.checkpoints.tensors import LazyTensor
from deepgen.checkpoints.weights import LoraMode, adapt
from deepgen.progress import progress_bar

logger = logging.getLogger(__name__)

Target = Literal["deepgen", "native"]
NATIVE_PARTS = ("transformer", "connector")  # of which the original has no plain base model at hand
BASES = "bases.json"  # which parts of a folder are plain base models, by the hashes of their files


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
            state dict of the original. A VLM or VAE is left out, as the original does, where it is known to
            be the plain base model; any other is written too, under `lmm.` and `vae.`.
        dtype: cast floating point tensors; None keeps each as stored.
        lora: of the VLM: merged into its weights, written as a peft adapter (native: as the original's LoRA
            keys), or left out.
        lora_scale: alpha / rank of a checkpoint that does not say; 2.0 by default.
        shard_size: largest file, as "4GB".
        vlm: base models for what the source lacks, folders or hub ids; likewise `transformer`, `vae`,
            `tokenizer` and `scheduler`. For "native", the base a VLM or VAE equal to it may be left to.
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
        _keep_native(checkpoint, lora, lora_scale, {"vlm": vlm, "vae": vae}, hub)
    checkpoint.check()
    for note in checkpoint.report.notes:
        logger.warning(note)

    if layout == "native":
        total = writer.written_bytes(native_state(checkpoint), kind)
    else:
        total = sum(writer.written_bytes(part.tensors, kind) for part in checkpoint.parts.values())
        total += sum(pair.a.nbytes + pair.b.nbytes for pair in checkpoint.lora.values())
    result = Conversion(destination, report=checkpoint.report)
    with (
        _beside(destination, total) as folder,
        progress_bar(total, f"{source} -> {destination.name}", "B", is_shown=progress) as bar,
    ):
        write = _write_deepgen if layout == "deepgen" else _write_native
        files = write(checkpoint, folder, kind, limit, bar.update)
        known = {file.path.relative_to(folder).as_posix(): file.sha256 for file in files}
        write_sums(folder, known=known)
        result.files = list(known)
        result.nbytes = sum(file.nbytes for file in files)
        result.tensors = sum(file.tensors for file in files)
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
    _write_json(folder / BASES, _base_sums(checkpoint, folder, files))
    index = _model_index(checkpoint, type(tokenizer).__name__)
    if own := index.get("defaults", {}).get(DISTILLED, {}).get("lora"):
        shutil.copyfile(checkpoint.layout.path / own, folder / own)
    _write_json(folder / "model_index.json", index)
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
    return index | pipeline_settings(checkpoint.layout)


# --- native


def _keep_native(
    checkpoint: Checkpoint,
    lora: LoraMode,
    scale: float | None,
    bases: Mapping[str, str | Path | None],
    hub: HubOptions | None,
) -> None:
    """Leave out base models known to be plain, and nothing else. LoRA stays as keys unless ignored."""
    if lora not in ("merge", "adapter", "ignore"):
        raise ValueError(f"unknown lora mode {lora!r}; known: merge, adapter, ignore")
    checkpoint.lora_scale = checkpoint.lora_scale if scale is None else scale
    if checkpoint.lora and "vlm" in checkpoint.parts:
        merge(checkpoint.parts["vlm"].tensors, checkpoint.lora)  # checks that every pair fits
    if lora == "ignore":
        checkpoint.lora = {}
        checkpoint.carried = {
            name: tensor for name, tensor in checkpoint.carried.items() if ".lora_" not in name
        }
    for name in [name for name in checkpoint.parts if name not in NATIVE_PARTS]:
        source = _plain_base(checkpoint, name) or _equal_base(checkpoint.parts[name], bases.get(name), hub)
        if source is None:
            size = sum(tensor.nbytes for tensor in checkpoint.parts[name].tensors.values())
            checkpoint.report.notes.append(
                f"the {name} is not known to be a plain base model, so it is written too: {size / 1e9:.2f} GB"
            )
            continue
        del checkpoint.parts[name]
        checkpoint.report.notes.append(f"the {name} is the plain {source} and left out: load with {name}= it")


def _base_sums(checkpoint: Checkpoint, folder: Path, files: Sequence[writer.Written]) -> dict[str, Any]:
    """For each part that is an unchanged base model: where it came from, and the hashes of its files."""
    return {
        name: {
            "source": checkpoint.report.bases.get(name, part.origin),
            "files": {file.path.name: file.sha256 for file in files if file.path.parent == folder / name},
        }
        for name, part in checkpoint.parts.items()
        if part.is_base and name not in NATIVE_PARTS
    }


def _plain_base(checkpoint: Checkpoint, name: str) -> str | None:
    """The base model a part of our folder is: `bases.json` says so and the files are unchanged."""
    folder, recorded = checkpoint.layout.folder, checkpoint.layout.folder / BASES
    entry = read_json(recorded).get(name) if recorded.is_file() and not checkpoint.layout.is_native else None
    if not entry or not entry.get("files"):
        return None
    files = {file.name: file for file in weight_files(folder / name)}
    if set(files) != set(entry["files"]):
        return None
    is_unchanged = all(hash_file(file) == entry["files"][name] for name, file in files.items())
    return str(entry.get("source", "base model")) if is_unchanged else None


def _equal_base(part: Part, source: str | Path | None, hub: HubOptions | None) -> str | None:
    """The base model given by the caller, if every tensor of the part is in it, bit for bit."""
    if source is None:
        return None
    base = open_part(part.name, base_folder(part.name, source, hub), LoadReport()).tensors
    if set(base) != set(part.tensors):
        return None
    is_equal = all(torch.equal(tensor.read(), base[name].read()) for name, tensor in part.tensors.items())
    return str(source) if is_equal else None


def _write_native(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, limit: int, progress: writer.Progress
) -> list[writer.Written]:
    configs = {name: part.config for name, part in checkpoint.parts.items() if name in NATIVE_PARTS}
    defaults = without_own_lora(checkpoint.pipeline_defaults())
    _write_json(folder / "config.json", {"_class_name": "DeepGen-1.0", **configs, "defaults": defaults})
    return writer.write_shards(
        folder, "model", native_state(checkpoint), dtype=dtype, shard_size=limit, progress=progress
    )


def native_state(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """Everything a checkpoint holds, by the original's names."""
    tensors: dict[str, LazyTensor] = {}
    for part, held in (*_held(checkpoint), *checkpoint.buffers.items()):
        for name, tensor in held.items():
            module, _, leaf = name.rpartition(".")
            # peft's name of a weight under a LoRA, under which the original looks for it
            is_wrapped = part == "vlm" and module in checkpoint.lora
            tensors[names.native_name(part, f"{module}.base_layer.{leaf}" if is_wrapped else name)] = tensor
    return tensors | native_tensors(checkpoint.lora, checkpoint.lora_scale) | checkpoint.carried


def _held(checkpoint: Checkpoint) -> Iterator[tuple[str, Mapping[str, LazyTensor]]]:
    for name, part in checkpoint.parts.items():
        yield name, part.tensors


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
