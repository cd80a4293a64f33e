"""The objectives: what pulls where, when nothing pulls, and that batch-mates do not matter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deepgen.rl.objective import ObjectiveLoss, PolicyStep, summary
from deepgen.rl.objectives import make_objective, objective_names
from deepgen.rl.policy_gradient import clipped_loss, gaussian_kl
from deepgen.sampling.sde import NAMES

SIGMA, SIGMA_NEXT = torch.tensor([1.0, 0.9, 0.6, 0.4]), torch.tensor([0.9, 0.6, 0.4, 0.2])
TRAJECTORY = [
    ("flow_grpo", {}),
    ("grpo_guard", {"variant": "paper"}),
    ("grpo_guard", {"variant": "flow_factory"}),
]


def recorded(sampler: str = "flow", moved: float = 0.0, seed: int = 0) -> PolicyStep:
    """A rollout's step in bfloat16, and a policy that has moved since by that much."""
    generator = torch.Generator().manual_seed(seed)
    old, noisy, noise, reference, change, clean = torch.randn(6, 4, 2, 8, 8, generator=generator)
    step = PolicyStep(
        velocity=old,
        noisy=noisy.bfloat16(),
        sigma=SIGMA,
        sigma_next=SIGMA_NEXT,
        advantages=torch.tensor([1.0, -0.5, 2.0, -1.5]),
        clean=clean,
        old_velocity=old,
        reference_velocity=reference,
        sampler=sampler,
        eta=0.7,
        sigma_max=0.9,
    )
    drawn = step.transition()
    stored = drawn.sample(noise, torch.bfloat16)
    return dataclasses.replace(
        step,
        velocity=(old + moved * change).requires_grad_(),
        next_noisy=stored,
        old_log_prob=drawn.log_prob(stored),
        old_mean=drawn.mean,
    )


def rows(step: PolicyStep, some: slice) -> PolicyStep:
    """Some samples of a step."""
    tensors = {name: value[some] for name, value in vars(step).items() if isinstance(value, Tensor)}
    return dataclasses.replace(step, **tensors)


def gradient(step: PolicyStep, loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, step.velocity, retain_graph=True)[0]


def any_sampler(name: str) -> dict[str, Any]:
    return {"is_any_sampler_allowed": True} if name == "grpo_guard" else {}


@pytest.mark.parametrize("sampler", NAMES)
@pytest.mark.parametrize(("name", "options"), TRAJECTORY)
def test_before_the_first_update_every_ratio_is_one(name: str, options: dict[str, Any], sampler: str) -> None:
    losses = make_objective(name, **options, **any_sampler(name))(recorded(sampler))
    assert torch.equal(losses.metrics["ratio"], torch.ones(4))
    assert not losses.metrics["approx_kl"].any()


def test_rounding_an_old_log_prob_to_bfloat16_would_leave_the_clip_range() -> None:
    """Why both log-probs stay in float32: a fault of the original's."""
    step = recorded()
    rounded = dataclasses.replace(step, old_log_prob=step.need("old_log_prob").bfloat16())
    ratio = make_objective("flow_grpo")(rounded).metrics["ratio"]
    assert ((ratio - 1).abs() > 1e-4).any()


@pytest.mark.parametrize(("name", "options"), [*TRAJECTORY, ("nft", {}), ("nft", {"variant": "upstream"})])
def test_losses_and_gradients_do_not_depend_on_batch_mates(name: str, options: dict[str, Any]) -> None:
    if name != "nft":
        options = {**options, "clip_range": 0.5}
    step, objective = recorded(moved=0.01), make_objective(name, **options)
    whole = objective(step)
    expected = gradient(step, whole.per_sample.sum() / len(step))
    for size in (1, 2, 3):
        parts = [objective(rows(step, slice(i, i + size))) for i in range(0, 4, size)]
        torch.testing.assert_close(torch.cat([p.per_sample for p in parts]), whole.per_sample)
        total = torch.stack([gradient(step, part.per_sample.sum() / len(step)) for part in parts]).sum(0)
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-9)


