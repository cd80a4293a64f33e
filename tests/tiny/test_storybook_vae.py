"""What the storybook's autoencoder is trained on."""

from __future__ import annotations

import torch

from deepgen.tiny.scene import Scene, Thing
from deepgen.tiny.stages.vae import detail_error
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
