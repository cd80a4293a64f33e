"""GGUF: a part of the model in one file of 8 or 4 bits a weight, as diffusers reads it.

Linear layers are quantised in blocks of 32 weights, one scale each; they stay quantised in memory and are
widened while they run. Everything else is float32 or float16. Tensors carry our own names. A DiT that others
quantised may also have Stability AI's names, where query, key and value are one matrix: blocks lie along
rows, so its rows are divided as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deepgen.checkpoints.base_models import complete
from deepgen.checkpoints.checkpoint import SHOWN, read_checkpoint
from deepgen.checkpoints.layouts import HubOptions, Layout, detect
from deepgen.checkpoints.parts import WEIGHTED, build, named_config
from deepgen.checkpoints.sums import write_sums
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor
from deepgen.checkpoints.weights import LoraMode, adapt
from deepgen.extras import missing_extra

Kind = Literal["Q8_0", "Q5_0", "Q4_0"]
PartName = Literal["transformer", "vlm", "connector"]
ARCHITECTURE = "deepgen"
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")


def convert_to_gguf(
    source: str | Path,
    destination: Path,
    kind: Kind = "Q8_0",
    *,
    part: PartName = "transformer",
    lora: LoraMode = "merge",
    vlm: str | Path | None = None,
    transformer: str | Path | None = None,
    hub: HubOptions | None = None,
) -> int:
    """Write a part of a checkpoint of any layout as one GGUF file, tensor by tensor, and return its bytes.

    Args:
        source: path or hub id of any layout.
        destination: a file name that ends in `.gguf` and does not exist.
        kind: bits a weight.
        part: which one.
        lora: of the VLM: "merge" or "ignore"; a GGUF file holds no adapter.
        vlm: base model, where the source lacks it; likewise `transformer`.
        transformer: see `vlm`.
        hub: how hub ids are downloaded.

    Raises:
        ValueError: the name ends in something else, or the LoRA is to be kept apart.
        FileExistsError, FileNotFoundError, CheckpointError: as `deepgen.checkpoints.convert.convert`.
        ImportError: the package `gguf` is not there.
    """
    if destination.suffix != ".gguf":
        raise ValueError(f"a GGUF file needs a name that ends in .gguf, got {destination}")
    if lora == "adapter":
        raise ValueError("a GGUF file holds no adapter; use lora merge or ignore")
    if destination.exists():
        raise FileExistsError(f"{destination} exists; choose another destination or remove it first")
    checkpoint = read_checkpoint(detect(source, hub))
    checkpoint.refuse_quantized()
    kept = (part, "connector")  # the connector says which model it is
    checkpoint.parts = {name: found for name, found in checkpoint.parts.items() if name in kept}
    if part not in checkpoint.parts or checkpoint.parts[part].config is None:
        others = tuple(name for name in (*WEIGHTED, "tokenizer", "scheduler") if name != part)
        complete(checkpoint, vlm=vlm, transformer=transformer, skip=others, hub=hub)
    adapt(checkpoint, lora, None)
    chosen = checkpoint.parts[part]
    checkpoint.parts = {part: chosen}
    checkpoint.check()
    destination.parent.mkdir(parents=True, exist_ok=True)
    _write(chosen.tensors, _linear_weights(build(part, chosen.config)), destination, kind)
    write_sums(destination.parent, [destination.name])
    return destination.stat().st_size


def write_gguf(model: nn.Module, path: Path, kind: Kind = "Q8_0") -> None:
    """Write a part (the DiT, the connector, the VLM) as one GGUF file; it appears only when it is whole.

    Raises:
        ImportError: the package `gguf` is not there.
    """
    _write(model.state_dict(), _linear_weights(model), path, kind)


def _write(tensors: Mapping[str, Tensor | LazyTensor], quantized: set[str], path: Path, kind: Kind) -> None:
    """Announce every tensor, then read, pack and write one after the other."""
    gguf = _package()
    part = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(part, ARCHITECTURE)
    types = {
        name: _stored_type(gguf, tuple(tensor.shape), kind if name in quantized else None)
        for name, tensor in tensors.items()
    }
    try:
        for name, tensor in tensors.items():
            in_bytes = gguf.quants.quant_shape_to_byte_shape(tuple(tensor.shape), types[name])
            writer.add_tensor_info(
                name, tuple(tensor.shape), np.dtype("float32"), prod(in_bytes), raw_dtype=types[name]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            values = tensor.read() if isinstance(tensor, LazyTensor) else tensor.detach()
            values = values.to("cpu", torch.float32).contiguous().numpy()
            writer.write_tensor_data(gguf.quants.quantize(values, types[name]))
        writer.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _stored_type(gguf: Any, shape: Sequence[int], kind: Kind | None) -> Any:
    """Linear weights in blocks where they divide, vectors in 32 bits, all else in 16."""
    types = gguf.GGMLQuantizationType
    if kind is not None and shape[-1] % gguf.GGML_QUANT_SIZES[types[kind]][0] == 0:
        return types[kind]
    return types.F32 if len(shape) < 2 else types.F16


def load_transformer(layout: Layout, path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The DiT of a checkpoint's sizes with the weights of a GGUF file; the checkpoint's own are not read.

    Raises:
        CheckpointError: the file does not fit, or the checkpoint does not say how large its DiT is.
    """
    checkpoint = read_checkpoint(layout, shapes_only=True)
    part, named = checkpoint.parts.get("transformer"), checkpoint.architecture()
    if part is None and named is None:
        raise CheckpointError(
            f"{layout.source} does not say how large its DiT is; give a folder that has one"
        )
    config = part.config if part is not None else named_config("transformer", named)  # type: ignore[arg-type]
    model = build("transformer", config)
    read_gguf(model, path, dtype)
    return model.eval()


