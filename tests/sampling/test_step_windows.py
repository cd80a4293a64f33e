"""Which steps are stochastic and which are trained."""

from __future__ import annotations

from collections import Counter

import pytest

from deepgen.sampling.windows import WindowConfig


def test_the_recipe_trains_30_of_50_steps_and_never_the_last() -> None:
    config = WindowConfig(trained_fraction=0.6)
    counts: Counter[int] = Counter()
    for rollout in range(400):
        window = config.select(50, rollout)
        assert window.stochastic == tuple(range(50))
        assert len(set(window.trained)) == 30
        assert list(window.trained) == sorted(window.trained)
        counts.update(window.trained)
    assert set(counts) == set(range(49))
    expected = 400 * 30 / 49  # std of a count is sqrt(400 * 0.61 * 0.39) = 10
    assert max(abs(count - expected) for count in counts.values()) < 50


def test_a_fraction_of_one_trains_all_steps_but_the_last() -> None:
    assert WindowConfig(trained_fraction=1.0).select(10, 0).trained == tuple(range(9))
    assert WindowConfig().select(10, 0).trained == tuple(range(9))


def test_a_small_fraction_trains_one_step() -> None:
    assert len(WindowConfig(trained_fraction=0.01).select(10, 0).trained) == 1


def test_a_fixed_window_stays() -> None:
    config = WindowConfig(kind="fixed", start=1, size=3)
    assert all(config.select(10, rollout).stochastic == (1, 2, 3) for rollout in range(5))
    assert config.select(10, 0).trained == (1, 2, 3)


def test_the_last_step_may_be_noisy_but_is_not_trained() -> None:
    window = WindowConfig(kind="fixed", start=2, size=2).select(4, 0)
    assert window.stochastic == (2, 3)
    assert window.trained == (2,)


def test_a_sliding_window_moves_and_begins_again() -> None:
    config = WindowConfig(kind="sliding", size=2, stride=2, slide_every=3)
    firsts = [config.select(6, rollout).stochastic[0] for rollout in range(12)]
    assert firsts == [0, 0, 0, 2, 2, 2, 4, 4, 4, 0, 0, 0]


def test_a_random_window_goes_everywhere_it_fits() -> None:
    config = WindowConfig(kind="random", start=1, size=2)
    firsts = {config.select(6, rollout).stochastic[0] for rollout in range(100)}
    assert firsts == {1, 2, 3, 4}


def test_three_of_the_first_five_steps() -> None:
    window = WindowConfig(kind="fixed", size=5, num_trained=3).select(10, 0)
    assert len(window.trained) == 3
    assert set(window.trained) <= set(window.stochastic) == set(range(5))


def test_every_process_selects_the_same_steps_and_every_rollout_others() -> None:
    one, other = (WindowConfig(kind="random", size=4, num_trained=2, seed=7) for _ in range(2))
    windows = [one.select(20, rollout) for rollout in range(50)]
    assert windows == [other.select(20, rollout) for rollout in range(50)]
    assert len(set(windows)) > 30
    assert windows != [
        WindowConfig(kind="random", size=4, num_trained=2, seed=8).select(20, r) for r in range(50)
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "half"}, "known: full"),
        ({"size": 0}, "size of a window"),
        ({"num_trained": 0}, "num_trained"),
        ({"trained_fraction": 0.0}, "trained_fraction"),
        ({"trained_fraction": 1.5}, "trained_fraction"),
        ({"num_trained": 2, "trained_fraction": 0.5}, "not both"),
        ({"start": 3}, "starts at step 0"),
    ],
)
def test_impossible_windows_fail_when_they_are_made(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowConfig(**fields)


def test_a_window_that_does_not_fit_is_refused_before_the_first_rollout() -> None:
    with pytest.raises(ValueError, match="needs 7 steps, got 5"):
        WindowConfig(kind="fixed", start=3, size=4).check(5)
    with pytest.raises(ValueError, match="fewer than 2"):
        WindowConfig(kind="sliding", size=2, num_trained=2).check(4)
    with pytest.raises(ValueError, match="at least 2 steps"):
        WindowConfig().check(1)
