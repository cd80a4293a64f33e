"""`generate --plan` and `edit --plan`: time and memory of a picture, and the command that draws it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgen.cli.options import ImageOptions, asked_memory
from deepgen.embedded import is_embedded

if TYPE_CHECKING:
    from PIL.Image import Image

    from deepgen.checkpoints.memory import MemoryPlan
    from deepgen.generation import ResolvedSettings
    from deepgen.planning.accelerators import Accelerator
    from deepgen.planning.drawing import DrawingConfig

NOMINAL = "deepgen-1.0"  # what is planned where no weights are at hand


def show_plan(options: ImageOptions, references: Sequence[str] = (), *, is_edit: bool = False) -> None:
    """Print memory and seconds; nothing is loaded or fetched.

    Raises:
        ValueError: an unknown card, a card of this machine that is not listed, or no way to fit.
    """
    from deepgen.checkpoints.memory import meta_models
    from deepgen.data.images import open_image
    from deepgen.planning.accelerators import accelerator
    from deepgen.planning.drawing import plan_drawing

    options.check()
    if options.transformer_gguf is not None and not options.transformer_gguf.is_file():
        raise FileNotFoundError(f"--transformer-gguf {options.transformer_gguf}: no such file")
    chosen = accelerator(options.card) if options.card is not None else this_accelerator(options.device)
    name, note = planned_model(options.model)
    opened = [open_image(path) for path in references]
    models = meta_models(name)
    memory, why = _memory(options, models, chosen)
    config = drawing_config(options, models, memory, opened, is_edit)
    plan = plan_drawing(models, config, chosen)
    given = f", {config.references} given" if config.references else ""
    calls = f"{config.num_calls} calls of the DiT, {config.num_guided} with both branches of guidance"
    print(f"{note}on {chosen.name} ({chosen.memory_gb:.0f} GB)")
    print(f"picture: {config.width}x{config.height}{given}, preset {options.solver_preset}: {calls}")
    print("\n".join([*plan.lines(), *why]))
    if options.num_images > 1:
        from deepgen.planning.drawing import said_seconds

        print(f"{options.num_images} pictures: {said_seconds(options.num_images * plan.seconds)} seconds")
    if not plan.fits:
        print(f"what fits: {_remedy(models, chosen)}")


def planned_model(model: str) -> tuple[str, str]:
    """What is counted, and the first words of the plan: a local checkpoint, or the published architecture."""
    from deepgen.checkpoints.published import PUBLISHED_NAME
    from deepgen.models.config import ARCHITECTURES

    if model in ARCHITECTURES or Path(model).expanduser().exists():
        return model, f"{model} "
    if is_embedded(model):
        return NOMINAL, f"{NOMINAL}, the published 5B model ({model} runs anywhere; --model names another), "
    if model == PUBLISHED_NAME:
        return NOMINAL, f"{model} "
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise FileNotFoundError(f"--model {model}: no such file or folder, and no OWNER/MODEL of the Hub")
    return NOMINAL, f"{NOMINAL} (the sizes of {model} are not looked up) "


def this_accelerator(device: str) -> Accelerator:
    """The accelerator of this machine, or its processor where there is none.

    Raises:
        ValueError: it is not in the table.
    """
    import os
    import subprocess

    import torch

    from deepgen.planning.accelerators import ACCELERATORS, accelerator_of_chip, accelerator_of_device

    if device in ("auto", "cuda") and torch.cuda.is_available():
        named, found = torch.cuda.get_device_name(), accelerator_of_device(torch.cuda.get_device_name())
    elif device in ("auto", "mps") and torch.backends.mps.is_available():
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        named = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        found = accelerator_of_chip(named, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    elif device in ("auto", "cpu"):
        named, found = "cpu", ACCELERATORS["cpu"]
    else:
        raise ValueError(f"PyTorch finds no {device} here; name the card that is meant with --card")
    if found is None:
        raise ValueError(
            f"{named} is not in the table; name one like it with --card: {', '.join(ACCELERATORS)}"
        )
    return found


def drawing_config(
    options: ImageOptions,
    models: Mapping[str, Any],
    memory: MemoryPlan,
    references: Sequence[Image] = (),
    is_edit: bool = False,
) -> DrawingConfig:
    """What is drawn, with the published defaults where nothing was said; an edit without pictures has one.

    Raises:
        ValueError: the model cannot draw such a size.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    from deepgen.models.config import architecture
    from deepgen.planning.drawing import DrawingConfig
    from deepgen.sampling.few_steps import KEY, USUAL_STEPS, FewSteps, even_schedules
    from deepgen.sampling.solvers import make_scheduler

    nominal = architecture(NOMINAL)
    steps = options.num_inference_steps or USUAL_STEPS
    # A plan needs no distilled weights; a LoRA beside the model leaves it every preset.
    as_if = FewSteps(schedules=even_schedules((steps,), 0.0), lora="any").to_json()
    settings = options.settings().resolve({**nominal.defaults, KEY: as_if}, is_edit)
    height, width = _drawn_size(models, settings, references)
    preset = settings.chosen_preset
    solver = make_scheduler(options.solver, FlowMatchEulerDiscreteScheduler(**nominal.scheduler))
    _, timesteps = preset.prepare(solver, settings.num_inference_steps, "cpu", height * width // 256)
    asks = options.memory == "none" and options.preset != "auto"
    gguf = options.transformer_gguf
    return DrawingConfig(
        height=height,
        width=width,
        references=max(1, len(references)) if is_edit else 0,
        prompt_tokens=40 if is_edit else 80,
        num_calls=len(timesteps),
        num_guided=sum(preset.guided(timesteps)) if settings.is_guided else 0,
        is_split=settings.is_guided and options.guidance_batching == "split",
        memory=memory,
        moving=options.offload if asks and options.offload != "none" else memory.offload,
        gguf_bytes=gguf.stat().st_size if gguf is not None else 0,
    )


def _drawn_size(
    models: Mapping[str, Any], settings: ResolvedSettings, references: Sequence[Image]
) -> tuple[int, int]:
    from deepgen.image_sizes import size_rules
    from deepgen.models.config import architecture

    rules = size_rules(models["transformer"].config, models["vae"].config, architecture(NOMINAL).defaults)
    if rules is None:
        raise ValueError("the model's configs do not say which sizes it draws; name another with --model")
    (size,), _ = rules.drawn([references] if references else None, 1, settings.height, settings.width)
    return size


def _memory(
    options: ImageOptions, models: Mapping[str, Any], accelerator: Accelerator
) -> tuple[MemoryPlan, tuple[str, ...]]:
    """How the model is kept, and what to type for it where nothing was asked for."""
    from deepgen.checkpoints.memory import GB, MemoryPlan, choose

    asked, chosen = asked_memory(options), (options.quantize, options.offload)
    if accelerator.link is None and options.offload != "none":
        raise ValueError(f"{accelerator.name} has one memory, so --offload moves nothing; leave it out")
    if asked not in ("none", "auto"):
        return choose(models, int(asked) * GB, can_offload=accelerator.has_own_memory), ()
    if asked == "auto" or (chosen == ("none", "none") and options.transformer_gguf is None):
        plan = choose(models, int(accelerator.memory_gb * GB), can_offload=accelerator.has_own_memory)
        is_plain = plan == MemoryPlan()
        return plan, () if is_plain or asked == "auto" else ("so draw with --memory auto",)
    quantize = "int8" if options.quantize == "fp8" else options.quantize  # as many bits
    offload = "group" if options.offload == "sequential" else options.offload  # as much at a time
    return MemoryPlan(quantize=quantize, offload=offload), ()


def _remedy(models: Mapping[str, Any], accelerator: Accelerator) -> str:
    from deepgen.checkpoints.memory import GB, choose

    plan = choose(models, int(accelerator.memory_gb * GB), can_offload=accelerator.has_own_memory)
    return f"--memory auto ({plan}), or a smaller --size"
