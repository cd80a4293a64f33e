"""`deepgen generate --file`: many pictures from a file of prompts, on one process or many.

A row is drawn in a call of its own and from its own seed, so a picture does not depend on the process
that draws it: process r of n takes every n-th row. A picture appears under its name only when it is whole,
and one that is there, whole and made as its row says, is not drawn again; so a run that was stopped goes on
where it was. A row that cannot be read or drawn is named with its line, and the others are drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deepgen.cli.loading import load_pipeline, read_sizes
from deepgen.cli.options import ImageOptions, Preset, Solver, check_text, parse_size
from deepgen.cli.outputs import check_folder
from deepgen.cli.row_names import TakenNames, check_name, check_place
from deepgen.generation import check_seed, refuse_unknown, standard_names
from deepgen.prompt_text import check_prompt
from deepgen.suggestions import suggestion_or_all
from deepgen.text_lines import text_lines

if TYPE_CHECKING:
    from deepgen.data.png import ImageRecord
    from deepgen.image_sizes import SizeRules

DEFAULT_FOLDER = Path("outputs/pictures")
MOST_IMAGES = 10_000  # of one row: a larger number is a slip
# What a row may say, and the type it has in JSON.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("prompt", "mask", "negative_prompt", "size", "preset", "solver", "name"), (str,)),
    **dict.fromkeys(("num_inference_steps", "height", "width", "seed", "n"), (int,)),
    "guidance_scale": (int, float),
    "keep_unchanged": (bool,),
    "image": (list,),
}
_ALIASES = ("steps", "guidance", "negative", "scheduler", "references")  # former names, and the options'


@dataclass(frozen=True, kw_only=True)
class PromptFileRow:
    """One picture of the file; everything but the prompt may be left out of its line.

    Attributes:
        line: its number, from 1.
        prompt: what to draw, or with references how to change them.
        image: references, by paths from the file's folder.
        mask: a picture that is transparent where the first reference may change, by its path.
        negative_prompt: what to steer away from.
        size: WIDTHxHEIGHT.
        height, width: instead of `size`.
        preset: solver and number of its steps.
        solver: the name of a solver.
        num_inference_steps: solver steps.
        guidance_scale: weight of the prompt.
        keep_unchanged: of an edit, whether what it left as it was comes back pixel for pixel.
        seed: of the noise; by default that of the command line (or 0) plus the line's number - 1, and plus k
            for picture k of a line that asks for several.
        name: the picture's file below the output folder; by default the line's number. Of several pictures
            NAME-0.png, NAME-1.png, ...
    """

    line: int
    prompt: str
    image: tuple[str, ...] = ()
    mask: str | None = None
    negative_prompt: str | None = None
    size: str | None = None
    height: int | None = None
    width: int | None = None
    preset: Preset | None = None
    solver: Solver | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    keep_unchanged: bool | None = None
    seed: int
    name: str

    def options(self, given: ImageOptions) -> ImageOptions:
        """The command line's options with what the line says instead."""
        if self.solver is not None and given.solver not in ("euler", self.solver):
            raise ValueError(
                f"solver {self.solver} differs from --solver {given.solver}; leave one of them out"
            )
        names = ("negative_prompt", "preset", "solver", "num_inference_steps", "guidance_scale")
        own = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.keep_unchanged is not None:
            own["keep_unchanged"] = "on" if self.keep_unchanged else "off"
        sizes = {name: getattr(self, name) for name in ("size", "height", "width")}
        return replace(given, **own, **(sizes if any(sizes.values()) else {}))