def test_a_ratio_beyond_the_clip_in_the_direction_of_its_advantage_has_no_gradient() -> None:
    ratio = torch.tensor([1.2, 0.8, 1.2, 0.8, 1.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    loss, metrics = clipped_loss(ratio, advantages, 0.1)
    assert loss.tolist() == pytest.approx([-1.1, -0.8, 1.2, 0.9, -2.0])
    (grad,) = torch.autograd.grad(loss.sum(), ratio)
    assert grad.tolist()[:4] == [0, -1, 1, 0]
    assert metrics["clip_high"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["clip_low"].tolist() == [0, 0, 0, 1, 0]


def test_a_pair_of_clip_ranges_is_two_offsets_of_one() -> None:
    ratio = torch.tensor([0.5, 1.5])
    loss, _ = clipped_loss(ratio, torch.tensor([-1.0, 1.0]), (-0.3, 0.2))
    assert loss.tolist() == pytest.approx([0.7, -1.2])


def test_a_step_of_the_policy_that_went_too_far_gets_no_gradient() -> None:
    """The clip at work in the whole objective: A > 0, rho > 1 + c."""
    step = recorded(moved=0.05)
    objective = make_objective("flow_grpo", clip_range=1e-6, kl_coef=0.0)
    losses = objective(step)
    grad = gradient(step, losses.per_sample.sum()).abs().flatten(1).sum(1)
    is_clipped = (losses.metrics["clip_low"] + losses.metrics["clip_high"]).bool()
    assert is_clipped.any()
    assert not is_clipped.all()
    assert torch.equal(grad == 0, is_clipped)


@pytest.mark.parametrize("sampler", NAMES)
def test_a_step_down_the_loss_makes_good_samples_likelier(sampler: str) -> None:
    step, objective = recorded(sampler), make_objective("flow_grpo", kl_coef=0.0)
    moved = step.velocity - 1e-2 * gradient(step, objective(step).per_sample.sum())
    ratio = objective(dataclasses.replace(step, velocity=moved)).metrics["ratio"]
    assert ((ratio - 1) * step.advantages > 0).all()


@pytest.mark.parametrize("kind", ["velocity", "mean"])
def test_the_kl_is_zero_against_the_policy_itself(kind: str) -> None:
    step = recorded()
    step = dataclasses.replace(step, reference_velocity=step.velocity.detach())
    losses = make_objective("flow_grpo", kl=kind, kl_coef=1.0)(step)
    assert not losses.metrics["kl"].any()
    plain = make_objective("flow_grpo", kl_coef=0.0)(step)
    assert torch.equal(losses.per_sample, plain.per_sample)


def test_the_kl_of_a_shifted_reference_by_hand() -> None:
    """A velocity off by 0.2 at sigma 0.6, next 0.2, with dance and eta 0.5: std^2 = 0.25 * 0.4."""
    step = rows(recorded("dance"), slice(2, 3))
    step = dataclasses.replace(
        step, eta=0.5, sigma_next=torch.tensor([0.2]), reference_velocity=step.velocity.detach() - 0.2
    )
    by_velocity = make_objective("flow_grpo", kl="velocity", kl_coef=1.0)(step).metrics["kl"]
    assert float(by_velocity) == pytest.approx(0.2**2 / (2 * 0.1), rel=1e-5)
    by_mean = make_objective("flow_grpo", kl="mean", kl_coef=1.0)(step).metrics["kl"]
    slope = -0.4 - 0.5 * 0.25 * 0.6 / 0.36 * 0.4 * 0.4  # of the mean in the velocity
    assert float(by_mean) == pytest.approx((slope * 0.2) ** 2 / (2 * 0.1), rel=1e-4)


def test_the_kl_pulls_towards_the_reference_and_gives_it_no_gradient() -> None:
    ours, reference = torch.ones(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
    gaussian_kl(ours, reference, 0.5).sum().backward()
    assert ours.grad is not None
    assert (ours.grad > 0).all()
    assert reference.grad is None


def test_both_guards_are_the_same_ratio_and_the_paper_weighs_by_the_step() -> None:
    """Algebra: (d + m / 2 a^2) a = d a + m / 2 a."""
    step = recorded(moved=0.02)
    paper, factory = (
        make_objective("grpo_guard", variant=variant, clip_range=0.5, kl_coef=0.0)(step)
        for variant in ("paper", "flow_factory")
    )
    torch.testing.assert_close(paper.metrics["ratio"], factory.metrics["ratio"], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        paper.per_sample, factory.per_sample / (SIGMA - SIGMA_NEXT), rtol=1e-5, atol=1e-6
    )


def test_a_guarded_ratio_is_the_drawn_noise_times_the_move_of_the_mean() -> None:
    """log rho = mean(eps * D): no bias below 1, and the same width at every noise level."""
    step = recorded(moved=0.05)
    drawn = step.transition(step.old_velocity)
    eps = (step.need("next_noisy").float() - drawn.mean) / drawn.std
    expected = (eps * (step.transition().mean - drawn.mean)).flatten(1).mean(1)
    ratio = make_objective("grpo_guard", kl_coef=0.0)(step).metrics["ratio"]
    torch.testing.assert_close(ratio.log(), expected, rtol=1e-3, atol=1e-6)


def test_the_guard_refuses_samplers_without_the_noise_it_normalises() -> None:
    with pytest.raises(ValueError, match="sampler 'flow', got 'cps'"):
        make_objective("grpo_guard")(recorded("cps"))


def nft_step(advantage: float, velocity: Tensor) -> PolicyStep:
    """Clean latents with known noise; velocity 0 everywhere would be noise = clean."""
    generator = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 1, 2, 4, 4, generator=generator)
    noisy, sigma = make_objective("nft").renoise(clean, noise, torch.tensor([0.5]))
    return PolicyStep(
        velocity=velocity, noisy=noisy, sigma=sigma, clean=clean, advantages=torch.tensor([advantage])
    )


def test_nft_by_hand() -> None:
    """One element, velocity off by 1 from an old one that was off by 2."""
    one = torch.ones(1, 1, 1, 1)
    step = PolicyStep(
        velocity=one, old_velocity=2 * one, noisy=0.5 * one, sigma=torch.tensor([0.5]),
        clean=0.5 * one, advantages=torch.tensor([2.5]),
    )  # fmt: skip
    losses = make_objective("nft", kl_coef=0.0)(step)
    # noisy - sigma v = clean for v = 0; v+ = 0.9 * 2 + 0.1 = 1.9, v- = 1.1 * 2 - 0.1 = 2.1
    positive, negative = 0.5 * 1.9, 0.5 * 2.1  # error^2 / |error|
    good = 2.5 / 10 + 0.5
    assert float(losses.per_sample) == pytest.approx(
        5 * (good * positive + (1 - good) * negative) / 0.1, rel=1e-5
    )
    assert float(losses.metrics["good"]) == pytest.approx(good)


def test_nft_goes_towards_a_good_sample_and_away_from_a_bad_one() -> None:
    target = nft_step(0.0, torch.zeros(1, 2, 4, 4))
    exact = (target.noisy - target.need("clean")) / target.sigma  # the velocity that leads to the sample
    velocity = (exact + 0.3).requires_grad_()
    for advantage, direction in ((5.0, 1), (-5.0, -1)):
        step = nft_step(advantage, velocity)
        grad = gradient(step, make_objective("nft", kl_coef=0.0)(step).per_sample.sum())
        assert (grad * direction > 0).all()
    neutral = nft_step(0.0, velocity)
    grad = gradient(neutral, make_objective("nft", kl_coef=0.0)(neutral).per_sample.sum())
    assert grad.abs().max() < 1e-6  # on-policy, v+ and v- pull equally


def test_nft_with_a_perfect_velocity_has_nothing_to_learn_from_good_samples() -> None:
    target = nft_step(0.0, torch.zeros(1, 2, 4, 4))
    exact = ((target.noisy - target.need("clean")) / target.sigma).requires_grad_()
    step = nft_step(5.0, exact)
    losses = make_objective("nft", kl_coef=0.0)(step)
    assert float(losses.per_sample.detach()) == pytest.approx(0, abs=1e-4)


def test_nft_trains_on_clean_latents_and_upstream_on_the_next_noisy_ones() -> None:
    assert make_objective("nft").works_on == "clean"
    assert make_objective("nft", variant="upstream").works_on == "trajectory"
    step = recorded()
    same = dataclasses.replace(step, next_noisy=step.clean)
    options = dict(kl_coef=0.0)
    assert torch.equal(
        make_objective("nft", variant="upstream", **options)(same).per_sample,
        make_objective("nft", **options)(step).per_sample,
    )


def test_fresh_noise_lies_on_the_straight_path_at_shifted_levels() -> None:
    clean, noise = torch.randn(2, 5, 2, 4, 4)
    u = torch.tensor([0.0, 0.2, 0.5, 0.8, 0.999])
    noisy, sigma = make_objective("nft", shift=3.0).renoise(clean, noise, u)
    assert float(sigma[0]) == 1
    assert float(sigma[2]) == pytest.approx(3 * 0.5 / 2)
    assert ((sigma > 0) & (sigma.diff(prepend=sigma[:1] + 1) < 0)).all()
    torch.testing.assert_close(noisy, clean + sigma.view(-1, 1, 1, 1) * (noise - clean))


@pytest.mark.parametrize("name", objective_names())
def test_every_objective_names_what_it_misses(name: str) -> None:
    objective = make_objective(name, kl_coef=0.1)
    step = recorded(moved=0.01)
    assert set(objective.needs) <= {field.name for field in dataclasses.fields(PolicyStep)}
    assert objective(step).per_sample.shape == (4,)
    for missing in objective.needs:
        with pytest.raises(ValueError, match=missing):
            objective(dataclasses.replace(step, **{missing: None}))


@pytest.mark.parametrize("name", objective_names())
def test_what_an_objective_does_not_need_changes_nothing(name: str) -> None:
    objective, step = make_objective(name, kl_coef=0.0), recorded(moved=0.01)
    assert "reference_velocity" not in objective.needs
    optional = {"sigma_next", "next_noisy", "clean", "old_log_prob", "old_mean", "reference_velocity"}
    bare = dataclasses.replace(step, **dict.fromkeys(optional - set(objective.needs)))
    assert torch.equal(objective(bare).per_sample, objective(step).per_sample)


@pytest.mark.parametrize("name", objective_names())
def test_16_bit_inputs_are_lossless_and_the_loss_is_float32(name: str) -> None:
    objective, step = make_objective(name), recorded(moved=0.01)
    names = ("velocity", "noisy", "next_noisy", "clean", "reference_velocity", "old_velocity")
    halves = {name: getattr(step, name).bfloat16() for name in names}
    widened = {name: value.float() for name, value in halves.items()}
    loss = objective(dataclasses.replace(step, **halves))
    assert loss.per_sample.dtype == torch.float32
    assert all(metric.dtype == torch.float32 for metric in loss.metrics.values())
    assert torch.equal(loss.per_sample, objective(dataclasses.replace(step, **widened)).per_sample)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ppo", {}, "known: flow_grpo, grpo_guard, nft"),
        ("flow_grpo", {"beta": 1.0}, "flow_grpo has: clip_range, kl_coef, kl"),
        ("flow_grpo", {"clip_range": 0.0}, "clip_range"),
        ("flow_grpo", {"clip_range": (0.8, 1.2)}, "offsets"),
        ("flow_grpo", {"kl_coef": -1.0}, "kl_coef"),
        ("flow_grpo", {"kl": "v"}, "known: velocity, mean"),
        ("grpo_guard", {"variant": "other"}, "known: paper, flow_factory"),
        ("nft", {"beta": 0.0}, "beta"),
        ("nft", {"kl_coef": math.nan}, "kl_coef"),
    ],
)
def test_impossible_settings_fail_at_once(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective(name, **options)


def test_a_summary_is_the_mean_over_all_samples_of_uneven_micro_batches() -> None:
    losses = [
        ObjectiveLoss(torch.zeros(1), {"ratio": torch.tensor([0.5])}),
        ObjectiveLoss(torch.zeros(3), {"ratio": torch.tensor([1.0, 1.0, 1.5])}),
    ]
    numbers = {name: float(value) for name, value in summary(losses).items()}
    assert numbers == {"ratio": 1.0, "ratio_min": 0.5, "ratio_max": 1.5}
