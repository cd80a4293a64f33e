"""`deepgen edit`: change a picture by an instruction, or make one from several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from deepgen.cli.drawing import draw
from deepgen.cli.options import ImageOptions
from deepgen.cli.planned import show_plan
from deepgen.image_formats import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Edit(ImageOptions):
    """Change a picture as an instruction says, or make one from several."""

    prompt: Positional[Annotated[str, arg(metavar="TEXT")]]
    """The instruction, in quotes."""
    images: Positional[Annotated[tuple[str, ...], arg(metavar="FILE")]] = ()
    """The picture to change, and further ones that the instruction speaks of, in this order."""
    image: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE")] = ()
    """Another way to name them: --image FILE, or --image FILE FILE."""
    mask: Annotated[str | None, arg(metavar="FILE.png")] = None
    """A picture as large as the first, transparent where that may change; the rest stays as it is."""

    def run(self) -> int:
        """Exit code 0 once every picture is saved."""
        references = (*self.images, *self.image)
        if self.plan:
            show_plan(self, references, is_edit=True)
            return 0
        _check_words(self.prompt, references)
        draw(self, self.prompt, references, self.mask)
        return 0


def in_order(arguments: Sequence[str]) -> list[str]:
    """The words after `deepgen edit` with the instruction first and the pictures after it.

    So both may be given in any way (`TEXT a.png b.png`, `TEXT --image a.png b.png`, `--image a.png TEXT`),
    and pictures keep the order in which they were typed. The instruction is the first word that belongs to no
    option; after pictures of `--image`, the first that does not look like one.
    """
    words, others = _divided(list(arguments))
    free = [place for place, (_, is_image) in enumerate(words) if not is_image]
    free += [place for place, (word, _) in enumerate(words) if not _is_image(word)]
    if not free:
        return [*others, *(part for word, _ in words for part in ("--image", word))]
    instruction, _ = words.pop(free[0])
    return [instruction, *(word for word, _ in words), *others]


def _divided(arguments: list[str]) -> tuple[list[tuple[str, bool]], list[str]]:
    """Words that are texts or pictures, with whether they follow `--image`; and the other options."""
    words, others, is_image = [], [], False
    while arguments:
        word = arguments.pop(0)
        if word == "--":
            words += [(rest, False) for rest in arguments]
            break
        if word == "--image" and arguments and not arguments[0].startswith("-"):
            is_image = True
        elif word.startswith("--image="):
            is_image = True
            words.append((word.partition("=")[2], True))
        elif word.startswith("-") and len(word) > 1:
            is_image = False
            others.append(word)
            if "=" not in word and word.replace("_", "-") not in _flags() and arguments:
                others.append(arguments.pop(0))
        else:
            words.append((word, is_image))
    return words, others


def _flags() -> set[str]:
    """Options without a value."""
    names = [field.name.replace("_", "-") for field in fields(Edit) if field.type == "bool"]
    return {"-h", "--help", *(f"--{name}" for name in names), *(f"--no-{name}" for name in names)}


def _is_image(word: str) -> bool:
    """Whether a word is, or looks like, the name of a picture's file."""
    has_suffix = word.lower().endswith(SUFFIXES)
    return (has_suffix and " " not in word) or (len(word) < 1000 and Path(word).is_file())


def _check_words(prompt: str, references: Sequence[str]) -> None:
    """ValueError where words stand in another's place."""
    if _is_image(prompt):
        texts = [word for word in references if not _is_image(word)]
        text = texts[0] if texts else "make it red"
        raise ValueError(
            f"the instruction comes first, and {prompt!r} looks like a picture; try "
            f'deepgen edit "{text}" {prompt}'
        )
    if not references:
        raise ValueError(
            "nothing to edit: name the picture after the instruction, or draw one with `deepgen generate`"
        )
    for word in references:
        if not word.strip():
            raise ValueError("the name of a picture is empty; give the path of one file")
        if not Path(word).exists() and "." not in word:
            raise ValueError(f"there is no picture at {word}; put an instruction of several words in quotes")
