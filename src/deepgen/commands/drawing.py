"""What `generate` and `edit` share.

Everything is checked before the model is loaded; then one picture is drawn after the other, and each is kept
as soon as it is done.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgen.commands.loading import load_pipeline
from deepgen.commands.options import PictureOptions, check_text
from deepgen.commands.outputs import check_output, grid_path, picture_paths
from deepgen.prompt_text import PromptCut, PromptCutWarning, check_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from deepgen.data.png import PictureRecord

ASSUMED_PIXELS = 1024 * 1024  # a picture's, for the disk space, where the model chooses the size


def draw(options: PictureOptions, prompt: str | None, references: Sequence[str] = ()) -> None:
    """Draw the asked pictures from a prompt, or from an instruction and the pictures it is about.

    Each picture has its own seed and is saved before the next begins, so an interruption keeps what is done.
    """
    from deepgen.data.images import open_image
    from deepgen.data.png import image_grid, save_png

    options.check()
    prompt = check_prompt(prompt)
    check_text("the prompt", prompt)
    check_text("--negative", options.negative)
    opened = [open_image(path) for path in references]
    check_output(options.output, options.num_images, _pixels(options, opened))

    processes = _processes(options)
    pipe: Any = load_pipeline(options)  # Any: diffusers' types say little of its config and output
    if processes is not None:
        pipe.divide(options.parallel)
    settings = settings_of(options, pipe.defaults, is_edit=bool(opened))
    first_seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    is_main = processes is None or processes.is_main_process
    paths = picture_paths(options.output, options.num_images)
    drawn: list[Image] = []
    try:
        for seed, path in enumerate(paths, start=first_seed):
            started = time.perf_counter()
            pipe.set_progress_bar_config(
                desc=path.name, leave=False, disable=None
            )  # None: only on a terminal
            with quiet_cuts():
                result = pipe(prompt, image=opened or None, seed=seed, **settings)
            image, cuts = result.images[0], said_cuts(result.prompt_cuts)
            if cuts and not drawn and is_main:
                print(f"deepgen: {cuts}", file=sys.stderr)
            record = record_of(
                options,
                settings,
                prompt=prompt,
                seed=seed,
                references=references,
                width=image.width,
                height=image.height,
                prompt_cut=cuts,
            )
            drawn.append(image)
            seconds = time.perf_counter() - started
            if is_main:
                save_png(image, path, record if options.metadata else None)
                print(f"{path}  {image.width}x{image.height}, seed {seed}, {seconds:.1f} s", flush=True)
    except KeyboardInterrupt:
        print(f"deepgen: stopped; {len(drawn)} of {len(paths)} pictures are kept", file=sys.stderr)
        raise
    if len(drawn) > 1 and is_main:
        save_png(image_grid(drawn), grid_path(options.output))
        print(grid_path(options.output))


def _processes(options: PictureOptions) -> Any:
    """Accelerate's state where processes draw a picture together; None where there is one.

    Raises:
        ValueError: several were started and it was not said what they share, or one, or there is no seed.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if options.parallel == "none":
        if count > 1:
            raise ValueError(
                f"{count} processes were started and would draw the same picture; divide it with --parallel, "
                "or many pictures with generate --file"
            )
        return None
    if count == 1:
        raise ValueError(
            f"--parallel {options.parallel} divides a picture among processes, and there is one; start more: "
            "torchrun --nproc-per-node 2 -m deepgen ..."
        )
    if options.seed is None:
        raise ValueError("--parallel needs --seed, so that all processes draw the same picture")
    from accelerate import PartialState

    return PartialState(cpu=options.device == "cpu")


def settings_of(options: PictureOptions, defaults: Mapping[str, Any], is_edit: bool) -> dict[str, Any]:
    """The pipeline's arguments, with the model's own steps and guidance spelled out for the record."""
    from deepgen.arguments import usual_guidance
    from deepgen.diffusion.presets import get_preset

    guidance = options.guidance
    if guidance is None:
        guidance = usual_guidance(defaults, is_edit)
    height, width = options.height_and_width() or (None, None)
    steps = get_preset(options.solver_preset).num_steps or defaults["num_inference_steps"]
    return {
        "negative_prompt": options.negative,
        "height": height,
        "width": width,
        "preset": options.solver_preset,
        "num_inference_steps": steps if options.steps is None else options.steps,
        "guidance_scale": guidance,
    }


def record_of(
    options: PictureOptions,
    settings: Mapping[str, Any],
    *,
    prompt: str,
    seed: int,
    references: Sequence[str],
    width: int,
    height: int,
    prompt_cut: str | None = None,
) -> PictureRecord:
    """How a picture is made, for the picture itself."""
    from deepgen.data.png import PictureRecord
    from deepgen.diffusion.presets import get_preset

    return PictureRecord(
        prompt=prompt,
        negative_prompt=settings["negative_prompt"],
        seed=seed,
        steps=settings["num_inference_steps"],
        guidance=settings["guidance_scale"],
        width=width,
        height=height,
        scheduler=get_preset(options.solver_preset).solver or options.scheduler,
        preset=options.solver_preset,
        model=options.model,
        references=tuple(Path(reference).name for reference in references),
        prompt_cut=prompt_cut,
    )


def said_cuts(cuts: Sequence[PromptCut]) -> str | None:
    """What was left out of prompts that were too long, in one line; None where nothing was."""
    return "; ".join(map(str, cuts)) or None


@contextmanager
def quiet_cuts() -> Iterator[None]:
    """Without Python's warning of a cut prompt, where the command says it in a line of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)
        yield


def _pixels(options: PictureOptions, references: Sequence[Image]) -> int:
    """About how many pixels one picture will have."""
    asked = options.height_and_width()
    if asked is not None:
        return asked[0] * asked[1]
    return references[0].width * references[0].height if references else ASSUMED_PIXELS
