"""Reinforcement learning on `shapes`: does it teach what it is asked to, and only that?

    python benchmarks/shapes_rl.py OUTPUT --model MODEL [--recipes ours nft upstream supervised]

Each recipe is run with each seed, on captions and edits at once. Most prompts are of the weak kinds, others
of any. Before and after, the shapes benchmark asks its held-out prompts of every kind, drawn as in training
(without guidance unless `--guidance`) and as a user draws (the model's own guidance). With `--tuned-prompts`
the model's own guidance is chosen before and after, by the rewards of so many prompts of every kind; none of
them is the benchmark's. A run that is there is not repeated, one that was interrupted goes on. Writes
`shapes_rl.json`, `shapes_rl.md` and `shapes_rl.png`.

"upstream" is the published recipe, done right: 50 stochastic steps without guidance, 30 of them trained, one
update a rollout.
"supervised" is a control: the supervised loss alone, as often and on as many examples as it is mixed in.
The cost is counted in passes of one image through the DiT: one for each solver step, three for each trained
step (forward, and a backward of twice the work).
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tyro.conf import Positional, arg

from deepgen.evaluation.benchmarks.shapes import EDIT_KINDS, GENERATION_KINDS, evaluate
from deepgen.evaluation.statistics import LEAST_SEEDS, over_seeds
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes.rl import rl_shapes
from deepgen.rewards.ensemble import RewardEnsembleConfig
from deepgen.rl.guidance_search import best_scales, fixed_prompts, try_scales, write_scales
from deepgen.rl.judged_prompts import open_judged_prompts
from deepgen.rl.recipe import RLConfig
from deepgen.sampling.windows import WindowConfig
from deepgen.training.adapters import LoraSettings
from deepgen.training.export import Trained, export_folder
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig
from deepgen.training.plot import read_log
from deepgen.training.stages.sft import SFTConfig

Recipe = Literal["ours", "nft", "upstream", "supervised"]
PASSES_OF_A_TRAINED_STEP = 3
WEAK = ("weak captions", "weak edits")  # names of the sets below
SMOOTHED = 10  # rollouts
SUPERVISED_BATCH = 24  # examples of the supervised loss in a step
LORA = LoraSettings(rank=32, alpha=64, dropout=0.0)
MIX = """\
rewards: {{right: {{scorer: shapes, credit: {credit}}}}}
datasets:
  - name: weak captions
    shapes: generate
    kinds: [{kinds}]
    rows: 1000
    sample_weight: {weak_captions}
    rewards: {{right: 1}}
  - name: weak edits
    shapes: edit
    kinds: [{edits}]
    rows: 1000
    sample_weight: {weak_edits}
    rewards: {{right: 1}}
  - {{name: captions, shapes: generate, rows: 500, sample_weight: {general}, rewards: {{right: 1}}}}
  - {{name: edits, shapes: edit, rows: 500, sample_weight: {general}, rewards: {{right: 1}}}}
sampling_mode: weight_only
"""
SCALES = (1.0, 1.25, 1.5, 1.75)  # of guidance
TUNING = """\
rewards: {right: {scorer: shapes}}
datasets:
  - {name: captions, shapes: generate, rows: 2000, seed: 1, sample_weight: 2, rewards: {right: 1}}
  - {name: edits, shapes: edit, rows: 2000, seed: 1, sample_weight: 1, rewards: {right: 1}}
