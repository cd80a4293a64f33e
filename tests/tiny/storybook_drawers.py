"""Stand-ins for a model: one that draws what is asked for, and one that draws an empty ground."""

from __future__ import annotations

from PIL import Image

from deepgen.tiny.render import render
from deepgen.tiny.scene import Scene


class Drawer:
    """Draws with a function from an item to a picture, as a `deepgen.evaluation.models.Model`."""

    is_seeded = is_batched = True

    def __init__(self, name, draw_one):
        self.name = self.fingerprint = name
        self.draw_one, self.batches = draw_one, []

    def draw(self, items, seeds, settings, generator=None):
        self.batches.append([bool(item.references) for item in items])
        return [self.draw_one(item) for item in items]


def right_drawer(chains=()):
    """Draws the target of every prompt, and of every edit of these chains."""
    after = {(f"chain-{i:03d}", step.text, step.before): step.after
             for i, chain in enumerate(chains) for step in chain.steps}  # fmt: skip

    def draw_one(item) -> Image.Image:
        if "storybook" in item.metadata:
            return render(item.metadata["storybook"].example.target)
        shown = item.open_references()[0]
        return next(
            render(scene)
            for (name, text, before), scene in after.items()
            if name == item.id and text == item.prompt and render(before).tobytes() == shown.tobytes()
        )

    return Drawer("right", draw_one)


def empty_drawer():
    """Draws a mint ground without anything on it."""
    return Drawer("empty", lambda item: render(Scene(ground="mint")))


def copying_drawer():
    """Gives the picture to be edited back; draws an empty ground where there is none."""
    return Drawer(
        "copying",
        lambda item: item.open_references()[0] if item.references else render(Scene(ground="mint")),
    )
