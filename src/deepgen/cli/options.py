"""Options of the model and of the pictures that `generate`, `edit` and `eval` share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from deepgen.cli.outputs import check_file_name
from deepgen.embedded import is_embedded
from deepgen.generation import (
    GenerationSettings,
    check_guidance_scale,
    check_num_inference_steps,
    check_seed,
)

Solver = Literal["euler", "heun", "dpm++", "unipc"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Offload = Literal["none", "model", "sequential", "group"]
Quantize = Literal["none", "int8", "fp8", "nf4"]
Memory = Literal["none", "auto", "24", "16", "12", "8", "6"]
GuidanceBatching = Literal["auto", "batched", "split"]
Parallel = Literal["none", "guidance", "context", "both"]
Preset = Literal["exact", "balanced", "fast", "turbo"]


def default_model(usual: str = "tiny") -> str:
    """$DEEPGEN_MODEL, or the small model inside this package."""
    return os.environ.get("DEEPGEN_MODEL") or usual


@dataclass(frozen=True, kw_only=True)
class PluginOptions:
    """Which files of the user's own may be run beside those that other options name."""

    plugins: Annotated[tuple[Path, ...], arg(metavar="FILE.py")] = ()
    """Python files of your own that a mixture, a mix of prompts, a run or a result names; no other is run."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is placed in memory."""

    model: Annotated[str, arg(metavar="NAME|PATH")] = field(default_factory=default_model)
    """`tiny` or `shapes` (in the package), a folder, a checkpoint file or a Hub name; or $DEEPGEN_MODEL."""
    vlm: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The base VLM of a checkpoint that holds none; default Qwen/Qwen2.5-VL-3B-Instruct."""
    transformer: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The base DiT of a checkpoint that holds none; a folder of an SD3 pipeline will do."""
    vae: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The base VAE of a checkpoint that holds none; a folder of an SD3 pipeline will do."""
    connector_heads: Annotated[int | None, arg(metavar="INT")] = None
    """Attention heads of the connector, where neither the checkpoint nor a config.json beside it says."""
    solver: Annotated[Solver, arg(aliases=["--scheduler"])] = "euler"
    """The solver that walks from noise to the picture."""
    dtype: Dtype = "auto"
    """Number format. auto: bfloat16 where the device has it, float32 for small models on a CPU."""
    device: Device = "auto"
    """Where to compute. auto: cuda, then mps, then cpu."""
    offload: Offload = "none"
    """Keep parts in main memory until they are needed: slower, and fits smaller accelerators."""
    quantize: Quantize = "none"
    """Store the VLM and the DiT in fewer bits; needs the extra `quant`."""
    transformer_gguf: Annotated[Path | None, arg(metavar="FILE.gguf")] = None
    """The DiT from a GGUF file, ours or another program's, instead of the model's own."""
    memory: Memory = "none"
    """Choose offload, quantize and VAE tiles for so many GB; auto: for the memory that is free."""
    guidance_batching: GuidanceBatching = "auto"
    """Both branches of guidance in one pass, or one by one in less memory. auto: one pass where it fits."""
    max_prompt_tokens: Annotated[int | None, arg(metavar="INT")] = None
    """Read so many tokens of a prompt at most. Default: the model's own limit, or all its VLM can read."""
    lora: Annotated[str | None, arg(metavar="PATH")] = None
    """LoRA weights to apply, of any common trainer: a safetensors file, a folder or a Hub name."""
    lora_partial: bool = False
    """Apply what fits of a LoRA that fits in part, and say what is left out, instead of refusing it."""
    verify: bool = False
    """Before loading, compare the model's files with their known sha256 (SHA256SUMS, or the Hub's)."""
    compile: bool = False
    """Compile the DiT's blocks; the first picture waits for it, in later runs it is read from disk."""

    def check_prompt_limit(self) -> None:
        """ValueError for a limit that leaves nothing to read."""
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ValueError(f"--max-prompt-tokens must be at least 1, got {self.max_prompt_tokens}")