sampling_mode: weight_only
"""


@dataclass(frozen=True, kw_only=True)
class ShapesRL:
    """Run what is missing, and write the table and the figure."""

    output: Positional[Annotated[Path, arg(metavar="OUTPUT")]]
    model: str = "shapes"
    kinds: tuple[str, ...] = ("relation",)
    """Weak kinds of captions."""
    edits: tuple[str, ...] = ("add", "move")
    """Weak kinds of edits."""
    recipes: tuple[Recipe, ...] = ("ours",)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60
    upstream_steps: int = 20
    prompts: int = 24
    lr: float = 1e-3
    guidance: float | None = 1.0
    """Of rollouts and loss; None is the model's own, for captions and for edits."""
    credit: Literal["exact", "partial"] = "exact"
    eta: float = 0.8
    window: int = 3
    """Stochastic steps of ours, from the first on; all are trained."""
    general: float = 1.0
    """Weight of captions of every kind, and of edits of every kind."""
    weights: tuple[float, float] = (3.0, 3.0)
    """Of the weak captions and of the weak edits."""
    sft_coef: float = 0.0
    """Share of the supervised loss, on `data` and its `cache`."""
    data: Path | None = None
    cache: Path | None = None
    strength: float = 1.0
    """How far the exported model goes from the start (0) to what the run became (1)."""
    tuned_prompts: int = 0
    """Prompts the model's own guidance is chosen by, before and after; 0 leaves it as it is."""
    limit: int = 48
    """Items of each kind of caption in the benchmark, and half as many of each kind of edit."""
    ways: tuple[Literal["as trained", "by default"], ...] = ("as trained", "by default")
    """How the benchmark draws: with the guidance of the training, or with the model's own."""

    def run(self) -> None:
        """All runs, one after the other."""
        self.output.mkdir(parents=True, exist_ok=True)
        mix = self.output / "prompts.yaml"
        mix.write_text(
            MIX.format(
                credit=self.credit,
                kinds=", ".join(self.kinds),
                edits=", ".join(self.edits),
                general=self.general,
                weak_captions=self.weights[0],
                weak_edits=self.weights[1],
            )
        )
        file = self.output / "shapes_rl.json"
        results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        if "before" not in results:
            start = self.model
            if self.tuned_prompts:
                start = str(self.output / "start")
                DeepGenPipeline.from_pretrained(self.model).save_pretrained(start)
                results["guidance before"] = self._tune(Path(start))
            results["before"] = self._score(start)
            file.write_text(json.dumps(results, indent=1) + "\n")
        for seed in self.seeds:
            for name in self.recipes:
                run = f"{name}-{seed}"
                if run not in results:
                    results[run] = self._run(name, seed, mix)
                    file.write_text(json.dumps(results, indent=1) + "\n")
                    print(run, json.dumps(results[run]["after"]), flush=True)
        (self.output / "shapes_rl.md").write_text(self.table(results) + "\n")
        print(self.table(results))
        self.figure(results)

    def control(self, seed: int) -> SFTConfig:
        """The supervised loss alone, with the same LoRA and as many optimizer steps."""
        return SFTConfig(
            model=self.model,
            seed=seed,
            num_steps=self.steps,
            optim=self._optim(),
            transformer_lora=LORA,
            trains_transformer=False,
            trains_connector=False,
            vlm_lora=None,
            data=self.data,
            cache=self.cache,
            global_batch_size=SUPERVISED_BATCH,
            micro_batch_size=SUPERVISED_BATCH,
            ema_decay=None,
            num_workers=0,
            save_every=40,
            device="cpu",
            num_threads=1,
        )

    def _optim(self) -> OptimConfig:
        return OptimConfig(lr=self.lr, muon_lr=None, betas=(0.9, 0.99), warmup_steps=5, decay_share=0.3)

    def config(self, name: str, seed: int, mix: Path) -> RLConfig:
        """A recipe's run."""
        base = rl_shapes()
        base = replace(
            base,
            model=self.model,
            seed=seed,
            prompts=mix,
            num_steps=self.steps,
            prompts_per_rollout=self.prompts,
            eta=self.eta,
            guidance_scale=self.guidance,
            optim=self._optim(),
            transformer_lora=LORA,
            sft_coef=self.sft_coef,
            data=self.data,
            cache=self.cache,
            global_batch_size=SUPERVISED_BATCH,
            save_every=10,
            device="cpu",
            num_threads=1,
        )
        if name == "ours":
            return replace(base, window=WindowConfig(kind="fixed", size=self.window))
        if name == "nft":
            return replace(
                base,
                objective="nft",
                objective_options=("kl_coef=0", "beta=1.0", "adv_clip=2.5"),
                advantage_clip=2.5,
                shares_noise=False,
                num_levels=4,
            )
        return replace(
            base,
            num_steps=self.upstream_steps,
            num_inference_steps=50,
            eta=1.0,
            guidance_scale=1.0,
            window=WindowConfig(kind="full", trained_fraction=0.6),
            flat_groups="keep",
        )

    def _run(self, name: str, seed: int, mix: Path) -> dict[str, Any]:
        folder = self.output / f"{name}-{seed}"
        config = self.control(seed) if name == "supervised" else self.config(name, seed, mix)
        train(config, folder, resume=any(folder.glob("step-*")))
        export_folder(Trained(config, folder, "raw", self.strength), folder / "export")
        curves = read_log(folder / "log.jsonl")
        improving = SUPERVISED_BATCH * PASSES_OF_A_TRAINED_STEP
        if isinstance(config, RLConfig):
            improving = _passes_that_improve(config)
        drawing = curves["dit_passes"][0][1] if "dit_passes" in curves else 0
        tuned = self._tune(folder / "export") if self.tuned_prompts else []
        return {
            "guidance": tuned,
            "after": self._score(str(folder / "export")),
            "reward_of": {name: curves.get(f"reward_of/{name}", []) for name in WEAK},
            "passes_per_rollout": drawing + improving,
            "rollouts": config.num_steps,
        }

    def _tune(self, folder: Path) -> list[dict[str, Any]]:
        """Choose a model's guidance; what every scale was worth."""
        file = self.output / "tuning.yaml"
        file.write_text(TUNING)
        mix, panel = open_judged_prompts(file, (), RewardEnsembleConfig())
        torch.set_num_threads(1)
        pipe = DeepGenPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        found = list(try_scales(pipe, fixed_prompts(mix, self.tuned_prompts), panel, SCALES))
        write_scales(folder, best_scales(found, pipe.defaults))
        return [asdict(one) for one in found]

    def _score(self, model: str) -> dict[str, dict[str, float]]:
        """Accuracy of every kind, by how it was drawn."""
        torch.set_num_threads(1)
        pipe = DeepGenPipeline.from_pretrained(model, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        guidance = {"as trained": {"guidance_scale": self.guidance}, "by default": {}}
        return {
            way: {
                kind.kind: kind.accuracy
                for kind in evaluate(pipe, limit_per_kind=self.limit, seed=1, **guidance[way]).kinds
            }
            for way in self.ways
        }

    def table(self, results: dict[str, Any]) -> str:
        """Markdown: accuracy of every kind before, and by how many points it changed, mean over the seeds.

        ± is half of the 95 % confidence interval, where there are seeds enough for one.
        """
        names = [name for name in self.recipes if any(key.startswith(f"{name}-") for key in results)]
        lines = []
        for way, before in results["before"].items():
            lines += [
                f"| drawn {way} | before | {' | '.join(names)} |",
                f"|---|---:|{'---:|' * len(names)}",
            ]
            for kind in (*GENERATION_KINDS, *(f"edit {kind}" for kind in EDIT_KINDS)):
                cells = [
                    over_seeds([100 * (run["after"][way][kind] - before[kind]) for run in runs]).shown(1)
                    for runs in (_runs_of(name, results) for name in names)
                ]
                lines.append(f"| {kind} | {100 * before[kind]:.1f} | {' | '.join(cells)} |")
            lines.append("")
        for name in names:
            runs = _runs_of(name, results)
            few = "" if len(runs) >= LEAST_SEEDS else f" (no claim: that takes {LEAST_SEEDS})"
            lines.append(
                f"{name}: {len(runs)} seeds{few}, {runs[0]['rollouts']} rollouts of "
                f"{runs[0]['passes_per_rollout']:.0f} DiT passes\n"
            )
        return "\n".join(lines)

    def figure(self, results: dict[str, Any]) -> None:
        """Reward of the weak prompts over DiT passes, mean and range of the seeds."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, panels = plt.subplots(1, len(WEAK), figsize=(8, 3.6), sharey=True, layout="constrained")
        for axes, weak in zip(panels, WEAK, strict=True):
            for name in self.recipes:
                runs = [run for run in _runs_of(name, results) if run["reward_of"][weak]]
                if not runs:
                    continue
                steps = range(SMOOTHED, runs[0]["rollouts"] + 1)
                cost = [step * runs[0]["passes_per_rollout"] / 1000 for step in steps]
                columns = [[_smooth(run["reward_of"][weak], step) for run in runs] for step in steps]
                axes.plot(cost, [statistics.mean(column) for column in columns], label=name)
                axes.fill_between(cost, [min(c) for c in columns], [max(c) for c in columns], alpha=0.25)
            axes.set(title=weak, xlabel="thousand passes of an image through the DiT", ylim=(0, 1))
        panels[0].set_ylabel(f"share right, last {SMOOTHED} rollouts")
        panels[-1].legend(loc="lower right")
        figure.savefig(self.output / "shapes_rl.png", dpi=150)


def _passes_that_improve(config: RLConfig) -> int:
    """Of one rollout's images through the DiT."""
    trained = config.num_levels
    if config.made_objective().works_on == "trajectory":
        trained = len(config.window.select(config.num_inference_steps, 0).trained)
    branches = 1 if config.guidance_scale == 1 else 2
    return config.prompts_per_rollout * config.group_size * trained * branches * PASSES_OF_A_TRAINED_STEP


def _runs_of(name: str, results: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for key, run in results.items() if key.startswith(f"{name}-")]


def _smooth(curve: list[tuple[int, float]], step: int) -> float:
    """Mean of the rollouts up to `step`; not every rollout has each kind of prompt."""
    return statistics.mean(value for at, value in curve if step - SMOOTHED < at <= step)


if __name__ == "__main__":
    tyro.cli(ShapesRL).run()
