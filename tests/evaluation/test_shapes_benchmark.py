"""The shapes benchmark scores hand-made right and wrong pictures as it should."""

from itertools import permutations
from types import SimpleNamespace

import pytest
from PIL import Image

from deepgen.evaluation.benchmarks.shapes import KindScore, evaluate, prompts, score
from deepgen.shapes.caption import EDIT_KINDS
from deepgen.shapes.render import render
from deepgen.shapes.scene import Object, ShapesScene


class Oracle:
    """A pipeline that knows the answers; `is_lazy` returns references unchanged."""

    def __init__(self, limit: int, is_lazy: bool = False):
        self.items = {item.text: item for item in prompts(limit)}
        self.is_lazy = is_lazy

    def __call__(self, prompt, image=None, **options):
        if image is not None and self.is_lazy:
            return SimpleNamespace(images=[row[0] for row in image])
        return SimpleNamespace(images=[render(self._scene(text)) for text in prompt])

    def _scene(self, text):
        item = self.items[text]
        if item.edit is not None:
            return item.edit.target
        return next(scene for scene in _candidates(item.claim) if item.claim.holds(scene))


def _candidates(claim):
    """Scenes with the stated attributes, and the objects in every arrangement where cells are not stated."""
    for cells in permutations(range(9), len(claim.objects)):
        yield ShapesScene(
            background=claim.background or "white",
            objects=tuple(
                Object(shape=o.shape, color=o.color, size=o.size or "medium", cell=cell)
                for o, cell in zip(claim.objects, cells, strict=True)
            ),
        )


def test_the_right_answer_to_every_edit_scores_one_and_keeps_everything():
    for item in prompts(2):
        if item.edit is not None:
            verdict = score(item, render(item.edit.target))
            assert verdict.is_right
            assert verdict.kept in (None, 1.0)


def test_doing_nothing_is_a_wrong_edit_that_keeps_everything():
    for item in prompts(2):
        if item.edit is not None:
            verdict = score(item, render(item.edit.source))
            assert not verdict.is_right
            assert verdict.kept in (None, 1.0)


def test_a_blank_picture_is_wrong_everywhere():
    blank = Image.new("RGB", (96, 96), (250, 250, 250))
    assert not any(score(item, blank).is_right for item in prompts(2))


def test_a_lazy_model_gets_generation_right_and_no_edit(tmp_path):
    report = evaluate(Oracle(2, is_lazy=True), limit_per_kind=2, batch_size=3, output_dir=tmp_path)
    assert report.generation_accuracy == 1
    assert report.edit_accuracy == 0
    assert report.kept == 1
    assert report.to_dict()["version"] == "1"
    assert "edit move" in str(report)
    assert (tmp_path / "shapes.json").is_file()
    assert (tmp_path / "shapes.png").is_file()


def test_prompts_are_held_out_and_repeatable():
    items = prompts(3)
    assert items == prompts(3)
    assert all((item.edit or item.claim).split == "test" for item in items)
    assert {item.kind for item in items} >= {f"edit {kind}" for kind in EDIT_KINDS}


def test_the_interval_holds_the_accuracy():
    low, high = KindScore(kind="single", num_right=9, num_total=10).interval
    assert low < 0.9 < high <= 1
    assert KindScore(kind="single", num_right=10, num_total=10).interval[1] == pytest.approx(1.0)
