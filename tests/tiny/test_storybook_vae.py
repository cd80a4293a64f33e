"""What the storybook's autoencoder is trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from deepgen.tiny.render import render_array
from deepgen.tiny.scene import Scene, Thing
from deepgen.tiny.stages import looks as looks_module
from deepgen.tiny.stages.looks import Looks, hard_scene, read_looks
from deepgen.tiny.stages.vae import StorybookVAE, StorybookVAEConfig, detail_error
from deepgen.tiny.stages.vlm import to_pixels


def _images() -> torch.Tensor:
    """A faint drawing and a strong one, each alone on white."""
    return to_pixels(
        [
            Scene(ground="white", things=(Thing(noun=noun, cell=(1, 1), style="glossy"),))
            for noun in ("rabbit", "bus")
        ]
    )


def test_details_of_a_faint_drawing_weigh_as_much_as_those_of_a_strong_one():
    wanted = _images()
    blurred = torch.nn.functional.avg_pool2d(wanted, 7, stride=1, padding=3, count_include_pad=False)
    faint, strong = (float(detail_error(blurred[i : i + 1], wanted[i : i + 1])) for i in (0, 1))
    plain = (blurred - wanted).square().mean((1, 2, 3))
    assert plain[1] > 2 * plain[0]  # plain errors differ
    assert 0.5 < faint / strong < 2  # the error of their details does not
    assert 0.3 < min(faint, strong) < max(faint, strong) < 1


def test_a_power_weighs_the_worst_drawings_most():
    wanted = _images()
    blurred = torch.nn.functional.avg_pool2d(wanted, 3, stride=1, padding=1, count_include_pad=False)
    both = torch.stack([blurred[0], 0.2 * blurred[1] + 0.8 * wanted[1]])
    plain, squared = (
        [float(detail_error(both[i : i + 1], wanted[i : i + 1], p)) for i in (0, 1)] for p in (1, 2)
    )
    assert all(0 < two <= one for one, two in zip(plain, squared, strict=True))
    assert squared[0] / squared[1] > 2 * plain[0] / plain[1] > 2


def test_a_picture_as_wanted_has_no_error_and_an_empty_one_none_to_have():
    wanted = _images()
    assert detail_error(wanted, wanted) == 0
    empty = to_pixels([Scene(ground="white", things=())])
    assert torch.isfinite(detail_error(empty + 0.1, empty))
    assert detail_error(empty + 0.1, empty) == 0


def _without_bicycles(_vae, scenes):
    kept = [
        replace(scene, things=tuple(thing for thing in scene.things if thing.noun != "bicycle"))
        for scene in scenes
    ]
    return np.stack([render_array(scene) for scene in kept])


def test_looks_that_do_not_come_back_are_found_and_drawn_more_often(monkeypatch):
    monkeypatch.setattr(looks_module, "_decoded", _without_bicycles)
    looks = read_looks(AutoencoderKL())
    assert len(looks.things) > 400
    lost = {thing.noun for thing, fault in zip(looks.things, looks.faults, strict=True) if fault > 0}
    assert lost == {"bicycle"}
    bicycle = Scene(things=(Thing(noun="bicycle", cell=(2, 1), size="small", facing="right"),))
    assert looks.share(bicycle) == 1
    assert looks.share(Scene(things=(Thing(noun="dog", cell=(0, 0)),))) == 0
    rng = np.random.default_rng(0)
    nouns = Counter(thing.noun for _ in range(200) for thing in hard_scene(rng, looks).things)
    assert nouns["bicycle"] / nouns.total() > 0.5  # 8 of 440 looks, evenly
    assert len(nouns) > 20


def test_a_decoder_that_gives_everything_back_still_sees_every_look():
    things = tuple(Thing(noun=noun, cell=(0, 0)) for noun in ("dog", "cat"))
    rng = np.random.default_rng(0)
    nouns = Counter(
        thing.noun for _ in range(50) for thing in hard_scene(rng, Looks(things, np.zeros(2))).things
    )
    assert set(nouns) == {"dog", "cat"}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_hard_pictures_is_what_the_recipe_says(share, monkeypatch):
    bicycle = Looks((Thing(noun="bicycle", cell=(0, 0)),), np.ones(1))
    monkeypatch.setattr("deepgen.tiny.stages.vae.read_looks", lambda vae: bicycle)
    seen = []
    monkeypatch.setattr(
        "deepgen.tiny.stages.vae.hard_scene", lambda rng, looks: seen.append(looks) or hard_scene(rng, looks)
    )
    stage = StorybookVAE(StorybookVAEConfig(num_steps=1, scenes=3, whole_share=1, hard_share=share))
    assert stage.batches(0)[0].pixels.shape == (3, 3, 96, 96)
    assert len(seen) == 3 * share