@dataclass(frozen=True, kw_only=True)
class NamedModelOptions(ModelOptions):
    """The same for commands that take the model's name without an option too: `deepgen serve tiny`."""

    usual_model: ClassVar[str] = "tiny"  # where neither an option nor $DEEPGEN_MODEL names one

    model_name: Positional[Annotated[str, arg(metavar="MODEL", help_behavior_hint="")]] = ""
    """`tiny` or `shapes` (in the package), a folder, a checkpoint file or a Hub name; as --model."""
    model: Annotated[str, arg(metavar="NAME|PATH", help_behavior_hint="")] = ""
    """The same as MODEL. Default: $DEEPGEN_MODEL, or tiny; of `eval shapes` that world's model, shapes."""

    def __post_init__(self) -> None:
        """One name, wherever it was given; two that differ are left for `check_model` to refuse."""
        if not self.model:
            object.__setattr__(self, "model", self.model_name or default_model(self.usual_model))

    def check_model(self) -> None:
        """ValueError where two models are named."""
        one_model(self.model_name, self.model)


def one_model(positional: str | None, option: str | None) -> str | None:
    """The model's name, given with or without --model; ValueError where both were and differ."""
    if positional and option and positional != option:
        raise ValueError(
            f"two models are named, {positional} and --model {option}; they mean the same, so give one"
        )
    return positional or option


def needed_model(positional: str | None, option: str | None, command: str) -> str:
    """The same for a command that has no default; ValueError says how to name one."""
    name = one_model(positional, option)
    if not name:
        raise ValueError(f"which model? name it: deepgen {command} tiny, a folder, a file or a Hub name")
    return name


def asked_memory(options: ModelOptions) -> Memory:
    """What `--memory` says, or `--preset auto` for it; ValueError beside options that it chooses itself."""
    memory = "auto" if getattr(options, "preset", None) == "auto" else options.memory
    if memory != "none" and (options.quantize, options.offload) != ("none", "none"):
        raise ValueError(
            f"--memory {memory} chooses --offload and --quantize; give either it or them, not both"
        )
    return memory


def short_name(model: str) -> str:
    """What a model is called by clients: `tiny`, the name of a folder or file, the end of a Hub name."""
    path = Path(model).expanduser()
    if not path.exists():
        return model.rstrip("/").rpartition("/")[2] or model
    path = path.resolve()
    return path.stem if path.is_file() else path.name or model


