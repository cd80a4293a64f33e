"""The stage of reinforcement learning: explore, judge, and the policy's loss.

All randomness is keyed by the number of a group, an image or a rollout, so it is the same on any number of
processes and after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deepgen.data.mixture import Mixture
from deepgen.data.prompts import PromptMix
from deepgen.pipeline import DeepGenPipeline
from deepgen.rewards.ensemble import RewardEnsemble, TooManyFailures
from deepgen.rl.advantages import advantages, flat_groups, weighted_totals
from deepgen.rl.objective import ObjectiveLoss, PolicyStep
from deepgen.sampling.rollout import Trajectory
from deepgen.train.experience import Drawn, Experience, Judged, PolicyBatch, Rollout, Scored, update_parts
from deepgen.train.judged_prompts import open_judged_prompts
from deepgen.train.loop import StageLoss
from deepgen.train.objective import TrainingBatch
from deepgen.train.parallel import Processes
from deepgen.train.policy import EncodedPrompt, Policy
from deepgen.train.randomness import generator, normal, stratified
from deepgen.train.rl_evaluation import RLEvaluation
from deepgen.train.rl_sheet import Sheet
from deepgen.train.rollouts import RolloutSampler
from deepgen.train.supervised import SupervisedStage

if TYPE_CHECKING:
    from deepgen.train.stages.rl import RLConfig

# Names in the log; what is before the slash shares a panel of the curves.
_PANELS = {
    "mean": "reward/{}",
    "std": "reward_std/{}",
    "ratio": "ratio",
    "clip_low": "clip/low",
    "clip_high": "clip/high",
    "kl": "kl",
    "approx_kl": "approx_kl",
}


class RLStage:
    """Rollouts, their judgement, and micro-batches of the policy's loss.

    Args:
        config: the recipe.
        processes: this process among the others.
        pipe: the model; its parts are changed in place.
        mix: prompts.
        panel: rewards.
        mixture: data of the supervised loss that is mixed in; None where none is.
    """

    def __init__(
        self,
        config: RLConfig,
        processes: Processes,
        pipe: DeepGenPipeline,
        mix: PromptMix,
        panel: RewardEnsemble,
        mixture: Mixture | None = None,
    ) -> None:
        self.config, self.processes, self.pipe, self.mix, self.panel = config, processes, pipe, mix, panel
        self.supervised = SupervisedStage(config, processes, pipe, mixture)
        self.modules, self.device = self.supervised.modules, self.supervised.device
        pipe.set_progress_bar_config(disable=True)
        self.objective = config.made_objective()
        self.policy = Policy(
            pipe,
            guidance_scale=config.guidance_scale,
            is_condition_trained=config.trains_connector or config.vlm_lora is not None,
            has_reference=self.objective.kl_coef > 0,
            device=self.device,
        )
        self.rollout_sampler = RolloutSampler(
            config, processes, self.policy, self.objective, mix, panel, self.supervised.dtype
        )
        self.period = config.updates_per_rollout  # a run is stopped and saved between rollouts only
        self.experience: Experience | None = None
        self.observers: list[Any] = []
        if config.sheet_every and processes.is_main:
            self.observers.append(Sheet(self, config.sheet_every, config.sheet_groups))
        self._first_look: RLEvaluation | None = None
        if config.evaluation.prompts is not None and processes.is_main:
            judged = open_judged_prompts(config.evaluation.prompts, config.rewards, config.panel)
            self._first_look = RLEvaluation(config.evaluation, self, *judged)
            self.observers.append(self._first_look)
        self.observers += self.supervised.observers  # benchmarks and validation, as in the other stages
        self._metrics: dict[str, tuple[float, float]] = {}
        self._old_velocities: dict[int, Tensor] = {}  # by the first image of a rollout, (B, levels, C, h, w)
        self._panel_metrics: dict[str, float] = {}

    # --- the three verbs ------------------------------------------------------------------------------------

    def batches(self, step: int) -> Iterator[PolicyBatch | TrainingBatch]:
        """This process's micro-batches of an optimizer step; the first of a rollout draws and judges it.

        Those of the supervised loss come first: while they are computed, the rewards judge the last groups.
        """
        number, update = divmod(step, self.config.updates_per_rollout)
        drawn = self.sample(number) if update == 0 else None
        if self.config.sft_coef:
            yield from self.supervised.batches(step)
        if drawn is not None:
            self.experience = self.weigh(drawn)
        if self.experience is None or self.experience.number != number:
            raise ValueError(f"step {step} is inside a rollout; a run goes on from a rollout's beginning")
        self._metrics = self.experience.metrics if update == 0 else {}
        places = len(self.rollout_sampler.window(number).trained) or self.config.num_levels
        yield from self.experience.micro_batches(update, places, self.config.micro_batch_size)

    def explore(self, number: int) -> Experience:
        """A whole rollout: sample, score, and say what each image is worth."""
        return self.weigh(self.sample(number))

    def sample(self, number: int) -> Drawn:
        """Draw the groups of a rollout; rewards judge them meanwhile."""
        look = self._first_look(0) if number == 0 and self._first_look is not None else {}
        started = time.perf_counter()
        self.rollout_sampler.num_forwards, self._panel_metrics = 0, {}
        rollouts = self._sample(number, self.rollout_sampler.groups_of(number))
        return Drawn(number, rollouts, time.perf_counter() - started, look)

    def weigh(self, drawn: Drawn) -> Experience:
        """Wait for the rewards, and say what each image is worth; flat groups are replaced if configured."""
        config, number, rollouts = self.config, drawn.number, drawn.rollouts
        started = time.perf_counter()
        if (number + 1) * config.updates_per_rollout < config.num_steps:
            with self.supervised.autocast():
                self.rollout_sampler.read_ahead(number + 1)
        scores = self.score(rollouts)
        judged = self.judge(scores)
        num_flat, attempt = len(judged.flat), 0
        while config.flat_groups == "resample" and len(judged.flat) and attempt < config.max_resamples:
            attempt += 1
            others = self._sample(number, self.rollout_sampler.groups_of(number, attempt)[: len(judged.flat)])
            scores = scores.without(judged.flat, config.group_size) + self.score(others)
            rollouts += others
            judged = self.judge(scores)
        kept = judged.has_signal.copy()
        if config.flat_groups != "keep":
            kept &= ~np.isin(judged.groups, judged.flat)
        rng = generator(config.seed, "updates", number)
        parts = update_parts(judged.scores.numbers[kept].tolist(), config.updates_per_rollout, rng)
        seconds = time.perf_counter() - started
        self._old_velocities = self._remember_velocities(rollouts)
        once = {
            "rollout": float(number),
            "advantage/abs": float(np.abs(judged.advantages).mean()),
            "advantage/signal_share": float(judged.has_signal.mean()),
            "groups/flat_share": num_flat / config.prompts_per_rollout,
            "seconds/sample": drawn.seconds,
            "seconds/score": seconds,
            "dit_passes": float(sum(self.processes.gather(self.rollout_sampler.num_forwards))),
            **self._panel_metrics,
            **self._mean_totals(judged),
        }
        return Experience(
            number=number,
            rollouts=rollouts,
            judged=judged,
            parts=parts,
            metrics={name: (value, 1.0) for name, value in once.items()} | drawn.look,
        )

    def _mean_totals(self, judged: Judged) -> dict[str, float]:
        """`reward` of all images, and `reward_of/SET` of each set's where there are several."""
        names = {group: self.mix.dataset_of(self.config.seed, int(group)) for group in set(judged.groups)}
        datasets = np.array([names[group] for group in judged.groups])
        by_name = {"reward": judged.totals}
        if len(self.mix.sets) > 1:
            by_name |= {f"reward_of/{name}": judged.totals[datasets == name] for name in np.unique(datasets)}
        return {name: float(np.nanmean(one)) for name, one in by_name.items() if not np.isnan(one).all()}

    def _sample(self, number: int, groups: Sequence[int]) -> list[Rollout]:
        with self.supervised.autocast():
            return self.rollout_sampler.sample(number, groups)

    def score(self, rollouts: Sequence[Rollout]) -> Scored:
        """Wait for what the rewards say about this process's images.

        Raises:
            TooManyFailures: on every process, where a reward of one of them fails too often.
        """
        scores, problem = None, ""
        try:
            scores = self.panel.collect()
        except TooManyFailures as error:
            problem = str(error)
        problems = [found for found in self.processes.gather(problem) if found]
        if scores is None or problems:
            raise TooManyFailures(problems[0])
        numbers = [number for rollout in rollouts for number in rollout.numbers]
        for name, value in scores.metrics.items():
            reward, _, kind = name.rpartition("/")
            self._panel_metrics[_PANELS.get(kind, f"{kind}/{{}}").format(reward)] = value
        return Scored(
            numbers=np.array(numbers, dtype=np.int64),
            rewards=scores.rewards,
            valid=scores.valid,
            weights=scores.weights,
            held_out=scores.held_out,
            held_out_valid=scores.held_out_valid,
            words=dict(zip(numbers, scores.words, strict=True)),
        )

    def judge(self, scores: Scored) -> Judged:
        """Gather scores from all processes and say what each image is worth beside the others."""
        everyone = Scored.gather(self.processes.gather(scores))
        groups = everyone.numbers // self.config.group_size
        table = [
            torch.from_numpy(values)
            for values in (everyone.rewards, everyone.valid, everyone.weights, groups)
        ]
        worth = advantages(self.config.advantage, *table, clip=self.config.advantage_clip)
        return Judged(
            scores=everyone,
            groups=groups,
            totals=weighted_totals(*table[:3]).numpy(),
            advantages=worth.values.numpy(),
            has_signal=worth.has_signal.numpy(),
            flat=flat_groups(*table).numpy(),
        )

    # --- improving ------------------------------------------------------------------------------------------

    def loss(self, batch: PolicyBatch | TrainingBatch) -> StageLoss:
        """A micro-batch's share of (1 - lambda) RL + lambda supervised loss."""
        metrics: dict[str, tuple[float, float]] = {}
        if isinstance(batch, TrainingBatch):
            found = self.supervised.loss(batch)
            named = {f"sft/{name}": value for name, value in found.metrics.items()}
            return StageLoss(self.config.sft_coef * found.loss, metrics | named, found.flops)
        with self.supervised.autocast():
            result = self.losses(batch)
        loss = result.per_sample.sum() * batch.share * (1 - self.config.sft_coef)
        for name, values in result.metrics.items():
            metrics[_PANELS.get(name, f"policy/{name}")] = (float(values.sum()), float(len(values)))
        if "ratio" in result.metrics:
            metrics["ratio_error"] = (float((result.metrics["ratio"] - 1).abs().max()), 1.0)
        return StageLoss(loss, metrics)

    def take_metrics(self) -> dict[str, tuple[float, float]]:
        """What a rollout has to say of itself, once, with its first optimizer step."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def losses(self, batch: PolicyBatch) -> ObjectiveLoss:
        """The objective of a micro-batch, one loss an image."""
        rollout, members = batch.rollout, batch.members
        prompts, rows = self._compact(rollout, members)
        if self.policy.is_condition_trained:
            prompts = self.policy.encode_again(prompts)
        known = self._recorded(rollout.trajectory, members, batch.place, rollout.numbers)
        if rollout.numbers[0] in self._old_velocities:
            known["old_velocity"] = self._old_velocities[rollout.numbers[0]][members, batch.place]
        noisy, sigma = known["noisy"], known["sigma"]
        velocity = self.policy.velocity(prompts, rows, noisy, sigma)
        if self.objective.kl_coef:
            with torch.no_grad():
                known["reference_velocity"] = self.policy.velocity(
                    prompts, rows, noisy, sigma, by_reference=True
                )
        return self.objective(
            PolicyStep(
                velocity=velocity,
                advantages=batch.advantages.to(self.device),
                sampler=self.config.sampler,
                eta=self.config.eta,
                sigma_max=rollout.trajectory.sigma_max,
                **known,
            )
        )

    @torch.no_grad()
    def _remember_velocities(self, rollouts: Sequence[Rollout]) -> dict[int, Tensor]:
        """What the policy that drew them says at the noise levels they will be trained at.

        Only where an objective on clean latents gets several updates: in the first the policy is the old one.
        """
        if self.objective.works_on != "clean" or self.config.updates_per_rollout == 1:
            return {}
        found = {}
        for rollout in rollouts:
            everyone = list(range(len(rollout.numbers)))
            velocities = []
            with self.supervised.autocast():
                for place in range(self.config.num_levels):
                    known = self._recorded(rollout.trajectory, everyone, place, rollout.numbers)
                    velocities.append(
                        self.policy.velocity(rollout.prompts, rollout.rows, known["noisy"], known["sigma"])
                    )
            found[rollout.numbers[0]] = torch.stack(velocities, dim=1)
        return found

    @staticmethod
    def _compact(rollout: Rollout, members: Sequence[int]) -> tuple[list[EncodedPrompt], list[int]]:
        """The prompts of some images, and which of them each is of."""
        used = sorted({rollout.rows[n] for n in members})
        return [rollout.prompts[row] for row in used], [used.index(rollout.rows[n]) for n in members]

    def _recorded(
        self, trajectory: Trajectory, members: Sequence[int], place: int, numbers: Sequence[int]
    ) -> dict[str, Tensor]:
        """Fields of a PolicyStep: of a recorded step, or clean latents at a fresh noise level."""
        if self.objective.works_on == "trajectory":
            known = {
                "noisy": trajectory.noisy[members, place],
                "next_noisy": trajectory.next_noisy[members, place],
                "old_log_prob": trajectory.log_prob[members, place],
                "sigma": trajectory.sigma[place].expand(len(members)),
                "sigma_next": trajectory.sigma_next[place].expand(len(members)),
            }
            if trajectory.mean is not None:
                known["old_mean"] = trajectory.mean[members, place]
            return known
        clean = trajectory.clean[members]
        own = [numbers[n] for n in members]
        shape = clean.shape[1:]
        noise = torch.stack([normal(self.config.seed, f"fresh noise {place}", n, shape) for n in own])
        levels = torch.tensor([stratified(self.config.seed, n, self.config.num_levels)[place] for n in own])
        renoise: Any = getattr(self.objective, "renoise")  # noqa: B009  of every objective on clean latents
        noisy, sigma = renoise(clean, noise.to(clean.device), levels.to(clean.device))
        return {"noisy": noisy.to(clean.dtype), "sigma": sigma, "clean": clean}
