"""Loading a pipeline from command-line options: device, number format, placement, LoRA, solver."""

from __future__ import annotations

import gc
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgen.cli.options import Device, Dtype, ModelOptions, Offload, Quantize, asked_memory
from deepgen.embedded import EMBEDDED, embedded_name, is_embedded, model_source
from deepgen.extras import missing_extra
from deepgen.processes import launched

if TYPE_CHECKING:
    import torch

    from deepgen.image_sizes import SizeRules
    from deepgen.pipeline import DeepGenPipeline

LARGE_MODEL_BYTES = 4 * 10**9  # weights of two billion parameters in 16 bits

locate = model_source  # its name before it moved, for one release as those of `old_paths.py`

EMBEDDED_NOTICE = """\
deepgen: drawing with `{name}`, a small model inside this package. It knows {world}.
For real pictures choose the 5B model: --model deepgenteam/DeepGen-1.0-diffusers (14 GB to download)."""


def load_pipeline(options: ModelOptions) -> DeepGenPipeline:
    """The pipeline those options describe; says on stderr what it loads."""
    started = time.perf_counter()
    with _paused_garbage_collector():
        import torch

        from deepgen.pipeline import DeepGenPipeline
        from deepgen.sampling.solvers import make_scheduler
    if is_embedded(options.model):
        if launched().rank == 0:
            notice = EMBEDDED_NOTICE.format(name=options.model, world=EMBEDDED[embedded_name(options.model)])
            print(textwrap.fill(notice, 110, break_on_hyphens=False), file=sys.stderr)
        torch.set_num_threads(1)  # its tensors are so small that threads wait longer than they work
    if is_embedded(options.model) or not sys.stderr.isatty():
        _hide_loading_bars()

    options.check_prompt_limit()
    device = choose_device(options.device)
    _check_storage(options)
    placement = choose_placement(options, device)
    check_offload(placement.offload, device)
    is_widened = is_large(options.model) and not (device == "cpu" and placement.quantize != "none")
    dtype = choose_dtype(options.dtype, device, is_widened)
    settings = _how_to_read(options, placement, device, dtype) | base_models(options)
    lora = None
    if options.lora is not None:
        from deepgen.checkpoints.lora_files import read_lora

        lora = read_lora(options.lora)  # before the model, so that a bad file is an error without waiting
    pipe = DeepGenPipeline.from_pretrained(options.model, **settings)
    if options.max_prompt_tokens is not None:
        pipe.max_prompt_tokens = options.max_prompt_tokens
    if lora is not None:
        pipe.load_lora_weights(lora, strict=not options.lora_partial)
    pipe.scheduler = make_scheduler(options.solver, pipe.scheduler)
    _place(pipe, device, placement.offload)
    pipe.guidance_batching = options.guidance_batching
    if placement.has_tiles:
        pipe.vae.enable_tiling()
    if device == "cpu" and placement.quantize == "none":
        _widen(pipe, dtype)
    if options.compile:
        from deepgen.models.compiled import compile_blocks

        folder = compile_blocks(pipe.transformer)
        print(
            f"deepgen: blocks are compiled as they first run; compiled code is in {folder}", file=sys.stderr
        )
    seconds = time.perf_counter() - started
    if launched().rank == 0:
        print(f"deepgen: loaded {options.model} on {device} in {seconds:.1f} s ({dtype})", file=sys.stderr)
    return pipe


def _check_storage(options: ModelOptions) -> None:
    """ValueError where two options say how the DiT is stored."""
    if options.transformer_gguf is not None and (options.quantize, options.memory) != ("none", "none"):
        raise ValueError(
            "--transformer-gguf says how the DiT is stored; leave out --quantize and --memory, "
            "or load the model's own DiT"
        )


