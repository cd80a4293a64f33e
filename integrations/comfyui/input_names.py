"""Errors in the words of a node: what the pipeline and the command line say becomes names of its inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# What errors of the pipeline say, as regular expressions, and what the user of a node sees in front of him.
DRAWING = {
    r"^size (?=\d)": "width and height: ",
    r"^height and width must be": "width and height must be",
    r"\bleave out --scheduler, or use preset 'exact'": "set solver to default, or preset to exact",
    r"\bnum_images_per_prompt\b": "batch_size",
    r"\bunknown solver\b": "solver: unknown",
    r"\bunknown preset\b": "preset: unknown",
}
EDITING = {
    **DRAWING,
    r"^(the )?prompt( \d+)?\b": "instruction",
    r"\bthe first picture\b": "image",
    r"\bmake transparent what should be drawn anew\b": "paint over what should be drawn anew",
    r"\bmask allows no pixel to change\b": "mask is empty",
}
LOADING = {
    r"--model\b": "name",
    r"; leave it out\b": "; set it to none",
    r"--([a-z][a-z-]*)": r"\1",
}


@contextmanager
def naming_inputs(words: Mapping[str, str]) -> Iterator[None]:
    """A ValueError from inside is raised with these words replaced; any other error passes as it is."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for theirs, ours in words.items():
            message = re.sub(theirs, ours, message)
        if message == str(error):
            raise
        raise ValueError(message) from error
