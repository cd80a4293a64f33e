"""Recorded tensors of the original's reinforcement learning, run through the library; part of parity.py.

All of it is formulas in float32, so only the order of a few operations differs. Errors are relative to each
number, plus an absolute part for what cancels to about zero.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deepgen.data.pixels import to_output
from deepgen.data.prompts import Prompt
from deepgen.rl.advantages import advantages, weighted_totals
from deepgen.rl.objective import Objective, PolicyStep
from deepgen.rl.objectives import make_objective
from deepgen.rl.policy import EncodedPrompt, Policy
from deepgen.sampling.rollout import roll_out
from deepgen.sampling.sde import transition
from deepgen.sampling.windows import Window

if TYPE_CHECKING:
    from parity import Goldens, Section

CLOSE = (2e-6, 1e-5)  # atol, rtol of a formula in float32
# At sigma 0.009 the original's noisy - (1 - sigma) * clean cancels before it is divided by sigma^2, so the
# recorded mean itself is off by 1.3e-5 from float64; ours, a product, by 3e-7.
CANCELLED = (3e-5, 1e-5)
FOLLOWED = (2e-5, 1e-4)  # of four steps through the model, whose last digits add up
SAMPLERS = {"flowgrpo_sde": "flow", "cps_sde": "cps", "dance_sde": "dance"}
KINDS = {"v-based": "velocity", "x-based": "mean"}
CLIP_RANGES = {"clip_scalar": 1e-4, "clip_pair": (-0.3, 0.2)}
GUARDS = {"guard_ff": "flow_factory", "guard_paper": "paper"}


def check_sde(goldens: Goldens, pipe: Any, section: Section) -> None:
    """Mean, std and log-prob of every sampler's steps."""
    golden, entry = goldens.tensors("rl_sde"), goldens.section("rl_sde")
    sigmas = golden["sigmas"]
    for key in (key for key in golden if key.endswith(".log_prob")):
        case = key.removesuffix(".log_prob")
        name, eta = case.split(".eta")[0], float(case.split(".eta")[1].rpartition(".")[0])
        steps = torch.tensor(ast.literal_eval(entry["tensors"][key]["note"].removeprefix("step indices ")))
        step = transition(
            SAMPLERS[name],
            golden["model_output"],
            golden["sample"],
            sigmas[steps],
            sigmas[steps + 1],
            eta=eta,
            sigma_max=float(sigmas[1]),
        )
        tolerance = CANCELLED if name == "dance_sde" else CLOSE
        section.check(f"{case}.mean", step.mean, golden[f"{case}.mean"], tolerance)
        section.check(f"{case}.std_dev_t", step.kl_std, golden[f"{case}.std_dev_t"], CLOSE)
        section.check(f"{case}.sqrt_dt", step.sqrt_dt, golden[f"{case}.sqrt_dt"], CLOSE)
        section.check(key, step.log_prob(golden["next_sample"]), golden[key], CLOSE)


def check_advantages(goldens: Goldens, pipe: Any, section: Section) -> None:
    """Total rewards and all ways to advantages; "uniform" gives every reward the weight 1."""
    golden, entry = goldens.tensors("rl_adv"), goldens.section("rl_adv")
    rewards, size = golden["rewards_per_func"], entry["rollout_n"]
    columns = entry["reward_func_name_to_idx"]
    rows = torch.tensor([[config.get(name, 0.0) for name in columns] for config in entry["reward_config"]])
    weights, valid = rows.repeat_interleave(size, dim=0), torch.ones_like(rewards, dtype=torch.bool)
    groups = torch.arange(len(rewards)) // size
    section.check("rewards", weighted_totals(rewards, valid, weights), golden["rewards"], CLOSE)
    for key in golden:
        name, _, uniform = key.partition(".")
        if name not in ("rewards", "rewards_per_func"):
            ours = advantages(
                name, rewards, valid, torch.ones_like(rewards) if uniform else weights, groups, clip=1e3
            )
            section.check(key, ours.values, golden[key], CLOSE)