def read_gguf(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Replace a part's weights by those of a GGUF file, which stay quantised.

    Args:
        model: of the class and sizes the file was written from, which may be on the meta device; changed in
            place. A DiT may have our names, those of diffusers (the same) or Stability AI's, with or without
            `model.diffusion_model.` before them.
        path: the file.
        dtype: what it computes in, and what is not quantised is stored in.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: keys are missing or foreign, or a tensor has another shape.
        ImportError: the package `gguf` is not there.
    """
    _package()
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import (
        GGUFParameter,
        _replace_with_gguf_linear,
        dequantize_gguf_tensor,
    )

    own = model.state_dict()
    tensors = _with_our_names(dict(load_gguf_checkpoint(str(path))), path)
    linear = _linear_weights(model)
    for name, value in tensors.items():
        if isinstance(value, GGUFParameter) and name in own and name not in linear:
            tensors[name] = dequantize_gguf_tensor(value)  # a norm or a table, which others store in bfloat16
    _check(own, tensors, path, type(model).__name__)
    device = next(model.parameters()).device
    _replace_with_gguf_linear(model, dtype, tensors)
    for name, value in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if not isinstance(value, GGUFParameter):
            value = value.to(dtype)
        _put(model.get_submodule(owner), leaf, value.to("cpu" if device.type == "meta" else device))


def _with_our_names(tensors: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file's tensors by our names: without a prefix that all have, and from Stability AI's layout."""
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if not any(name.startswith("joint_blocks.") for name in tensors):
        return tensors
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    found = sorted(tensors)
    try:
        converted = convert_sd3_transformer_checkpoint_to_diffusers(tensors)  # takes out what it uses
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path} lacks {error.args[0]} of Stability AI's layout (joint_blocks.*); it has {_shown(found)}"
        ) from error
    return {**converted, **tensors}


def _check(own: Mapping[str, Tensor], tensors: Mapping[str, Any], path: Path, model: str) -> None:
    """CheckpointError unless keys and shapes are the model's."""
    missing, foreign = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or foreign:
        raise CheckpointError(
            f"{path}: {len(missing) + len(foreign)} keys differ; "
            f"it was not written from a {model} of this size"
            + (f"\n  missing: {_shown(missing)}" if missing else "")
            + (f"\n  foreign: {_shown(foreign)}" if foreign else "")
        )
    for name, value in tensors.items():
        shape = getattr(value, "quant_shape", value.shape)
        if tuple(shape) != tuple(own[name].shape):
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(shape)}, expected {tuple(own[name].shape)}"
            )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    if name in module._buffers:
        module._buffers[name] = value
    else:
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
        module._parameters[name] = parameter


def _linear_weights(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}


def _package() -> Any:
    try:
        import gguf  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise missing_extra("GGUF files need the package gguf", "quant", error) from error
    return gguf
