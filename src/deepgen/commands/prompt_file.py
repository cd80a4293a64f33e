"""`deepgen generate --file`: many pictures from a file of prompts, on one process or many.

A row is drawn in a call of its own and from its own seed, so a picture is the same whoever draws it: process
r of n takes every n-th row. A picture appears under its name only when it is whole, and one that is there,
whole and made as its row says, is not drawn again; so a run that was stopped goes on where it was. A row that
cannot be read or drawn is named with its line, and the others are drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deepgen.commands.loading import load_pipeline
from deepgen.commands.options import PictureOptions, check_text, parse_size
from deepgen.commands.outputs import check_folder
from deepgen.prompt_text import check_prompt

if TYPE_CHECKING:
    from deepgen.data.png import PictureRecord

DEFAULT_FOLDER = Path("outputs/pictures")


@dataclass(frozen=True, kw_only=True)
class PromptFileRow:
    """One line of the file; everything but the prompt may be left out.

    Attributes:
        line: its number, from 1.
        prompt: what to draw, or with references how to change them.
        references: pictures, by paths from the file's folder.
        negative: what to steer away from.
        seed: of the noise; by default that of the command line (or 0) plus the line's number - 1.
        size: WIDTHxHEIGHT.
        name: the picture's file below the output folder; by default the line's number.
    """

    line: int
    prompt: str
    references: tuple[str, ...] = ()
    negative: str | None = None
    seed: int
    size: str | None = None
    name: str


def read_rows(path: Path, first_seed: int = 0) -> tuple[list[PromptFileRow], list[str]]:
    """Rows of a JSONL file, and what is wrong with those that cannot be drawn, each with its line."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no prompt file {path}; expected one JSON object a line, such as "
            '{"prompt": "two blue stars"}'
        )
    rows: list[PromptFileRow] = []
    problems, names = [], set()
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                row = _read_row(text, number, first_seed, path.parent)
                if row.name in names:
                    raise ValueError(f"name {row.name!r} was given to an earlier line")
            except ValueError as error:
                problems.append(f"{path}, line {number}: {error}")
                continue
            names.add(row.name)
            rows.append(row)
    return rows, problems


def _read_row(text: str, number: int, first_seed: int, folder: Path) -> PromptFileRow:
    """ValueError says what is wrong with a line."""
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(given, dict):
        raise ValueError(f"expected an object such as {{'prompt': '...'}}, got {type(given).__name__}")
    known = [field.name for field in fields(PromptFileRow) if field.name != "line"]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown field {unknown[0]!r}; known: {', '.join(known)}")
    kinds = {"prompt": str, "negative": str, "size": str, "name": str, "seed": int, "references": list}
    for key, value in given.items():
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise ValueError(f"{key} must be {kinds[key].__name__}, got {value!r}")
    check_prompt(given.get("prompt"))
    for key in ("prompt", "negative", "name"):
        check_text(key, given.get(key))
    parse_size(given.get("size"), "size")
    given = {"seed": first_seed + number - 1, "name": f"{number:06d}.png", **given}
    if not 0 <= given["seed"] < 2**63:
        raise ValueError(f"seed must be between 0 and 2^63 - 1, got {given['seed']}")
    name = PurePosixPath(given["name"])
    if name.is_absolute() or ".." in name.parts or name.suffix.lower() != ".png":
        raise ValueError(f"name {given['name']!r} must be a .png below the output folder")
    references = tuple(str(folder / reference) for reference in given.get("references", ()))
    missing = [reference for reference in references if not Path(reference).is_file()]
    if missing:
        raise ValueError(f"no such picture: {missing[0]}")
    return PromptFileRow(**{**given, "line": number, "references": references})


def draw_file(options: PictureOptions, path: Path) -> int:
    """Draw every row that is not drawn yet; 1 if some could not be, else 0."""
    from accelerate import PartialState

    options.check()
    folder = DEFAULT_FOLDER if options.output == PictureOptions.output else options.output
    rows, problems = read_rows(path, options.seed or 0)
    state = PartialState(timeout=timedelta(days=2))  # rows differ in length, so shares do too
    if not rows and not problems:
        raise ValueError(f"{path} holds no rows")
    check_folder(folder)
    if state.is_main_process:
        _say(problems)
    failures = _draw_rows(options, rows[state.process_index :: state.num_processes], folder, path)
    # A process that ends early with an error would make its launcher stop the others.
    state.wait_for_everyone()
    return int(bool(problems or failures))


def _draw_rows(options: PictureOptions, rows: list[PromptFileRow], folder: Path, path: Path) -> list[str]:
    """Draw one process's share; what could not be drawn is said and returned."""
    if not rows:
        return []
    from deepgen.commands.drawing import quiet_cuts, said_cuts
    from deepgen.data.images import open_image
    from deepgen.data.png import save_png

    pipe: Any = load_pipeline(options)
    pipe.set_progress_bar_config(disable=True)
    failures: list[str] = []
    for row in rows:
        target = folder / row.name
        settings = _settings(options, row, pipe.defaults)
        record = _record(options, row, settings)
        if _is_drawn(target, record if options.metadata else None):
            continue
        try:
            references = [open_image(reference) for reference in row.references]
            with quiet_cuts():
                result = pipe(row.prompt, image=references or None, seed=row.seed, **settings)
        except ValueError as error:
            failures.append(f"{path}, line {row.line}: {error}")
            _say(failures[-1:])
            continue
        image, cuts = result.images[0], said_cuts(result.prompt_cuts)
        if cuts:
            print(f"deepgen: {path}, line {row.line}: {cuts}", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = replace(record, width=image.width, height=image.height, prompt_cut=cuts)
        save_png(image, target, made if options.metadata else None)
        print(f"{target}  {image.width}x{image.height}, seed {row.seed}", flush=True)
    return failures


def _settings(options: PictureOptions, row: PromptFileRow, defaults: Mapping[str, Any]) -> dict[str, Any]:
    from deepgen.commands.drawing import settings_of

    size = options.size if row.size is None else row.size
    negative = options.negative if row.negative is None else row.negative
    return settings_of(replace(options, size=size, negative=negative), defaults, is_edit=bool(row.references))


def _record(options: PictureOptions, row: PromptFileRow, settings: Mapping[str, Any]) -> PictureRecord:
    from deepgen.commands.drawing import record_of

    return record_of(
        options,
        settings,
        prompt=row.prompt,
        seed=row.seed,
        references=row.references,
        width=settings["width"] or 0,
        height=settings["height"] or 0,
    )


def _is_drawn(path: Path, record: PictureRecord | None) -> bool:
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
    same = {"width": width, "height": height, "version": found.version, "prompt_cut": found.prompt_cut}
    return replace(record, **same) == found


def _say(problems: list[str]) -> None:
    for problem in problems:
        print(f"deepgen: not drawn: {problem}", file=sys.stderr)
