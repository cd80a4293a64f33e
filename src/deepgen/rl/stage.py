"""Stage 3, reinforcement learning (MR-GRPO): sample, score, improve.

A rollout draws groups of images for prompts; several rewards judge a group while the next is drawn;
advantages over the images of all processes say which should become likelier. Then follow exactly
`updates_per_rollout` optimizer steps. All randomness is keyed by the number of a group, an image or a
rollout, so it is the same on any number of processes and after a restart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from deepgen.data.mixture import Mixture
from deepgen.data.prompts import PromptMix
from deepgen.models.errors import NotFiniteError
from deepgen.moved import renamed
from deepgen.rewards.ensemble import RewardEnsemble, TooManyFailures
from deepgen.rewards.reward import ScoreOutOfRange
from deepgen.rewards.reward_batch import RewardBatch
from deepgen.rl.advantages import AdvantageBatch, advantages
from deepgen.rl.config import RLSettings
from deepgen.rl.contact_sheet import ContactSheet
from deepgen.rl.evaluation import RLEvaluation
from deepgen.rl.judged_prompts import open_judged_prompts
from deepgen.rl.log_prob_gap import LogProbGap
from deepgen.rl.objective import ObjectiveLoss
from deepgen.rl.policy import Policy
from deepgen.rl.policy_steps import PolicySteps
from deepgen.rl.rollout_buffer import PolicyBatch, Rollout, RolloutBuffer, update_parts
from deepgen.rl.rollout_metrics import Metrics, ScoreRemarks, flat_shares, score_metrics, total_metrics
from deepgen.rl.rollout_sampler import RolloutSampler
from deepgen.training.config import StageLoss
from deepgen.training.objective import TrainingBatch
from deepgen.training.parallel import Processes
from deepgen.training.randomness import generator
from deepgen.training.supervised_stage import SupervisedStage
from deepgen.training.trained_pipeline import TrainedPipeline
from deepgen.transfer import to_host

logger = logging.getLogger(__name__)

# Names in the log; what is before the slash shares a panel of the curves.
_PANELS = {
    "ratio": "ratio",
    "clip_low": "clip/low",
    "clip_high": "clip/high",
    "kl": "kl",
    "approx_kl": "approx_kl",
}


class RLStage:
    """Rollouts, their scores, and micro-batches of the policy's loss.

    Args:
        config: the recipe.
        processes: this process among the others.
        pipe: the model; its parts are changed in place.
        mix: prompts.
        ensemble: rewards.
        mixture: data of the supervised loss that is mixed in; None where none is.

    Attributes:
        buffer: the last rollout, with its rewards and advantages.
    """

    def __init__(
        self,
        config: RLSettings,
        processes: Processes,
        pipe: TrainedPipeline,
        mix: PromptMix,
        ensemble: RewardEnsemble,
        mixture: Mixture | None = None,
    ) -> None:
        self.config, self.processes, self.pipe = config, processes, pipe
        self.mix, self.ensemble = mix, ensemble
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
            config, processes, self.policy, self.objective, mix, ensemble, self.supervised.dtype
        )
        self.policy_steps = PolicySteps(config, self.policy, self.objective, self.device)
        self.period = config.updates_per_rollout  # a run is stopped and saved between rollouts only
        self.buffer: RolloutBuffer | None = None
        self._gap = LogProbGap(config.max_log_prob_gap)
        self._is_first_update = False  # of a rollout: the weights are still those it was drawn with
        self._remarks = ScoreRemarks()
        self._first_look: RLEvaluation | None = None
        self.observers = self._observers()
        self._metrics: Metrics = {}
        self._drawn_at = 0  # optimizer steps before the last rollout

    def _observers(self) -> list[Any]:
        config, found = self.config, list[Any]()
        if config.sheet_every and self.processes.is_main:
            found.append(ContactSheet(self, config.sheet_every, config.sheet_groups))
        if config.evaluation.prompts is not None and self.processes.is_main:
            judged = open_judged_prompts(config.evaluation.prompts, config.rewards, config.panel)
            self._first_look = RLEvaluation(config.evaluation, self, *judged)
            found.append(self._first_look)
        return found + self.supervised.observers  # benchmarks and validation, as in the other stages

    def batches(self, step: int) -> Iterator[PolicyBatch | TrainingBatch]:
        """This process's micro-batches of an optimizer step; the first of a rollout samples and scores it.

        Those of the supervised loss come first: while they are computed, the rewards judge the last groups.
        """
        number, update = divmod(step, self.config.updates_per_rollout)
        self._is_first_update = update == 0
        rollouts = self.sample(number) if update == 0 else None
        if self.config.sft_coef:
            yield from self.supervised.batches(step)
        if rollouts is not None:
            self.buffer = self.score(number, rollouts)
        if self.buffer is None or self.buffer.number != number:
            raise ValueError(f"step {step} is inside a rollout; a run goes on from a rollout's beginning")
        self._metrics = self.buffer.metrics if update == 0 else {}
        places = len(self.rollout_sampler.window(number).trained) or self.config.num_levels
        yield from self.buffer.micro_batches(update, places, self.config.micro_batch_size)

    # --- sample ---------------------------------------------------------------------------------------------

    def sample(self, number: int) -> list[Rollout]:
        """Draw this process's groups of a rollout; rewards judge them meanwhile."""
        self._metrics = self._first_look(0) if number == 0 and self._first_look is not None else {}
        started, self._drawn_at = time.perf_counter(), number * self.config.updates_per_rollout
        self.rollout_sampler.num_forwards = 0
        rollouts = self._draw(number, self.rollout_sampler.groups_of(number))
        self._metrics["seconds/sample"] = (time.perf_counter() - started, 1.0)
        return rollouts

    def _draw(self, number: int, groups: Sequence[int]) -> list[Rollout]:
        with self.supervised.autocast():
            return self.rollout_sampler.sample(number, groups)

    # --- score ----------------------------------------------------------------------------------------------

    def score(self, number: int, rollouts: Sequence[Rollout]) -> RolloutBuffer:
        """Wait for the rewards and compute advantages; flat groups are replaced if configured."""
        config, rollouts, started = self.config, list(rollouts), time.perf_counter()
        if (number + 1) * config.updates_per_rollout < config.num_steps:
            with self.supervised.autocast():
                self.rollout_sampler.read_ahead(number + 1)
        own = self.collect(rollouts)  # of this process
        rewards, worth = self.compare(own)  # of all
        num_flat, attempt, metrics = len(worth.flat), 0, dict(own.metrics)
        while config.flat_groups == "resample" and len(worth.flat) and attempt < config.max_resamples:
            attempt += 1
            others = self._draw(number, self.rollout_sampler.groups_of(number, attempt)[: len(worth.flat)])
            more = self.collect(others)
            metrics |= more.metrics
            own = own.without(worth.flat.numpy(), config.group_size) + more
            rollouts += others
            rewards, worth = self.compare(own)
        buffer = RolloutBuffer(number, rollouts, rewards, worth, self._parts(number, rewards, worth))
        seconds = time.perf_counter() - started
        with self.supervised.autocast():
            self.policy_steps.remember(rollouts)
        buffer.metrics = self._rollout_metrics(buffer, num_flat, seconds, metrics)
        return buffer

    def collect(self, rollouts: Sequence[Rollout]) -> RewardBatch:
        """Wait for what the rewards say about this process's images.

        Raises:
            NotFiniteError: on every process, where an image of one of them is NaN; what rewards say of it
                would be a score of a black picture.
            ScoreOutOfRange: on every process, where a reward of one of them does not keep to its range.
            TooManyFailures: on every process, where a reward of one of them fails too often.
        """
        self._require_finite(rollouts)
        rewards, problem = None, None
        try:
            rewards = self.ensemble.collect()
        except (ScoreOutOfRange, TooManyFailures) as error:
            problem = type(error), str(error)
        problems = [found for found in self.processes.gather(problem) if found]
        if rewards is None or problems:
            kind, text = problems[0]
            raise kind(text)
        return rewards.numbered([number for rollout in rollouts for number in rollout.numbers])

    def _require_finite(self, rollouts: Sequence[Rollout]) -> None:
        finite = [torch.isfinite(one.trajectory.clean).flatten(1).all(dim=1) for one in rollouts]
        numbers = [
            number
            for rollout, known in zip(rollouts, to_host(finite), strict=True)
            for number, is_finite in zip(rollout.numbers, known, strict=True)
            if not is_finite
        ]
        broken = [number for found in self.processes.gather(numbers) for number in found]
        if broken:
            shown = ", ".join(map(str, broken[:4])) + (", ..." if len(broken) > 4 else "")
            raise NotFiniteError(
                f"the rollout's latents are NaN or infinite in {len(broken)} images (numbers {shown}): the "
                "policy has diverged, or its number format is too small",
                self._drawn_at,
            )

    def compare(self, own: RewardBatch) -> tuple[RewardBatch, AdvantageBatch]:
        """Gather the scores of all processes and compute each image's advantage in its group."""
        rewards = RewardBatch.gather(self.processes.gather(own))
        groups = rewards.numbers // self.config.group_size
        table = [
            torch.from_numpy(values) for values in (rewards.rewards, rewards.valid, rewards.weights, groups)
        ]
        precision = torch.tensor(self.ensemble.precisions)
        return rewards, advantages(
            self.config.advantage, *table, clip=self.config.advantage_clip, precision=precision
        )

    def _parts(self, number: int, rewards: RewardBatch, worth: AdvantageBatch) -> list[list[int]]:
        """Numbers of the images of each update: those that teach something."""
        kept = worth.has_signal.numpy().copy()
        if self.config.flat_groups != "keep":
            kept &= ~np.isin(worth.groups.numpy(), worth.flat.numpy())
        rng = generator(self.config.seed, "updates", number)
        return update_parts(rewards.numbers[kept].tolist(), self.config.updates_per_rollout, rng)

    # --- improve --------------------------------------------------------------------------------------------

    def loss(self, batch: PolicyBatch | TrainingBatch) -> StageLoss:
        """A micro-batch's share of (1 - lambda) RL + lambda supervised loss."""
        if isinstance(batch, TrainingBatch):
            found = self.supervised.loss(batch)
            named = {f"sft/{name}": value for name, value in found.metrics.items()}
            return StageLoss(self.config.sft_coef * found.loss, named, found.flops)
        with self.supervised.autocast():
            result = self.losses(batch)
        loss = result.per_sample.sum() * batch.share * (1 - self.config.sft_coef)
        metrics: dict[str, tuple[float | torch.Tensor, float]] = {}
        for name, values in result.metrics.items():
            if name == "log_prob_gap":
                if self._is_first_update:
                    self._gap.add(batch.rollout.trajectory.sigma[batch.place], values)
                continue
            metrics[_PANELS.get(name, f"policy/{name}")] = (values.sum(), float(len(values)))
        if "ratio" in result.metrics:
            metrics["ratio_error"] = ((result.metrics["ratio"] - 1).abs().max(), 1.0)
        return StageLoss(loss, metrics)

    def check_step(self) -> None:
        """Before an update: PolicyMismatch where another policy is trained than the one that drew."""
        self._gap.check()

    def losses(self, batch: PolicyBatch) -> ObjectiveLoss:
        """The objective of a micro-batch, one loss an image."""
        return self.objective(self.policy_steps(batch))

    # --- the log --------------------------------------------------------------------------------------------

    def take_metrics(self) -> Metrics:
        """What a rollout has to say of itself, once, with its first optimizer step."""
        metrics, self._metrics = self._metrics, {}
        return metrics | (self._gap.take(self.processes) if self._is_first_update else {})

    def _rollout_metrics(
        self, buffer: RolloutBuffer, num_flat: int, seconds: float, of_rewards: dict[str, float]
    ) -> Metrics:
        """What `sample` noted, and what the scores say, each as (sum, count); remarks go to the terminal."""
        worth, tallies = buffer.advantages, buffer.rewards.tallies
        shares = flat_shares(buffer.rewards, worth.groups.numpy(), self.ensemble.precisions)
        once = {
            "rollout": float(buffer.number),
            "advantage/abs": float(np.abs(worth.values.numpy()).mean()),
            "advantage/signal_share": float(worth.has_signal.numpy().mean()),
            "groups/flat_share": num_flat / self.config.prompts_per_rollout,
            "seconds/score": seconds,
            "dit_passes": float(sum(self.processes.gather(self.rollout_sampler.num_forwards))),
        }
        once |= {f"groups/flat_share of {name}": share for name, (share, _) in shares.items()}
        for name, value in of_rewards.items():
            reward, _, kind = name.rpartition("/")
            if kind not in ("mean", "std"):  # those of all processes come from the tallies
                once[f"{kind}/{reward}"] = value
        metrics = {name: (value, 1.0) for name, value in once.items()} | self._metrics
        if not self.processes.is_main:  # all processes know the scores, and counts are added up
            return metrics
        for remark in self._remarks(buffer.number, tallies, shares):
            logger.warning("%s", remark)
        groups = set(worth.groups.tolist())
        sets = {group: self.mix.dataset_of(self.config.seed, group) for group in groups}
        return metrics | score_metrics(tallies) | total_metrics(worth, sets, each=len(self.mix.sets) > 1)


__getattr__ = renamed(__name__, {"RLConfig": "deepgen.rl.recipe.RLConfig"})
