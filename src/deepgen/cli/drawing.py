"""The part of `generate` and `edit` that is the same: checks, drawing one picture after the other, saving.

Everything is checked before the model is loaded; then one picture is drawn after the other, and each is kept
as soon as it is done.
"""

from __future__ import annotations

import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgen.cli.loading import load_pipeline, read_sizes
from deepgen.cli.options import ImageOptions, check_text
from deepgen.cli.outputs import check_output, grid_path
from deepgen.processes import join, launched
from deepgen.prompt_text import PromptCutWarning, check_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from deepgen.data.png import ImageRecord
    from deepgen.generation import ResolvedSettings

ASSUMED_PIXELS = 1024 * 1024  # a picture's, for the disk space, where the model chooses the size


def draw(
    options: ImageOptions, prompt: str | None, references: Sequence[str] = (), mask: str | None = None
) -> None:
    """Draw the asked pictures from a prompt, or from an instruction and the pictures it is about; with a
    mask, only what it gives free of the first one changes.

    Each picture has its own seed and is saved before the next begins, so an interruption keeps what is done.
    """
    from deepgen.data.image_files import kind_of, misfit, numbered_paths, save_image
    from deepgen.data.images import open_image
    from deepgen.data.masks import check_mask, open_mask
    from deepgen.data.png import attach_record, image_grid, read_records

    options.check()
    prompt = check_prompt(prompt)
    check_text("the prompt", prompt)
    check_text("--negative-prompt", options.negative_prompt)
    opened = [open_image(path) for path in references]
    if mask is not None:
        check_mask(open_mask(mask), opened[0])
    words = _kept_text(options, prompt, references)
    if reason := misfit(kind_of(options.output), _size(options, opened), words):
        raise ValueError(f"--output {options.output}: {reason}")
    check_output(options.output, options.num_images, _pixels(options, opened))
    processes = _processes(options)
    check_sizes(options, opened)
    pipe: Any = load_pipeline(options)  # Any: diffusers' types say little of its config and output
    if processes is not None:
        pipe.divide(options.parallel)
    settings = options.settings().resolve(pipe.defaults, is_edit=bool(opened))
    if processes is None or processes.is_main_process:
        for warning in pipe.prompt_warnings(prompt, opened):
            print(f"deepgen: {warning}", file=sys.stderr)
    first_seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    is_main = processes is None or processes.is_main_process
    paths = numbered_paths(options.output, options.num_images)
    drawn: list[Image] = []
    masked = {} if mask is None else {"mask": mask}
    try:
        for seed, path in enumerate(paths, start=first_seed):
            started = time.perf_counter()
            pipe.set_progress_bar_config(
                desc=path.name, leave=False, disable=None
            )  # None: only on a terminal
            with quiet_cuts():
                output = pipe(prompt, image=opened or None, seed=seed, **masked, **settings.arguments())
            image = output.images[0]
            record = record_of(options, settings, prompt, seed, references, mask, output)
            if record.prompt_cut and not drawn and is_main:
                print(f"deepgen: {record.prompt_cut}", file=sys.stderr)
            attach_record(image, record)
            drawn.append(image)
            seconds = f"{time.perf_counter() - started:.1f} s"
            if is_main:
                save_image(image, path, record if options.metadata else None, options.quality)
                print(f"{path}  {about(record)}, {seconds}", flush=True)
    except KeyboardInterrupt:
        print(f"deepgen: stopped; {len(drawn)} of {len(paths)} pictures are kept", file=sys.stderr)
        raise
    if len(drawn) > 1 and is_main:
        grid = image_grid(drawn)
        records = read_records(grid) if options.metadata else None
        save_image(grid, grid_path(options.output), records, options.quality)
        print(grid_path(options.output))


def check_sizes(options: ImageOptions, references: Sequence[Image]) -> None:
    """ValueError where the model cannot draw what is asked for; reads its configs and no weights."""
    rules = read_sizes(options.model)
    if rules is not None:
        rules.drawn([references] if references else None, 1, *options.height_and_width())


def _processes(options: ImageOptions) -> Any:
    """Accelerate's state where processes draw a picture together; None where there is one.

    Raises:
        ValueError: several were started and it was not said what they share, or one, or there is no seed.
    """
    count = launched().count
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
    return join(options.device)


def record_of(
    options: ImageOptions,
    settings: ResolvedSettings,
    prompt: str,
    seed: int,
    references: Sequence[str],
    mask: str | None = None,
    output: Any = None,
) -> ImageRecord:
    """How the one picture of a pipeline's output was made; before it is drawn, its size is 0 where the model
    chooses it.
    """
    sizes: dict[str, Any] = {}
    if output is not None:
        (image,), (drawn_size,) = output.images, output.drawn_sizes
        sizes = {"size": (image.height, image.width), "drawn_size": drawn_size}
        sizes["prompt_cuts"] = output.prompt_cuts
    return settings.record(
        prompt=prompt,
        seed=seed,
        model=options.model,
        image=[Path(reference).name for reference in references],
        mask=None if mask is None else Path(mask).name,
        **sizes,
    )


def about(record: ImageRecord) -> str:
    """Size and seed of a picture, and whether it was drawn smaller than it is."""
    from deepgen.data.resize import enlarged_from

    final = (record.height, record.width)
    drawn = (record.drawn_height or record.height, record.drawn_width or record.width)
    notice = enlarged_from(drawn, final)
    return f"{record.width}x{record.height}, seed {record.seed}" + (f", {notice}" if notice else "")


def _size(options: ImageOptions, references: Sequence[Image]) -> tuple[int, int] | None:
    """(height, width) of one picture, or None where the model chooses."""
    height, width = options.height_and_width()
    if height is None and width is None and references:
        return references[0].height, references[0].width
    return None if height is None or width is None else (height, width)


@contextmanager
def quiet_cuts() -> Iterator[None]:
    """Without Python's warning of a cut prompt, where the command says it in a line of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)
        yield


def _pixels(options: ImageOptions, references: Sequence[Image]) -> int:
    """About how many pixels one picture will have."""
    size = _size(options, references)
    return ASSUMED_PIXELS if size is None else size[0] * size[1]


def _kept_text(options: ImageOptions, prompt: str, references: Sequence[str]) -> str:
    """What a picture's record holds of the user's words."""
    return " ".join([prompt, options.negative_prompt or "", *references]) if options.metadata else ""
