"""Advantages by hand, with rewards that are missing, constant, or alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepgen.rl.advantages import NAMES, AdvantageBatch, advantages, flat_groups, weighted_totals

TINY = 1e-4


def run(
    name: str,
    rewards: list[list[float]],
    groups: list[int],
    valid: list[list[bool]] | None = None,
    weights: list[list[float]] | None = None,
    clip: float = 5.0,
) -> AdvantageBatch:
    matrix = torch.tensor(rewards)
    return advantages(
        name,
        matrix,
        torch.ones_like(matrix, dtype=torch.bool) if valid is None else torch.tensor(valid),
        torch.ones_like(matrix) if weights is None else torch.tensor(weights),
        torch.tensor(groups),
        clip,
    )


def close(ours: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_gdpo_on_two_images_and_three_rewards_by_hand() -> None:
    """Two images of one prompt; the second reward is constant, the third disagrees with the first."""
    weights = [[0.2, 0.1, 0.7]] * 2
    result = run("gdpo", [[1.0, 5.0, 0.0], [3.0, 5.0, 4.0]], [0, 0], weights=weights)
    # Half the distance over its unbiased std: 1 / sqrt 2, 0 and 2 / (2 sqrt 2).
    first = 1 / (math.sqrt(2) + TINY)
    third = 2 / (2 * math.sqrt(2) + TINY)
    combined = 0.2 * first + 0.7 * third
    std = combined * math.sqrt(2)  # of -combined and +combined
    close(result.values, [-combined / (std + TINY), combined / (std + TINY)])
    assert result.has_signal.all()


def test_gdpo_gives_the_weight_of_a_missing_reward_to_the_others_of_that_image() -> None:
    rewards = [[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]]
    result = run(
        "gdpo",
        rewards,
        [0, 0, 0],
        valid=[[True, True], [True, False], [True, True]],
        weights=[[1.0, 3.0]] * 3,
    )
    z_first = [-1 / (1 + TINY), 0.0, 1 / (1 + TINY)]
    spread = 0.5 / (math.sqrt(0.5) + TINY)  # of the two valid ones, 0 and 1
    combined = torch.tensor([z_first[0] - 3 * spread, 4 * z_first[1], z_first[2] + 3 * spread])
    close(result.values, ((combined - combined.mean()) / (combined.std() + TINY)).tolist())


def test_a_missing_reward_is_not_a_zero() -> None:
    """Whatever stands where nothing was judged, NaN included, changes no advantage."""
    valid = [[True, True], [True, False], [True, True], [False, True]]
    for name in NAMES:
        results = [
            run(
                name, [[1.0, 0.5], [2.0, rubbish], [4.0, 0.1], [rubbish, 0.9]], [0, 0, 0, 0], valid=valid
            ).values
            for rubbish in (0.0, 100.0, math.nan)
        ]
        assert torch.equal(results[0], results[1]), name
        assert torch.equal(results[0], results[2]), name
        assert results[0].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_nobody_judged_gets_nothing_and_is_marked(name: str) -> None:
    result = run(name, [[1.0], [3.0], [9.0]], [0, 0, 0], valid=[[True], [True], [False]])
    assert result.has_signal.tolist() == [True, True, False]
    assert float(result.values[2]) == 0
    alone = run(name, [[1.0], [3.0]], [0, 0]).values
    torch.testing.assert_close(result.values[:2], alone)


@pytest.mark.parametrize("name", ["grpo", "grpo_global_std", "gdpo"])
def test_one_valid_reward_in_a_group_has_nothing_to_be_compared_with(name: str) -> None:
    valid = [[True], [False], [True], [True]]
    result = run(name, [[7.0], [0.0], [1.0], [2.0]], [4, 4, 9, 9], valid=valid)
    assert result.has_signal.tolist() == [False, False, True, True]
    assert result.values[:2].tolist() == [0, 0]
    assert float(result.values[3]) > 0 > float(result.values[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_reward_gives_advantages_of_zero(name: str) -> None:
    result = run(name, [[0.1], [0.1], [0.1], [0.1]], [0, 0, 1, 1])
    assert result.values.tolist() == pytest.approx([0] * 4, abs=1e-9)


def test_grpo_divides_by_the_std_of_the_group_and_its_sibling_by_that_of_the_batch() -> None:
    rewards, groups = [[1.0], [2.0], [10.0], [30.0]], [0, 0, 1, 1]
    group = [0.5 / (math.sqrt(0.5) + TINY), 10 / (math.sqrt(200) + TINY)]
    close(run("grpo", rewards, groups).values, [-group[0], group[0], -group[1], group[1]])
    std = float(torch.tensor([1.0, 2.0, 10.0, 30.0]).std()) + TINY
    close(run("grpo_global_std", rewards, groups).values, [-0.5 / std, 0.5 / std, -10 / std, 10 / std])
    close(run("reinforcepp", rewards, groups).values, [(r - 10.75) / std for r in (1, 2, 10, 30)])


def test_a_reward_with_a_wide_range_drowns_another_in_grpo_and_not_in_gdpo() -> None:
    rewards = [[100.0, 0.0], [101.0, 0.0], [100.0, 1e-2], [101.0, 1e-2]]
    grpo, gdpo = (run(name, rewards, [0] * 4).values for name in ("grpo", "gdpo"))
    assert float((grpo[1] - grpo[2]).abs()) > 1
    assert float((gdpo[1] - gdpo[2]).abs()) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_images_may_come_in_any_order(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, valid = torch.rand(12, 3, generator=generator), torch.rand(12, 3, generator=generator) > 0.2
    weights, groups = torch.rand(12, 3, generator=generator), torch.arange(12) // 4 * 10 - 10
    order = torch.randperm(12, generator=generator)
    whole = advantages(name, rewards, valid, weights, groups)
    mixed = advantages(name, rewards[order], valid[order], weights[order], groups[order])
    torch.testing.assert_close(mixed.values, whole.values[order])
    assert torch.equal(mixed.has_signal, whole.has_signal[order])


def test_a_reward_that_an_image_does_not_want_is_not_looked_at() -> None:
    weights = [[1.0, 0.0], [1.0, 0.0]]
    for name in NAMES:
        close(
            run(name, [[1.0, math.nan], [2.0, 9.0]], [0, 0], weights=weights).values,
            run(name, [[1.0], [2.0]], [0, 0]).values.tolist(),
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", [1e-7, 3e-7])
def test_rounding_noise_of_a_saturated_batch_gives_no_gradient(name: str, noise: float) -> None:
    noisy = [[0.93 + noise * sign] for sign in (0, 1, -1, 1, -1, -1, 0, 1)]
    assert len({value for (value,) in torch.tensor(noisy).tolist()}) > 1  # float32 tells them apart
    result = run(name, noisy, [0, 0, 0, 0, 1, 1, 1, 1])
    assert result.values.tolist() == [0.0] * 8
    assert result.flat.tolist() == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_noise_of_one_group_stays_nothing_beside_another_that_differs(name: str) -> None:
    result = run(name, [[0.5 + 1e-7], [0.5 - 1e-7], [0.0], [1.0]], [0, 0, 1, 1])
    assert result.flat.tolist() == [0]
    assert result.values[:2].abs().max() == 0 if name != "reinforcepp" else True
    assert result.values[3] > 0.5 > -0.5 > result.values[2]


def test_noise_of_one_reward_does_not_drown_the_others_of_its_group() -> None:
    both = run("gdpo", [[0.93 + 1e-7, 0.0], [0.93 - 1e-7, 0.5], [0.93, 1.0]], [0, 0, 0])
    alone = run("gdpo", [[0.0], [0.5], [1.0]], [0, 0, 0])
    close(both.values, alone.values.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_small_rewards_that_differ_are_not_taken_for_noise(name: str) -> None:
    result = run(name, [[1e-5], [3e-5], [2e-5], [2e-5]], [0, 0, 1, 1])
    assert result.flat.tolist() == [1]
    assert result.values[1] > 0 > result.values[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_that_declares_a_coarser_precision_is_equal_within_it(name: str) -> None:
    matrix, groups = torch.tensor([[0.25], [0.251], [0.2505], [0.2495]]), torch.tensor([0, 0, 1, 1])
    whole = torch.ones_like(matrix)
    coarse = advantages(name, matrix, whole.bool(), whole, groups, precision=torch.tensor([0.002]))
    assert coarse.values.tolist() == [0.0] * 4
    assert coarse.flat.tolist() == [0, 1]
    fine = advantages(name, matrix, whole.bool(), whole, groups, precision=torch.tensor([0.0]))
    assert fine.values.abs().min() > 0
    with pytest.raises(ValueError, match="precision must be"):
        advantages(name, matrix, whole.bool(), whole, groups, precision=torch.tensor([-1.0]))


def test_advantages_are_clipped() -> None:
    rewards = [[0.0]] * 63 + [[1.0]]
    assert float(run("grpo", rewards, [0] * 64).values.max()) == 5
    assert float(run("grpo", rewards, [0] * 64, clip=math.inf).values.max()) > 7


def test_the_total_keeps_the_weight_of_an_image() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.5, math.nan], [math.nan, math.nan]])
    totals = weighted_totals(rewards, rewards.isfinite(), torch.tensor([[0.2, 0.8]] * 3))
    close(totals[:2], [0.2, 0.5])
    assert totals[2].isnan()


def test_groups_whose_rewards_are_all_equal_are_named() -> None:
    rewards = torch.tensor([[0.1, 1.0], [0.1, 1.0], [0.1, 1.0], [0.2, 1.0], [0.3, 1.0], [9.0, 1.0]])
    valid = torch.tensor([[True, True]] * 5 + [[False, True]])
    groups = torch.tensor([7, 7, 3, 3, 5, 5])
    assert flat_groups(rewards, valid, torch.ones(6, 2), groups).tolist() == [5, 7]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="known: grpo"):
        run("ppo", [[1.0]], [0])
    with pytest.raises(ValueError, match="not finite"):
        run("grpo", [[math.nan], [1.0]], [0, 0])
    with pytest.raises(ValueError, match="0 or more"):
        run("grpo", [[1.0], [1.0]], [0, 0], weights=[[-1.0], [1.0]])
    with pytest.raises(ValueError, match="groups"):
        run("grpo", [[1.0], [1.0]], [0])