def read_rows(
    path: Path, first_seed: int = 0, num_images: int = 1, suffix: str = ".png"
) -> tuple[list[PromptFileRow], list[str]]:
    """Pictures that a file asks for, and what is wrong with the lines that cannot be drawn.

    A `.txt` file holds a prompt a line; empty lines and those that begin with # say nothing. Any other holds
    a JSON object a line. Both are UTF-8, with or without a byte order mark; lines end with a line feed, and
    with no other character.

    Args:
        path: the file.
        first_seed: of line 1, where it names none.
        num_images: pictures of a line that does not say how many.
        suffix: of pictures whose line gives no name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is text in UTF-16, or its lines end with carriage returns alone.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no prompt file {path}; expected a .txt file with a prompt a line, or one JSON object "
            'a line, such as {"prompt": "two blue stars"}'
        )
    read = _read_text if path.suffix.lower() == ".txt" else _read_json
    rows: list[PromptFileRow] = []
    problems, names = [], TakenNames()
    for line in text_lines(path):
        number = line.number
        try:
            given = read(line.text())
            if given is None:
                continue
            given = {
                "seed": first_seed + number - 1,
                "n": num_images,
                "name": f"{number:06d}{suffix}",
                **given,
            }
            images = _images(given, number, path.parent)
            for image in images:
                names.check(image.name)
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
            continue
        for image in images:
            names.add(image.name)
        rows += images
    return rows, problems


def _read_text(line: str) -> dict[str, Any] | None:
    """The fields of a line of text; None where it says nothing. A prompt may begin with \\#."""
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    prompt = text[1:] if text.startswith("\\#") else text
    check_text("prompt", prompt)
    return {"prompt": prompt}


def _read_json(line: str) -> dict[str, Any] | None:
    """The fields of a line of JSON, checked one by one; None where the line is empty."""
    if not line.strip():
        return None
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise ValueError("not a row: JSON nested too deeply; expected an object of plain fields") from error
    if not isinstance(given, dict):
        raise ValueError(f"expected an object such as {{'prompt': '...'}}, got {type(given).__name__}")
    given = standard_names(given, _ALIASES)
    refuse_unknown(given, _KINDS)
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if not isinstance(value, _KINDS[key]) or isinstance(value, bool) != (_KINDS[key] == (bool,)):
            raise ValueError(f"{key} must be {_KINDS[key][-1].__name__}, got {value!r}")
    check_prompt(given.get("prompt"))
    for key in ("prompt", "negative_prompt", "name"):
        check_text(key, given.get(key))
    for key, kind in (("preset", Preset), ("solver", Solver)):
        if key in given and given[key] not in get_args(kind):
            known = list(get_args(kind))
            raise ValueError(f"{key} {given[key]!r} is unknown{suggestion_or_all(given[key], known)}")
    parse_size(given.get("size"), "size")
    return given


def _images(given: Mapping[str, Any], number: int, folder: Path) -> list[PromptFileRow]:
    """The pictures a line asks for; ValueError says what is wrong with it."""
    count = given["n"]
    if not 1 <= count <= MOST_IMAGES:
        raise ValueError(f"n must be between 1 and {MOST_IMAGES}, got {count}")
    check_seed(given["seed"], count)
    name = check_name(given["name"])
    references = tuple(_found(folder, reference) for reference in given.get("image", ()))
    mask = given.get("mask")
    if mask is not None and not references:
        raise ValueError("mask marks what may change in a picture; name the picture under image")
    names = [str(name)] if count == 1 else [str(name.with_stem(f"{name.stem}-{k}")) for k in range(count)]
    own = {key: value for key, value in given.items() if key != "n"}
    found_mask = None if mask is None else _found(folder, mask)
    own = {**own, "line": number, "image": references, "mask": found_mask}
    return [PromptFileRow(**{**own, "seed": given["seed"] + k, "name": names[k]}) for k in range(count)]


def _found(folder: Path, name: Any) -> str:
    try:
        if isinstance(name, str) and (folder / name).is_file():
            return str(folder / name)
    except OSError as error:  # a name longer than the system has
        raise ValueError(f"no such picture: {str(name)[:60]!r}...: {error.strerror}") from error
    raise ValueError(f"no such picture: {folder / str(name)}")


