"""Stage 3, reinforcement learning (MR-GRPO): sample, score, improve.

A rollout draws groups of images for prompts, several rewards judge them while the next group is drawn, and
advantages over all processes' images say which should become likelier. Then follow exactly
`updates_per_rollout` optimizer steps. All randomness is keyed by the number of a group, an image or a
rollout, so it is the same on any number of processes and after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deepgen.data.mixture import Mixture, open_mixture
from deepgen.data.pixels import to_output
from deepgen.data.prompts import Prompt, PromptMix, open_prompts
from deepgen.diffusion.sde import check_sampler
from deepgen.pipeline import DeepGenPipeline
from deepgen.rewards.panel import Panel, PanelConfig, TooManyFailures
from deepgen.rewards.reward import Candidate
from deepgen.rewards.scorers import make_reward
from deepgen.rl.advantages import advantages, check_advantages, flat_groups, weighted_totals
from deepgen.rl.objective import Objective, ObjectiveLoss, PolicyStep
from deepgen.rl.objectives import make_objective
from deepgen.rl.rollout import Trajectory, roll_out
from deepgen.rl.windows import Window, WindowConfig
from deepgen.train.adapters import LoraSettings
from deepgen.train.experience import Experience, Judged, PolicyBatch, Rollout, Scored, update_parts
from deepgen.train.loop import StageLoss
from deepgen.train.objective import TrainingBatch
from deepgen.train.optim import OptimConfig
from deepgen.train.overrides import override
from deepgen.train.parallel import Processes
from deepgen.train.policy import Asked, Policy
from deepgen.train.randomness import generator, normal, stratified
from deepgen.train.rl_evaluation import RLEvaluation, RLEvaluationConfig
from deepgen.train.rl_sheet import Sheet
from deepgen.train.supervised import SupervisedConfig, SupervisedStage

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

FlatGroups = Literal["drop", "keep", "resample"]


@dataclass(frozen=True, kw_only=True)
class RLConfig(SupervisedConfig):
    """What is drawn, how it is judged and how the policy follows.

    `data`, `global_batch_size`, `dropout` and `levels` are those of the supervised loss that is mixed in
    where `sft_coef` is above 0. The defaults are a cheap rollout; the recipe `rl-published` has the published
    one.

    Attributes:
        prompts: a mix of prompts (.yaml), or a .txt, .jsonl or .parquet file scored with `rewards`.
        rewards: weights of a file's rewards, as `name=weight`.
        group_size: images of a prompt, which are compared with each other.
        prompts_per_rollout: groups of a rollout, on all processes together.
        updates_per_rollout: optimizer steps that follow it. `num_steps` counts optimizer steps.
        num_inference_steps: solver steps of a rollout.
        sampler, eta: the stochastic sampler and its noise (diffusion/sde.py).
        window: which steps are stochastic, and which are trained.
        num_levels: noise levels an image is trained at, for objectives that work on clean latents.
        guidance_scale: of rollout and loss; 1 draws without the negative branch.
        shares_noise: images of a group begin with the same noise.
        height, width: of what is drawn, pixels; default the model's own, or an edit's source's.
        rollout_batch_size: images of a forward pass of the rollout; default `micro_batch_size`.
        objective, objective_options: name of a file in rl/objectives, and its fields as `name=value`.
        advantage, advantage_clip: name of a way in rl/advantages.py, and the largest value.
        flat_groups: what becomes of groups in which all rewards are equal.
        max_resamples: how many times they are replaced by groups of other prompts.
        sft_coef: lambda of (1 - lambda) RL + lambda supervised loss, in each optimizer step.
        panel: time-outs, retries and failure limits of rewards.
        evaluation: fixed prompts that are drawn and judged as a user would see them.
        sheet_every: optimizer steps between pictures of a rollout with rewards and advantages; 0 draws none.
        sheet_groups: groups on such a picture.
    """

    num_steps: int = 500
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-4, muon_lr=None, warmup_steps=5, decay_share=0.0, betas=(0.9, 0.999)
        )
    )
    ema_decay: float | None = None
    trains_connector: bool = False
    transformer_lora: LoraSettings | None = field(
        default_factory=lambda: LoraSettings(rank=32, alpha=64, dropout=0.0)
    )
    num_workers: int = 0
    save_every: int = 50
    log_every: int = 1
    prompts: Path | None = None
    rewards: tuple[str, ...] = ()
    group_size: int = 8
    prompts_per_rollout: int = 32
    updates_per_rollout: int = 1
    num_inference_steps: int = 12
    sampler: str = "cps"
    eta: float = 0.8
    window: WindowConfig = field(default_factory=lambda: WindowConfig(kind="random", size=4))
    num_levels: int = 4
    guidance_scale: float = 1.0
    shares_noise: bool = True
    height: int | None = None
    width: int | None = None
    rollout_batch_size: int | None = None
    objective: str = "flow_grpo"
    objective_options: tuple[str, ...] = ()
    advantage: str = "gdpo"
    advantage_clip: float = 5.0
    flat_groups: FlatGroups = "drop"
    max_resamples: int = 2
    sft_coef: float = 0.0
    panel: PanelConfig = field(default_factory=PanelConfig)
    evaluation: RLEvaluationConfig = field(default_factory=RLEvaluationConfig)
    sheet_every: int = 20
    sheet_groups: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        counts = {
            name: getattr(self, name)
            for name in ("prompts_per_rollout", "updates_per_rollout", "num_levels", "max_resamples")
        }
        wrong = [name for name, value in counts.items() if value < 1]
        if wrong:
            raise ValueError(f"{wrong[0]} must be at least 1, got {counts[wrong[0]]}")
        if self.group_size < 2:
            raise ValueError(f"a group of {self.group_size} has nobody to be compared with; group_size >= 2")
        if self.num_steps % self.updates_per_rollout or self.save_every % self.updates_per_rollout:
            raise ValueError(
                f"num_steps {self.num_steps} and save_every {self.save_every} count optimizer steps and must "
                f"be multiples of updates_per_rollout {self.updates_per_rollout}"
            )
        if not 0 <= self.sft_coef < 1:
            raise ValueError(f"sft_coef must be in [0, 1), got {self.sft_coef}")
        if self.sharding != "none":
            raise ValueError(
                f"a rollout draws with the whole model on each process, got sharding {self.sharding!r}; "
                "set sharding=none, and a LoRA where the weights do not fit"
            )
        for name in ("transformer_lora", "vlm_lora"):
            settings = getattr(self, name)
            if settings is not None and settings.dropout:
                raise ValueError(
                    f"{name}.dropout {settings.dropout} makes the policy another one at every look; set 0"
                )
        check_sampler(self.sampler, self.eta)
        check_advantages(self.advantage, self.advantage_clip)
        objective = self.made_objective()
        if objective.works_on == "trajectory":
            self.window.check(self.num_inference_steps)
        elif self.shares_noise:
            raise ValueError(
                f"objective {self.objective} draws along the ODE, where equal noise gives equal images; "
                "set shares_noise=false"
            )

    @property
    def images_per_step(self) -> float:
        """Images drawn per optimizer step."""
        return self.prompts_per_rollout * self.group_size / self.updates_per_rollout

    def made_objective(self) -> Objective:
        """The objective with its options."""
        wrong = [option for option in self.objective_options if "=" not in option]
        if wrong:
            raise ValueError(f"objective option {wrong[0]!r} is not name=value")
        changes = dict(option.split("=", 1) for option in self.objective_options)
        made: Any = make_objective(self.objective)
        return override(made, changes)

    def build(self, processes: Processes) -> RLStage:
        """The stage, with its model, prompts and rewards opened."""
        if self.prompts is None:
            raise ValueError(
                "prompts is not set; give a .yaml mix, or a file of prompts and --rewards NAME=1"
            )
        mix = open_prompts(self.prompts, _weights(self.rewards))
        panel = make_panel(mix, self.panel)
        mixture = self._mixture()
        pipe = DeepGenPipeline.from_pretrained(self.model, torch_dtype=self.dtype(processes.device))
        return RLStage(self, processes, pipe, mix, panel, mixture)

    def _mixture(self) -> Mixture | None:
        if not self.sft_coef:
            return None
        if self.data is None:
            raise ValueError(f"sft_coef {self.sft_coef} needs data: the mixture file of stage 2")
        return open_mixture(self.data, self.data_root)


def make_panel(mix: PromptMix, config: PanelConfig) -> Panel:
    """The rewards a mix of prompts names; ValueError where one is unknown."""
    names = dict.fromkeys((*mix.reward_names, *mix.held_out))
    rewards = {}
    for name in names:
        options = dict(mix.rewards.get(name, {}))
        rewards[name] = make_reward(str(options.pop("scorer", name)), **options)
    panel = Panel(rewards, held_out=mix.held_out, config=config)
    for one in mix.sets:
        panel.check_weights(one.rewards)
    return panel


def _weights(assignments: Sequence[str]) -> dict[str, float]:
    wrong = [text for text in assignments if "=" not in text]
    if wrong:
        raise ValueError(f"reward {wrong[0]!r} is not name=weight; try --rewards ocr=1.0 clip_sim=0.3")
    pairs = (text.split("=", 1) for text in assignments)
    return {name: float(weight) for name, weight in pairs}


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
        panel: Panel,
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
        self.period = config.updates_per_rollout  # a run is stopped and saved between rollouts only
        self.experience: Experience | None = None
        self.observers: list[Any] = []
        if config.sheet_every and processes.is_main:
            self.observers.append(Sheet(self, config.sheet_every, config.sheet_groups))
        self._first_look: RLEvaluation | None = None
        if config.evaluation.prompts is not None and processes.is_main:
            looked_at = open_prompts(config.evaluation.prompts, _weights(config.rewards))
            self._first_look = RLEvaluation(
                config.evaluation, self, looked_at, make_panel(looked_at, config.panel)
            )
            self.observers.append(self._first_look)
        self.observers += self.supervised.observers  # benchmarks and validation, as in the other stages
        self._metrics: dict[str, tuple[float, float]] = {}
        self._old_velocities: dict[int, Tensor] = {}  # by the first image of a rollout, (B, levels, C, h, w)
        self._panel_metrics: dict[str, float] = {}
        self._forwards = 0  # of one image through the DiT, in the current rollout

    # --- the three verbs ------------------------------------------------------------------------------------

    def batches(self, step: int) -> Iterator[PolicyBatch | TrainingBatch]:
        """This process's micro-batches of an optimizer step; the first of a rollout draws and judges it."""
        number, update = divmod(step, self.config.updates_per_rollout)
        if update == 0:
            self.experience = self.explore(number)
        if self.experience is None or self.experience.number != number:
            raise ValueError(f"step {step} is inside a rollout; a run goes on from a rollout's beginning")
        self._metrics = self.experience.metrics if update == 0 else {}
        places = len(self._window(number).trained) or self.config.num_levels
        yield from self.experience.micro_batches(update, places, self.config.micro_batch_size)
        if self.config.sft_coef:
            yield from self.supervised.batches(step)

    def explore(self, number: int) -> Experience:
        """A whole rollout: sample, score, and say what each image is worth."""
        config = self.config
        look = self._first_look(0) if number == 0 and self._first_look is not None else {}
        started = time.perf_counter()
        self._forwards, self._panel_metrics = 0, {}
        groups = [number * self._groups_reserved + n for n in range(config.prompts_per_rollout)]
        rollouts = self.sample(number, groups)
        sampled = time.perf_counter()
        scores = self.score(rollouts)
        judged = self.judge(scores)
        num_flat, attempt = len(judged.flat), 0
        while config.flat_groups == "resample" and len(judged.flat) and attempt < config.max_resamples:
            attempt += 1
            first = number * self._groups_reserved + attempt * config.prompts_per_rollout
            others = self.sample(number, [first + n for n in range(len(judged.flat))])
            scores = scores.without(judged.flat, config.group_size) + self.score(others)
            rollouts += others
            judged = self.judge(scores)
        kept = judged.has_signal.copy()
        if config.flat_groups != "keep":
            kept &= ~np.isin(judged.groups, judged.flat)
        rng = generator(config.seed, "updates", number)
        parts = update_parts(judged.scores.numbers[kept].tolist(), config.updates_per_rollout, rng)
        scored = time.perf_counter()
        self._old_velocities = self._remember_velocities(rollouts)
        once = {
            "rollout": float(number),
            "advantage/abs": float(np.abs(judged.advantages).mean()),
            "advantage/signal_share": float(judged.has_signal.mean()),
            "groups/flat_share": num_flat / config.prompts_per_rollout,
            "seconds/sample": sampled - started,
            "seconds/score": scored - sampled,
            "dit_passes": self._forwards * self.processes.world_size,
            **self._panel_metrics,
        }
        if not np.isnan(judged.totals).all():
            once["reward"] = float(np.nanmean(judged.totals))
        return Experience(
            number=number,
            rollouts=rollouts,
            judged=judged,
            parts=parts,
            metrics={name: (value, 1.0) for name, value in once.items()} | look,
        )

    def sample(self, number: int, groups: Sequence[int]) -> list[Rollout]:
        """Draw this process's share of some groups; each goes to the rewards as soon as it is drawn."""
        config = self.config
        own = list(groups[self.processes.rank :: self.processes.world_size])
        prompts = [self.mix.draw(config.seed, group) for group in own]
        with torch.no_grad(), self.supervised.autocast():
            generators = [torch.Generator().manual_seed(_torch_seed(config.seed, group)) for group in own]
            asked = self.policy.ask(prompts, generators, config.height, config.width)
            rollouts = []
            for members in _alike(asked):
                size = config.rollout_batch_size or config.micro_batch_size
                per_pass = max(1, size // config.group_size)
                for begin in range(0, len(members), per_pass):
                    some = members[begin : begin + per_pass]
                    rollout = self._draw(number, [asked[n] for n in some], [own[n] for n in some])
                    rollouts.append(rollout)
                    self._submit(rollout)
        return rollouts

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

    # --- drawing --------------------------------------------------------------------------------------------

    @property
    def _groups_reserved(self) -> int:
        """Numbers of groups of one rollout, with those that replace others."""
        extra = self.config.max_resamples if self.config.flat_groups == "resample" else 0
        return self.config.prompts_per_rollout * (1 + extra)

    def _window(self, number: int) -> Window:
        if self.objective.works_on == "clean":
            return Window((), ())
        return self.config.window.select(self.config.num_inference_steps, number)

    def _draw(self, number: int, asked: list[Asked], groups: Sequence[int]) -> Rollout:
        config, count = self.config, self.config.group_size
        rows = [row for row in range(len(asked)) for _ in range(count)]
        numbers = [group * count + n for group in groups for n in range(count)]
        factor = self.pipe.vae_scale_factor
        height, width = (side // factor for side in asked[0].size)
        shape = (self.pipe.transformer.config.in_channels, height, width)
        begins = [group for group in groups for _ in range(count)] if config.shares_noise else numbers
        noise = torch.stack([normal(config.seed, "rollout noise", begin, shape) for begin in begins])

        def step_noise(step: int) -> Tensor:
            return torch.stack([normal(config.seed, f"noise of step {step}", n, shape) for n in numbers])

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            self._count_forwards(len(noisy), guided=asked[0].negative is not None)
            return self.policy.velocity(asked, rows, noisy, sigma)

        trajectory = roll_out(
            velocity,
            noise.to(self.device, self.supervised.dtype),
            self.policy.sigmas(config.num_inference_steps, (height, width)),
            self._window(number),
            step_noise,
            sampler=config.sampler,
            eta=config.eta,
            keeps=[name for name in ("mean",) if f"old_{name}" in self.objective.needs],
        )
        images = to_output(list(self.policy.decode(trajectory.clean)), "pil")
        return Rollout(asked, rows, numbers, trajectory, images)

    def _submit(self, rollout: Rollout) -> None:
        count = self.config.group_size
        for begin in range(0, len(rollout.images), count):
            prompt: Prompt = rollout.asked[rollout.rows[begin]].prompt
            group = [
                Candidate(
                    image=image, prompt=prompt.text, references=prompt.references, metadata=prompt.metadata
                )
                for image in rollout.images[begin : begin + count]
            ]
            self.panel.submit(group, prompt.weights)

    def _count_forwards(self, images: int, *, guided: bool) -> None:
        self._forwards += images * (2 if guided else 1)

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
        asked, rows = self._compact(rollout, members)
        if self.policy.is_condition_trained:
            asked = self.policy.read_again(asked)
        known = self._recorded(rollout.trajectory, members, batch.place, rollout.numbers)
        if rollout.numbers[0] in self._old_velocities:
            known["old_velocity"] = self._old_velocities[rollout.numbers[0]][members, batch.place]
        noisy, sigma = known["noisy"], known["sigma"]
        velocity = self.policy.velocity(asked, rows, noisy, sigma)
        if self.objective.kl_coef:
            with torch.no_grad():
                known["reference_velocity"] = self.policy.velocity(
                    asked, rows, noisy, sigma, by_reference=True
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
                        self.policy.velocity(rollout.asked, rollout.rows, known["noisy"], known["sigma"])
                    )
            found[rollout.numbers[0]] = torch.stack(velocities, dim=1)
        return found

    @staticmethod
    def _compact(rollout: Rollout, members: Sequence[int]) -> tuple[list[Asked], list[int]]:
        """The prompts of some images, and which of them each is of."""
        used = sorted({rollout.rows[n] for n in members})
        return [rollout.asked[row] for row in used], [used.index(rollout.rows[n]) for n in members]

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


def _alike(asked: Sequence[Asked]) -> list[list[int]]:
    """Places of prompts that can be drawn together: of one size, and with equally many references."""
    kinds: dict[Any, list[int]] = {}
    for n, one in enumerate(asked):
        kinds.setdefault((one.size, len(one.references)), []).append(n)
    return list(kinds.values())


def _torch_seed(seed: int, group: int) -> int:
    """A generator's seed for the references of a group."""
    return int(generator(seed, "references", group).integers(2**62))
