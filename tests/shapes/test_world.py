"""The flat world: drawn, read back, described."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from deepgen.shapes.caption import (
    CAPTION_KINDS,
    EDIT_KINDS,
    ObjectClaim,
    ShapesClaim,
    caption,
    instruction,
    sample_claim,
    sample_edit,
)
from deepgen.shapes.read import read
from deepgen.shapes.render import render, render_array
from deepgen.shapes.scene import GUEST_SHAPES, SHAPES, SIZES, Object, ShapesScene, sample_scene
from deepgen.shapes.slots import claim_code, directions, edit_code
from deepgen.shapes.vocabulary import MAX_TOKENS, words


def test_every_drawn_scene_is_read_back_exactly():
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample_scene(rng)
        assert read(render_array(scene)).scene == scene


def test_a_slightly_blurred_scene_is_read_back():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(100)]
    right = [read(render(scene).filter(ImageFilter.GaussianBlur(0.7))).scene == scene for scene in scenes]
    assert np.mean(right) > 0.95


def test_two_colors_in_one_cell_are_unreadable_not_guessed():
    pixels = render_array(
        ShapesScene(background="white", objects=(Object(shape="square", color="red", size="large", cell=4),))
    ).copy()
    pixels[32:64, 48:64] = (40, 70, 225)
    assert read(pixels).unreadable_cells == (4,)


def test_reading_refuses_other_sizes():
    with pytest.raises(ValueError, match="96x96"):
        read(Image.new("RGB", (64, 64)))


@pytest.mark.parametrize("kind", CAPTION_KINDS)
def test_a_sampled_claim_holds_for_its_scene(kind):
    rng = np.random.default_rng(2)
    for _ in range(30):
        claim, scene = sample_claim(rng, kind, "train")
        assert claim.holds(scene)
        assert claim.split == "train"


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_is_satisfied_by_its_target_and_not_by_its_source(kind):
    rng = np.random.default_rng(3)
    for _ in range(30):
        edit = sample_edit(rng, kind, "test")
        assert edit.claim.holds(edit.target)
        assert not edit.claim.holds(edit.source)
        assert edit.split == "test"
        assert edit.touched_cells


def test_a_claim_refuses_extra_objects_wrong_binding_and_wrong_relation():
    red = Object(shape="circle", color="red", size="small", cell=0)
    blue = Object(shape="square", color="blue", size="small", cell=2)
    both = ShapesClaim(
        kind="relation",
        objects=(ObjectClaim(shape="circle", color="red"), ObjectClaim(shape="square", color="blue")),
        relation="left of",
    )
    assert both.holds(ShapesScene(background="white", objects=(red, blue)))
    assert not both.holds(ShapesScene(background="white", objects=(red,)))
    swapped = (
        Object(shape="circle", color="blue", size="small", cell=0),
        Object(shape="square", color="red", size="small", cell=2),
    )
    assert not both.holds(ShapesScene(background="white", objects=swapped))
    mirrored = (
        Object(shape="circle", color="red", size="small", cell=2),
        Object(shape="square", color="blue", size="small", cell=0),
    )
    assert not both.holds(ShapesScene(background="white", objects=mirrored))


def test_train_and_test_texts_never_meet():
    rng = np.random.default_rng(4)
    for kind in CAPTION_KINDS:
        texts = {
            split: {caption(rng, sample_claim(rng, kind, split)[0]) for _ in range(150)}
            for split in ("train", "test")
        }
        assert not texts["train"] & texts["test"]


def test_every_word_is_in_the_vocabulary():
    rng = np.random.default_rng(5)
    known = set(words())
    assert len(known) <= MAX_TOKENS
    texts = [caption(rng, sample_claim(rng, kind, "train")[0]) for kind in CAPTION_KINDS for _ in range(60)]
    texts += [instruction(rng, sample_edit(rng, kind, "train")) for kind in EDIT_KINDS for _ in range(60)]
    assert {word for text in texts for word in text.replace(",", " ,").split()} <= known


def test_slot_directions_are_orthogonal_and_codes_differ():
    table = np.stack(list(directions().values()))
    gram = table @ table.T
    assert np.allclose(gram, np.diag(np.diag(gram)))
    rng = np.random.default_rng(6)
    claims = {sample_claim(rng, "two", "train")[0] for _ in range(30)}
    assert len({claim_code(claim).tobytes() for claim in claims}) == len(claims)
    assert edit_code(sample_edit(rng, "move", "train")).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", GUEST_SHAPES)
def test_a_guest_shape_is_read_where_it_is_looked_for_and_unknown_elsewhere(shape, size):
    guest = Object(shape=shape, color="cyan", size=size, cell=3, offset=(-2, 1))
    scene = ShapesScene(
        background="brown", objects=(guest, Object(shape="cross", color="red", size=size, cell=4))
    )
    assert read(render(scene), (*SHAPES, *GUEST_SHAPES)).scene == scene
    assert read(render(scene)).scene != scene


def test_no_guest_shape_is_drawn_for_the_model_to_learn():
    rng = np.random.default_rng(11)
    assert not {o.shape for _ in range(300) for o in sample_scene(rng).objects} & set(GUEST_SHAPES)