def recorded_step(goldens: Goldens, sampler: str) -> PolicyStep:
    """The batch of section rl_loss: four samples at four noise levels."""
    golden, constants = goldens.tensors("rl_loss"), goldens.section("rl_loss")["constants"]
    sigmas, steps = goldens.tensors("rl_sde")["sigmas"], torch.tensor(constants["timestep_indices"])
    step = PolicyStep(
        velocity=golden["model_pred"],
        noisy=golden["prev_latents"],
        sigma=sigmas[steps],
        sigma_next=sigmas[steps + 1],
        advantages=golden["advantages"],
        next_noisy=golden[f"{sampler}.next_latents"],
        old_log_prob=golden[f"{sampler}.old_log_prob"],
        old_velocity=golden["old_pred"],
        reference_velocity=golden["ref_pred"],
        sampler=SAMPLERS[sampler],
        eta=constants["eta"],
        sigma_max=float(sigmas[1]),
    )
    return with_fields(step, old_mean=step.transition(golden["old_pred"]).mean)


def with_fields(step: PolicyStep, **fields: Any) -> PolicyStep:
    """A step with other tensors."""
    return PolicyStep(**{**vars(step), **fields})


def recorded_loss(
    objective: Objective, step: PolicyStep, scale: float
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Metrics, the scaled mean loss, and its gradient in the first two channels of the velocity."""
    velocity = step.velocity.clone().requires_grad_()
    with torch.enable_grad():
        losses = objective(with_fields(step, velocity=velocity))
        loss = losses.per_sample.mean() * scale
        loss.backward()
    assert velocity.grad is not None
    return dict(losses.metrics), loss, velocity.grad[:, :2]


def check_policy_losses(goldens: Goldens, pipe: Any, section: Section) -> None:
    """Ratio, policy loss, KL, total and gradient of Flow-GRPO and both kinds of GRPO-Guard."""
    golden, constants = goldens.tensors("rl_loss"), goldens.section("rl_loss")["constants"]
    section.check("timesteps", recorded_step(goldens, "cps_sde").sigma, golden["timesteps"] / 1000, CLOSE)
    for sampler in SAMPLERS:
        step = recorded_step(goldens, sampler)
        old = step.transition(step.old_velocity)
        drawn = old.sample(golden["eps"], torch.float32)
        section.check(f"{sampler}.next_latents", drawn, golden[f"{sampler}.next_latents"], CLOSE)
        section.check(
            f"{sampler}.old_log_prob", old.log_prob(step.need("next_noisy")), step.old_log_prob, CLOSE
        )
    for key in (key for key in golden if key.endswith(".ratio")):
        case = key.removesuffix(".ratio")
        sampler, guard, kl, clip_range = case.split(".")
        options = dict(clip_range=CLIP_RANGES[clip_range], kl=KINDS[kl], kl_coef=constants["beta"])
        if guard == "guard_off":
            objective = make_objective("flow_grpo", **options)
        else:
            objective = make_objective(
                "grpo_guard",
                variant=GUARDS[guard],
                average="batch" if guard == "guard_paper" else "sample",
                is_any_sampler_allowed=True,
                **options,
            )
        metrics, loss, grad = recorded_loss(
            objective, recorded_step(goldens, sampler), constants["loss_scale"]
        )
        section.check(key, metrics["ratio"], golden[key], CLOSE)
        section.check(
            f"{case}.policy_loss", metrics["policy_loss"].mean(), golden[f"{case}.policy_loss"], CLOSE
        )
        section.check(f"{case}.kl", metrics["kl"], golden[f"{case}.kl"], CLOSE)
        section.check(f"{case}.loss", loss, golden[f"{case}.loss"], CLOSE)
        section.check(f"{case}.grad", grad, golden[f"{case}.grad"], CLOSE)


def check_nft(goldens: Goldens, pipe: Any, section: Section) -> None:
    """DiffusionNFT as the original computes it, on the trajectory: its variant "upstream"."""
    golden, entry = goldens.tensors("rl_nft"), goldens.section("rl_nft")
    objective = make_objective(
        "nft",
        variant="upstream",
        beta=entry["nft_beta"],
        adv_clip=entry["nft_adv_clip_range"],
        kl_coef=0.0,
    )
    scale = goldens.section("rl_loss")["constants"]["loss_scale"]
    for case in ("on_policy", "off_policy"):
        step = recorded_step(goldens, "flowgrpo_sde")
        if case == "on_policy":
            step = with_fields(step, old_velocity=None)
        metrics, loss, grad = recorded_loss(objective, step, scale)
        section.check(
            f"{case}.policy_loss", metrics["policy_loss"].mean(), golden[f"{case}.policy_loss"], CLOSE
        )
        section.check(f"{case}.loss", loss, golden[f"{case}.loss"], CLOSE)
        section.check(f"{case}.grad", grad, golden[f"{case}.grad"], CLOSE)


def check_rollout(goldens: Goldens, pipe: Any, section: Section) -> None:
    """Whole rollouts of the recorded model from the recorded noise: latents, log-probs, the first image."""
    golden, entry = goldens.tensors("rl_rollout"), goldens.section("rl_rollout")
    texts: list[str] = entry["prompts"]
    for case in sorted({key.removesuffix(".init_noise") for key in golden if key.endswith(".init_noise")}):
        recorded, _, scale = case.partition(".cfg")
        guidance_scale = float(scale) or 1.0  # 0 is the original's word for no guidance
        positive, negative = pipe.encode_prompt(texts, guided=guidance_scale > 1, padding="batch")
        encoded = [
            EncodedPrompt(
                Prompt(text=text, key=text, dataset="goldens", weights={}),
                (entry["height"], entry["width"]),
                None,
                [],
                positive.select([row]),
                None if negative is None else negative.select([row]),
            )
            for row, text in enumerate(texts)
        ]
        policy = Policy(
            pipe,
            guidance_scale=guidance_scale,
            is_condition_trained=False,
            has_reference=False,
            device=torch.device("cpu"),
        )
        noise = golden[f"{case}.init_noise"]
        num_steps = golden[f"{case}.timesteps"].shape[1]
        rows = [row for row in range(len(texts)) for _ in range(len(noise) // len(texts))]
        steps = tuple(range(num_steps))
        sigmas = policy.sigmas(num_steps, (noise.shape[-2], noise.shape[-1]))
        trajectory = roll_out(
            policy.rollout_velocity(encoded, rows, sigmas),
            noise,
            sigmas,
            Window(steps, steps),
            lambda step, case=case: golden[f"{case}.step_noise.{step}"],
            sampler=SAMPLERS[recorded],
            eta=entry["sde_eta"],
            keeps=("mean",),
        )
        assert trajectory.mean is not None
        ends = [0, num_steps - 1]
        section.check(f"{case}.timesteps", 1000 * trajectory.sigma, golden[f"{case}.timesteps"][0], CLOSE)
        section.check(f"{case}.pred_latents", trajectory.next_noisy, golden[f"{case}.pred_latents"], FOLLOWED)
        section.check(
            f"{case}.prev_latents", trajectory.noisy[:, ends], golden[f"{case}.prev_latents"], FOLLOWED
        )
        section.check(f"{case}.means", trajectory.mean[:, ends], golden[f"{case}.means"], FOLLOWED)
        section.check(f"{case}.log_probs", trajectory.log_prob, golden[f"{case}.log_probs"], FOLLOWED)
        first = to_output(list(policy.decode(trajectory.clean[:1])), "pil")[0]
        pixels = torch.from_numpy(np.asarray(first).astype(np.float32))
        section.check(f"{case}.image0", pixels, golden[f"{case}.image0"].float(), (1.0, 0.0))  # one rounding