def _how_to_read(
    options: ModelOptions, placement: Placement, device: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Number format, quantization and device, as `from_pretrained` takes them."""
    settings: dict[str, Any] = {"torch_dtype": dtype}
    if placement.quantize == "nf4" and device in ("cpu", "mps"):
        raise ValueError(
            f"nf4 weights are made on a CUDA or XPU device, and this would run on {device}; "
            "take --quantize int8, which runs on CPUs too"
        )
    if placement.quantize != "none":
        settings["quantization_config"] = quantization(placement.quantize, dtype)
    if options.transformer_gguf is not None:
        settings["transformer_gguf"] = options.transformer_gguf
    if device != "cpu" and (placement.quantize, placement.offload) == ("none", "none"):
        settings["device_map"] = device  # read straight onto it
    if options.verify:
        settings["verify"] = True
    return settings


def base_models(options: ModelOptions) -> dict[str, Any]:
    """The options that complete a checkpoint, as `from_pretrained` takes them.

    Raises:
        ValueError: the model is complete, so that they would change nothing.
    """
    named = {"vlm": options.vlm, "transformer": options.transformer, "vae": options.vae}
    settings: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if options.connector_heads is not None:
        settings["connector_config"] = {"num_attention_heads": options.connector_heads}
    if settings:
        from deepgen.checkpoints.layouts import detect

        if detect(model_source(options.model)).kind == "deepgen":
            given = (
                "--connector-heads" if options.connector_heads is not None else f"--{next(iter(settings))}"
            )
            raise ValueError(f"{options.model} holds its own parts, so {given} has no use; leave it out")
    return settings


@dataclass(frozen=True)
class Placement:
    """Where the parts are and how they are stored, after every choice."""

    quantize: Quantize = "none"
    offload: Offload = "none"
    has_tiles: bool = False


def choose_placement(options: ModelOptions, device: str) -> Placement:
    """What the options ask for; --memory chooses by the sizes of the model and says what it chose.

    Raises:
        ValueError: the memory is chosen twice, or no plan fits it.
    """
    memory = asked_memory(options)
    if memory == "none":
        return Placement(options.quantize, options.offload)
    from deepgen.checkpoints.memory import GB, choose, meta_models

    free = free_memory(device) if memory == "auto" else int(memory) * GB
    plan = choose(meta_models(model_source(options.model)), free, can_offload=device == "cuda")
    origin = f"{free / GB:.1f} GB free on {device}" if memory == "auto" else f"{memory} GB asked for"
    print(f"deepgen: {origin}: {plan}", file=sys.stderr)
    return Placement(plan.quantize, plan.offload, plan.has_tiles)


def free_memory(device: str) -> int:
    """Bytes that are free: of the accelerator's own memory, or of the machine's where it has none."""
    from deepgen.checkpoints.memory import free_bytes

    return free_bytes(device)


def read_sizes(model: str) -> SizeRules | None:
    """What a model can draw, from its configs alone; None where they do not tell."""
    with _paused_garbage_collector():
        from deepgen.image_sizes import read_size_rules

        source = model_source(model)
    return read_size_rules(source)


def choose_device(asked: Device) -> str:
    """The device to compute on; ValueError when the asked one is not there."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(name for name, is_there in present.items() if is_there)
    if not present[asked]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ValueError(f"--device {asked}: PyTorch finds none here; there is: {there}")
    return asked


def choose_dtype(asked: Dtype, device: str, model_is_large: bool) -> torch.dtype:
    """The number format: bfloat16 where the hardware has it, and for large models anywhere."""
    import torch

    if asked != "auto":
        return getattr(torch, asked)
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if model_is_large else torch.float32


def is_large(model: str) -> bool:
    """Whether a model's weights hold some two billion parameters or more; a Hub name counts as large."""
    if is_embedded(model):
        return False
    path = Path(model).expanduser()
    if path.is_file():
        return path.stat().st_size > LARGE_MODEL_BYTES
    if path.is_dir():
        from deepgen.checkpoints.layouts import NATIVE_SUFFIXES

        files = (file for file in path.rglob("*") if file.suffix in NATIVE_SUFFIXES)
        return sum(file.stat().st_size for file in files) > LARGE_MODEL_BYTES
    return True


def check_offload(offload: Offload, device: str) -> None:
    """ValueError where there is no accelerator to offload from."""
    if offload != "none" and device == "cpu":
        raise ValueError(
            f"--offload {offload} moves parts off an accelerator, and this runs on the CPU; leave it out"
        )


def _hide_loading_bars() -> None:
    """The libraries' bars for each part: of use while gigabytes load, on a terminal."""
    from diffusers.utils.logging import disable_progress_bar as hide_of_diffusers
    from transformers.utils.logging import disable_progress_bar as hide_of_transformers

    hide_of_diffusers()
    hide_of_transformers()


def _place(pipe: DeepGenPipeline, device: str, offload: Offload) -> None:
    import torch

    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        pipe.enable_group_offload(
            onload_device=torch.device(device), offload_type="leaf_level", use_stream=device == "cuda"
        )
    else:
        pipe.to(device)


def _widen(pipe: DeepGenPipeline, dtype: torch.dtype) -> None:
    """Keep 16-bit weights and compute in 32 bits: faster on CPUs without 16-bit arithmetic."""
    import torch

    from deepgen.models.precision import compute_in_float32, multiplies_bfloat16

    if dtype.itemsize > 2 or (dtype == torch.bfloat16 and multiplies_bfloat16()):
        return
    for part in (pipe.vlm, pipe.connector, pipe.transformer):
        compute_in_float32(part)
    pipe.vae.float()


def quantization(quantize: Quantize, dtype: torch.dtype) -> Any:
    """The quantisation config that diffusers gets; the connector and the VAE are small and stay whole.

    int8 and fp8 are torchao's, which runs on CPUs too; nf4 is of bitsandbytes.
    """
    from importlib.util import find_spec

    import diffusers
    import transformers

    package = "bitsandbytes" if quantize == "nf4" else "torchao"
    if find_spec(package) is None:
        raise missing_extra(f"{quantize} weights need {package}", "quant")
    if quantize == "nf4":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        mapping = {
            "transformer": diffusers.BitsAndBytesConfig(**options),
            "vlm": transformers.BitsAndBytesConfig(**options),
        }
    else:
        from torchao import quantization as torchao  # pyright: ignore[reportMissingImports]  # an extra

        kind = torchao.Int8WeightOnlyConfig() if quantize == "int8" else torchao.Float8WeightOnlyConfig()
        mapping = {"transformer": diffusers.TorchAoConfig(kind), "vlm": transformers.TorchAoConfig(kind)}
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


@contextmanager
def _paused_garbage_collector() -> Iterator[None]:
    """Imports make a million objects that stay; searching them for garbage takes a fifth of the start.

    What was imported is then frozen, so that it is not looked through later either, not even at exit.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
