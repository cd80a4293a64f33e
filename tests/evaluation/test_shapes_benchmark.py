"""The shapes benchmark scores hand-made right and wrong pictures as it should."""

from itertools import permutations
from types import SimpleNamespace

from PIL import Image

from deepgen.evaluation.benchmarks.shapes import KindScore, ShapesPrompt, evaluate, prompts, score
from deepgen.evaluation.statistics import wilson
from deepgen.shapes.caption import EDIT_KINDS, ObjectClaim, ShapesClaim
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


def test_the_interval_holds_the_accuracy_and_is_over_distinct_claims():
    """Ten claims of two pictures each, and the same pictures as if each were a claim of its own."""
    right = [number // 2 != 3 for number in range(20)]  # of one claim both are wrong
    together = KindScore.of("single", [(str(number // 2), right[number]) for number in range(20)])
    apart = KindScore.of("single", [(str(number), right[number]) for number in range(20)])
    assert (together.num_right, together.num_total, together.num_claims) == (18, 20, 10)
    assert together.accuracy == apart.accuracy == 0.9
    assert together.interval == (0.7, 1.0)  # of ten claims, 0 to 3 draws of the wrong one
    assert together.interval[0] < apart.interval[0] < 0.9
    assert KindScore.of("single", [(str(number), True) for number in range(10)]).interval == wilson(1.0, 10)


def test_a_claim_is_the_same_in_other_words_and_the_other_way_round():
    star, cross = (ObjectClaim(shape=shape) for shape in ("star", "cross"))

    def key(first, second, relation=None):
        claim = ShapesClaim(kind="relation", objects=(first, second), relation=relation)
        return ShapesPrompt(kind="relation", text="any words", claim=claim).claim_key

    assert key(star, cross) == key(cross, star)
    assert key(star, cross, "above") == key(cross, star, "below")
    assert key(star, cross, "left of") == key(cross, star, "right of")
    assert key(star, cross, "above") != key(cross, star, "above")
    assert len({prompt.claim_key for prompt in prompts(48) if prompt.kind == "single"}) == 6


def test_several_seeds_are_several_pictures_of_each_item(tmp_path):
    one = evaluate(Oracle(2), limit_per_kind=2, output_dir=tmp_path / "one")
    several = evaluate(Oracle(2), limit_per_kind=2, num_seeds=3, output_dir=tmp_path / "three")
    assert [kind.num_total for kind in several.kinds] == [3 * kind.num_total for kind in one.kinds]
    assert [kind.num_claims for kind in several.kinds] == [kind.num_claims for kind in one.kinds]
    assert several.generation_accuracy == several.edit_accuracy == 1
    assert str(several).startswith("shapes 1, 3 seeds from 0")
    note = "of 1 seed; publish means of 3 (--seeds 3)"
    assert str(one).endswith(note)
    assert "publish" not in str(several)
