"""A summary of what the shapes world contains, for people who ask about a model that draws it."""

from __future__ import annotations

from typing import Any

from deepgen.shapes.caption import EDIT_KINDS
from deepgen.shapes.scene import BACKGROUNDS, CANVAS, COLORS, MAX_OBJECTS, SHAPES, SIZES


def about() -> dict[str, Any]:
    """Shapes, colours, sizes, backgrounds and kinds of edits: plain values."""
    return {
        "name": "shapes",
        "shapes": list(SHAPES),
        "colors": list(COLORS),
        "sizes": list(SIZES),
        "backgrounds": list(BACKGROUNDS),
        "most_shapes": MAX_OBJECTS,
        "edits": list(EDIT_KINDS),
    }


def about_lines() -> list[str]:
    """The same in lines of text."""
    return [
        f"draws the shapes world: one to {MAX_OBJECTS} flat shapes on a plain background",
        f"shapes               {', '.join(SHAPES)}",
        f"colours              {', '.join(COLORS)}",
        f"sizes                {', '.join(SIZES)}",
        f"backgrounds          {', '.join(BACKGROUNDS)}",
        f"edits                {', '.join(EDIT_KINDS)}",
    ]


def introduction() -> dict[str, Any]:
    """What a page says of such a model, see `deepgen.worlds.introduce`."""
    return {
        "description": (
            f"A small model of flat shapes: it draws up to {MAX_OBJECTS} of them on a plain background, "
            f"{CANVAS} x {CANVAS} pixels, and edits such pictures. It knows nothing else."
        ),
        "vocabulary": {
            "Shapes": list(SHAPES),
            "Colours": list(COLORS),
            "Sizes": list(SIZES),
            "Backgrounds": list(BACKGROUNDS),
            "Edits": list(EDIT_KINDS),
        },
        "example_prompts": [
            "a red circle and a blue star on a white background",
            "three yellow triangles",
            "a green square above a purple diamond",
            "a large orange cross on a black background",
        ],
        "example_edits": [
            "make the background brown",
            "make the circle green",
            "remove the star",
            "add a pink square in the top left corner",
        ],
    }