def draw_file(options: ImageOptions, path: Path, suffix: str = ".png") -> int:
    """Draw every picture that is not drawn yet, `suffix` where its row gives no name; 1 if some could not be,
    else 0.
    """
    from deepgen.processes import join

    options.check()
    folder = DEFAULT_FOLDER if options.output == ImageOptions.output else options.output
    rows, problems = read_rows(path, options.seed or 0, options.num_images, suffix)
    state = join(options.device, timedelta(days=2))  # rows differ in length, so shares do too
    if not rows and not problems:
        raise ValueError(f"{path} holds no rows")
    check_folder(folder)
    if state.is_main_process:
        _say(problems)
    failures = draw_rows(options, rows[state.process_index :: state.num_processes], folder, path)
    # A process that ends early with an error would make its launcher stop the others.
    state.wait_for_everyone()
    return int(bool(problems or failures))


def draw_rows(
    options: ImageOptions, rows: list[PromptFileRow], folder: Path, path: Path, pipe: Any = None
) -> list[str]:
    """Draw one process's share; what could not be drawn is said and returned.

    Args:
        options: of the command line.
        rows: what is drawn, unless it is there.
        folder: where to.
        path: the prompt file, for messages.
        pipe: draws; by default it is loaded as the options say.
    """
    if not rows:
        return []
    from deepgen.cli.drawing import about, quiet_cuts, record_of
    from deepgen.data.image_files import save_image
    from deepgen.data.images import open_image

    failures: list[str] = []
    rules = read_sizes(options.model)
    rows = [row for row in rows if _can_be_drawn(row, options, rules, path, failures)]
    _say(failures)
    if not rows:
        return failures
    if pipe is None:
        pipe = load_pipeline(options)
    pipe.set_progress_bar_config(disable=True)
    for row in rows:
        target, own = folder / row.name, row.options(options)
        try:
            check_place(target, folder)
            settings = own.settings().resolve(pipe.defaults, is_edit=bool(row.image))
            asked = (own, settings, row.prompt, row.seed, row.image, row.mask)
            if _is_drawn(target, record_of(*asked) if options.metadata else None):
                continue
            masked = {} if row.mask is None else {"mask": row.mask}
            references = [open_image(reference) for reference in row.image]
            with quiet_cuts():
                output = pipe(
                    row.prompt, image=references or None, seed=row.seed, **masked, **settings.arguments()
                )
            made = record_of(*asked, output)
            target.parent.mkdir(parents=True, exist_ok=True)
            save_image(output.images[0], target, made if options.metadata else None, options.quality)
        except ValueError as error:
            failures.append(f"{path}, line {row.line}: {error}")
            _say(failures[-1:])
            continue
        for warning in pipe.prompt_warnings(row.prompt, references):
            print(f"deepgen: {path}, line {row.line}: {warning}", file=sys.stderr)
        if made.prompt_cut:
            print(f"deepgen: {path}, line {row.line}: {made.prompt_cut}", file=sys.stderr)
        print(f"{target}  {about(made)}", flush=True)
    return failures


def _can_be_drawn(
    row: PromptFileRow,
    options: ImageOptions,
    rules: SizeRules | None,
    path: Path,
    failures: list[str],
) -> bool:
    """Whether the model draws what the row asks; otherwise the reason is added to `failures`."""
    try:
        own = row.options(options)
        own.check()
        height, width = own.height_and_width()
        if rules is not None and (height is not None or width is not None):
            rules.drawn(None, 1, height, width)
    except ValueError as error:
        failures.append(f"{path}, line {row.line}: {error}")
        return False
    return True


def _is_drawn(path: Path, record: ImageRecord | None) -> bool:
    """Whether a whole picture is there, made as the record says (None: however it was made)."""
    from PIL import Image

    from deepgen.data.png import read_record

    if not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            image.load()
            width, height = image.size
        found = read_record(path)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a broken file
        return False
    if record is None:
        return True
    if found is None or (record.width and (record.width, record.height) != (width, height)):
        return False
    made = {"width": width, "height": height, "version": found.version, "prompt_cut": found.prompt_cut}
    made |= {"drawn_width": found.drawn_width, "drawn_height": found.drawn_height}
    return replace(record, **made) == found


def _say(problems: list[str]) -> None:
    for problem in problems:
        print(f"deepgen: not drawn: {problem}", file=sys.stderr)
