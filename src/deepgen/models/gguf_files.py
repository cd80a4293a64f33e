"""GGUF: a part of the model in one file of 8 or 4 bits a weight, as diffusers reads it.

Linear layers are quantised in blocks of 32 weights, one scale each; they stay quantised in memory and are
widened while they run. Everything else is float32 or float16. Tensors carry our own names, so a file belongs
to the class it was written from; files with the names of other programs are refused key by key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepgen.models.tensors import CheckpointError

Kind = Literal["Q8_0", "Q5_0", "Q4_0"]
ARCHITECTURE = "deepgen"


def write_gguf(model: nn.Module, path: Path, kind: Kind = "Q8_0") -> None:
    """Write a part (the DiT, the connector, the VLM) as one GGUF file; it appears only when it is whole.

    Raises:
        ImportError: the package `gguf` is not there.
    """
    gguf = _package()
    quantized = _linear_weights(model)
    part = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(part, ARCHITECTURE)
    quantization = getattr(gguf.GGMLQuantizationType, kind)
    block, _ = gguf.GGML_QUANT_SIZES[quantization]
    try:
        for name, tensor in model.state_dict().items():
            values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            stored = gguf.GGMLQuantizationType.F32 if tensor.ndim < 2 else gguf.GGMLQuantizationType.F16
            if name in quantized and tensor.shape[-1] % block == 0:
                stored = quantization
            packed = gguf.quants.quantize(values, stored)
            writer.add_tensor(name, packed, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_gguf(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Replace a part's weights by those of a GGUF file, which stay quantised.

    Args:
        model: of the class and sizes the file was written from; changed in place.
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
    from diffusers.quantizers.gguf.utils import GGUFParameter, _replace_with_gguf_linear

    tensors: dict[str, Any] = load_gguf_checkpoint(str(path))
    own = model.state_dict()
    if wrong := sorted(set(own) ^ set(tensors)):
        side = "lacks" if wrong[0] in own else "has a foreign"
        raise CheckpointError(
            f"{path} {side} {wrong[0]} ({len(wrong)} keys differ); it was not written from a "
            f"{type(model).__name__} of this size"
        )
    for name, value in tensors.items():
        shape = value.quant_shape if isinstance(value, GGUFParameter) else value.shape
        if tuple(shape) != tuple(own[name].shape):
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(shape)}, expected {tuple(own[name].shape)}"
            )
    device = next(model.parameters()).device
    _replace_with_gguf_linear(model, dtype, tensors)
    for name, value in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if not isinstance(value, GGUFParameter):
            value = value.to(dtype)
        _put(model.get_submodule(owner), leaf, value.to(device))


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
        raise ImportError("GGUF files need the package gguf: pip install 'deepgen[quant]'") from error
    return gguf
