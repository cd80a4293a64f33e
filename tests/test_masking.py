"""What an edit changed, found from the pictures alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepgen.masking import Blend, UnchangedPixels, changed_weight, lay_over

UNIT = 8


def copy_of_a_source(size: tuple[int, int] = (96, 128)) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


def noise_like(x: Tensor, deviation: float) -> Tensor:
    return deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def test_a_thing_that_was_drawn_anew_is_found_and_nothing_else() -> None:
    copy = copy_of_a_source()
    drawn = copy + noise_like(copy, 0.02)  # 2.5 of 255
    drawn[:, 32:64, 40:72] = -copy[:, 32:64, 40:72] + 0.3
    weight = changed_weight(drawn, copy, UNIT)
    assert weight.shape == (96, 128)
    assert (weight[32:64, 40:72] == 1).all()
    far = torch.ones_like(weight, dtype=torch.bool)
    far[32 - 12 : 64 + 12, 40 - 12 : 72 + 12] = False
    assert (weight[far] == 0).all()
    steps = weight[48].diff().abs()
    assert 0 < steps.max() < 0.5  # its border is soft


def test_an_edit_that_changes_little_is_not_lost() -> None:
    """Of a slight change the strongest differences set the measure, not the floor for others."""
    copy = copy_of_a_source()
    drawn = copy.clone()
    drawn[:, :, :64] += 0.05  # 6 of 255: below what counts as a change beside a strong one
    weight = changed_weight(drawn, copy, UNIT)
    assert (weight[:, :60] == 1).all()
    assert (weight[:, 80:] == 0).all()
    drawn[:, :32, 96:] = -copy[:, :32, 96:]
    assert (changed_weight(drawn, copy, UNIT)[:, :60] == 0).all()


def test_what_is_the_source_already_stays_the_source() -> None:
    copy = copy_of_a_source()
    assert not changed_weight(copy.clone(), copy, UNIT).any()


def test_everything_may_change() -> None:
    copy = copy_of_a_source()
    assert (changed_weight(-copy + 0.5, copy, UNIT) == 1).all()


@pytest.mark.parametrize("is_enlarged", [False, True])
def test_kept_pixels_are_those_of_the_source_in_its_own_size(is_enlarged: bool) -> None:
    copy = copy_of_a_source()
    drawn = copy.clone()
    drawn[:, :40, :40] = 0.95
    size = (288, 384) if is_enlarged else (96, 128)
    source = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    unchanged = UnchangedPixels(source, copy, UNIT)
    result = lay_over(drawn, size if is_enlarged else None, unchanged, None)
    assert result.shape == source.shape
    as_bytes = ((result + 1) * 127.5).round().to(torch.uint8)
    scale = size[0] // 96
    assert torch.equal(as_bytes[:, 60 * scale :], source[:, 60 * scale :])
    assert (result[:, : 36 * scale, : 36 * scale] - 0.95).abs().max() < 0.01


def test_a_picture_that_is_not_finite_leaves_the_source_alone_where_nothing_is_drawn() -> None:
    source = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    weight = torch.zeros(4, 4)
    weight[0, 0] = 1
    drawn = torch.full((3, 4, 4), float("nan"))
    assert torch.isfinite(Blend(source, weight).paste(drawn)).sum() == 3 * 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_around_it_changes_nothing(dtype: torch.dtype) -> None:
    """Training evaluates under autocast, and a bfloat16 VAE draws bfloat16 pixels."""
    copy = copy_of_a_source()
    drawn = copy.clone()
    drawn[:, 32:64, 40:72] = -copy[:, 32:64, 40:72] + 0.3
    drawn = drawn.to(dtype)
    source = ((copy + 1) * 127.5).round().byte()
    usual = lay_over(drawn, None, UnchangedPixels(source, copy, UNIT), None)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = lay_over(drawn, None, UnchangedPixels(source, copy, UNIT), None)
    assert lowered.dtype == torch.float32
    assert torch.equal(lowered, usual)
