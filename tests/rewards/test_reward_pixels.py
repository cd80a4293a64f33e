"""Rewards that look at pixels alone: file size, likeness, and what an edit left alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deepgen.rewards.reward import Candidate
from deepgen.rewards.scorers import make_reward
from deepgen.rewards.scorers.preservation import mask_text, ssim_map


def noise(seed: int, size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def smooth(size: int = 64) -> np.ndarray:
    ramp = np.linspace(40, 200, size)
    return np.stack(
        [ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None], 90 + 0 * ramp[None] * ramp[:, None]],
        -1,
    )


def edit(result: np.ndarray, source: np.ndarray | None = None, **metadata: object) -> Candidate:
    base = smooth() if source is None else source
    images = [Image.fromarray(values.astype(np.uint8)) for values in (result, base)]
    return Candidate(image=images[0], prompt="edit", references=(images[1],), metadata=metadata)


def only(reward: str, candidate: Candidate, **options: object) -> float:
    (verdict,) = make_reward(reward, **options)([candidate])
    assert verdict.score is not None, verdict.reason
    return verdict.score


def test_a_detailed_picture_is_a_large_file_and_the_sign_is_a_choice() -> None:
    flat, busy = Candidate(image=Image.new("RGB", (64, 64)), prompt=""), Candidate(image=noise(0), prompt="")
    assert only("jpeg", busy, prefer="large") > 3 * only("jpeg", flat, prefer="large") > 0
    assert only("jpeg", busy) == -only("jpeg", busy, prefer="large")


def test_psnr_is_the_formula_and_bounded_for_equal_pictures() -> None:
    base = np.full((16, 16, 3), 100)
    assert only("psnr", edit(base + 5, base)) == pytest.approx(10 * np.log10(255**2 / 25))
    assert only("psnr", edit(base, base)) == 60
    (verdict,) = make_reward("psnr")([edit(base[:8], base)])
    assert verdict.score is None
    assert "(16, 8)" in verdict.reason
    (verdict,) = make_reward("psnr")([Candidate(image=noise(0), prompt="")])
    assert verdict.reason == "the candidate has no references"


def test_a_local_edit_keeps_the_rest_and_a_new_picture_keeps_nothing() -> None:
    local = smooth()
    local[8:24, 8:24] = (250, 0, 0)
    new = np.asarray(noise(1)).astype(float)
    shifted = np.clip(smooth() + 30, 0, 255)
    scores = [only("preservation", edit(result)) for result in (smooth(), local, shifted, new)]
    assert scores[:2] == pytest.approx([1, 1])
    assert scores[1] > scores[2] > scores[3]
    assert scores[3] < 0.2


def test_what_changes_outside_a_given_mask_counts_though_it_is_small() -> None:
    stray = smooth()
    stray[40:48, 40:48] = 0
    region = np.zeros((64, 64), dtype=bool)
    region[8:24, 8:24] = True
    assert only("preservation", edit(stray)) == pytest.approx(1)
    assert only("preservation", edit(stray, mask=mask_text(region))) < 0.9
    (whole,) = make_reward("preservation")([edit(stray, mask=mask_text(~np.zeros_like(region)))])
    assert whole.score is None
    (broken,) = make_reward("preservation")([edit(stray, mask="no picture")])
    assert broken.score is None


def test_a_result_of_another_size_is_compared_and_of_another_shape_is_not() -> None:
    large = Image.fromarray(smooth().astype(np.uint8)).resize((128, 128))
    source = Image.fromarray(smooth().astype(np.uint8))
    assert only("preservation", Candidate(image=large, prompt="", references=(source,))) > 0.9
    wide = Candidate(image=large.resize((128, 64)), prompt="", references=(source,))
    (verdict,) = make_reward("preservation")([wide])
    assert verdict.score is None


def test_ssim_is_one_for_equal_pictures_and_matches_its_formula_on_flat_ones() -> None:
    values = smooth()[..., 0]
    np.testing.assert_allclose(ssim_map(values, values), 1)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 50 * 60 + c1) / (50**2 + 60**2 + c1)
    flat = ssim_map(np.full((16, 16), 50.0), np.full((16, 16), 60.0))
    assert flat.shape == (16, 16)
    np.testing.assert_allclose(flat, expected, rtol=1e-6)