@dataclass(frozen=True, kw_only=True)
class ImageOptions(ModelOptions):
    """How the pictures are drawn and where they go."""

    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE")] = Path("out.png")
    """The picture's file: .png, .jpg or .webp; several become FILE-0.png, ... and FILE-grid.png. Existing
    files are replaced."""
    quality: Annotated[int | None, arg(metavar="INT")] = None
    """Of .jpg and .webp files, 1 to 100; default 95."""
    size: Annotated[str | None, arg(metavar="WxH")] = None
    """Width x height, such as 768x512. Default: the model's own; for an edit, its first picture's."""
    height: Annotated[int | None, arg(metavar="INT")] = None
    """Pixels, instead of --size; one side alone leaves the other to the model."""
    width: Annotated[int | None, arg(metavar="INT")] = None
    """As --height."""
    preset: Preset | Literal["auto"] = "exact"
    """balanced, fast: fewer steps for about the same picture. turbo: four steps without guidance, of a
    distilled model or LoRA. auto: exact, with --memory auto."""
    num_inference_steps: Annotated[int | None, arg(aliases=["--steps"], metavar="INT")] = None
    """Solver steps; default the preset's, or the model's own."""
    guidance_scale: Annotated[float | None, arg(aliases=["--guidance"], metavar="FLOAT")] = None
    """Weight of the prompt (classifier-free guidance); default the model's own."""
    negative_prompt: Annotated[str | None, arg(aliases=["--negative"], metavar="TEXT")] = None
    """What to steer away from."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Picture k is drawn with seed + k, whatever else is drawn. Default: a random one, which is printed."""
    parallel: Parallel = "none"
    """Under torchrun, all processes draw a picture: a branch of guidance each, tokens divided, or both."""
    num_images: Annotated[int, arg(aliases=["-n"])] = 1
    """How many pictures."""
    keep_unchanged: Literal["auto", "on", "off"] = "auto"
    """on: what an edit left as it was comes back pixel for pixel from its picture. auto: the model's own."""
    metadata: bool = True
    """Write prompt, seed and settings into the picture."""
    plan: bool = False
    """Print the memory and the seconds a picture of the 5B model would take, and draw nothing."""
    card: Annotated[str | None, arg(metavar="NAME")] = None
    """For --plan: an accelerator, such as rtx-4060 or m2-max-32gb. Default: this machine's."""

    @property
    def solver_preset(self) -> str:
        """The preset of solver and steps; `auto` is about memory only."""
        return "exact" if self.preset == "auto" else self.preset

    @property
    def has_folder(self) -> bool:
        """Whether --output names a folder instead of a picture."""
        return False

    def check(self) -> None:
        """ValueError for what no model can do; not at construction, where tyro would frame the message."""
        self.height_and_width()
        check_steps(self.num_inference_steps)
        check_guidance(self.guidance_scale)
        if self.card is not None and not self.plan:
            raise ValueError(f"--card {self.card} is for --plan; --device says where to draw")
        self.check_prompt_limit()
        if self.solver_preset != "exact" and self.solver != "euler":
            raise ValueError(f"--preset {self.preset} chooses the solver; leave out --solver {self.solver}")
        if self.num_images < 1:
            raise ValueError(f"--num-images must be at least 1, got {self.num_images}")
        check_seed(self.seed, self.num_images, "--seed")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"--quality must be between 1 and 100, got {self.quality}")
        if not self.has_folder:
            check_file_name(self.output)
            if self.quality is not None and self.output.suffix.lower() == ".png":
                raise ValueError(f"--quality is for .jpg and .webp, and {self.output} loses nothing")

    def height_and_width(self) -> tuple[int | None, int | None]:
        """The asked height and width, None where the model chooses."""
        size = parse_size(self.size, example="96x96" if is_embedded(self.model) else "512x512")
        if size is not None and (self.height is not None or self.width is not None):
            raise ValueError(f"--size {self.size} says height and width; leave out --height and --width")
        return size or (self.height, self.width)

    def settings(self) -> GenerationSettings:
        """How each picture is drawn but its seed; None leaves a choice to the model."""
        height, width = self.height_and_width()
        return GenerationSettings(
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            height=height,
            width=width,
            negative_prompt=self.negative_prompt,
            preset=self.solver_preset,
            solver=None if self.solver == "euler" else self.solver,  # the pipeline's scheduler
            keep_unchanged=None if self.keep_unchanged == "auto" else self.keep_unchanged == "on",
        )


def parse_size(size: str | None, name: str = "--size", example: str = "512x512") -> tuple[int, int] | None:
    """(height, width) of WIDTHxHEIGHT, or None where none is given; ValueError for anything else.

    What a model can draw is asked of the model, see `deepgen.image_sizes`.
    """
    if size is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", size.strip())
    if not match:
        raise ValueError(f"{name} {size!r} is not WIDTHxHEIGHT in pixels, such as {example}")
    return int(match[2]), int(match[1])


check_steps = partial(check_num_inference_steps, name="--num-inference-steps")
check_guidance = partial(check_guidance_scale, name="--guidance-scale")


def check_text(name: str, text: str | None) -> None:
    """ValueError unless it can be written as UTF-8; broken bytes in an argument arrive as lone surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid text at character {error.start}; give it as UTF-8") from error
