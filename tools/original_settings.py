"""What recipes set, beside the facts of the original that each setting answers for; see original_facts.py.

A fact is named by its path in tests/recipes/training_defaults.json or rl_defaults.json, of a stage with
`stage` in the place of its name. What is no setting of a recipe stands at the end, with where it is instead.
"""

from __future__ import annotations

from typing import Any

from original_facts import (
    Setting,
    first_rate,
    lora,
    mixture,
    plain_names,
    ratios,
    row_weights,
    sets,
    trained,
    trained_there,
)
from original_facts import (
    facts as all_facts,
)

_START = "set `model` to what stage 1 exported; without it the run begins with the finished model"
_ONE_CARD = "to fit one card of 24 GB"
_EVERY = "counted in optimizer steps, whatever the accumulation; a run that is cut loses a tenth as much"
_OWN_NOISE = "16 different noise levels in a step of 1,024 samples are too few"


def _key(path: str) -> Any:
    return lambda facts: facts[path]


def _optim(name: str) -> Any:
    return lambda config: getattr(config.optim, name)


def _field(name: str) -> Any:
    return lambda config: getattr(config, name)


def _per_step(path: str) -> Any:
    """Of micro-iterations, in optimizer steps."""
    return lambda facts: float(facts[path]) / facts["stage.accumulation"]


STAGES = (
    Setting(
        name="start",
        keys=("stage.init_from", "common.vlm.base", "common.dit.base"),
        original=lambda facts: (
            facts.get("stage.init_from") or f"{facts['common.vlm.base']}, {facts['common.dit.base']}"
        ),
        here=lambda config: (
            config.model
            or f"{config.vlm or 'Qwen/Qwen2.5-VL-3B-Instruct'}, "
            f"{config.transformer or 'Skywork/UniPic2-SD3.5M-Kontext-2B'}"
        ),
        why=_START,
    ),
    Setting(
        name="trained",
        keys=("stage.train",),
        original=lambda facts: trained_there(facts["stage.train"]),
        here=trained,
        why={"sft-24gb": _ONE_CARD},
    ),
    Setting(
        name="LoRA of the VLM",
        keys=("stage.lora", "stage.lora.rank", "stage.lora.alpha", "stage.lora.dropout", "stage.lora.init"),
        original=lambda facts: (
            "none"
            if facts.get("stage.lora.rank") is None
            else f"rank {facts['stage.lora.rank']}, alpha {facts['stage.lora.alpha']}, "
            f"dropout {facts['stage.lora.dropout']:g}"
        ),
        here=lambda config: lora(config.vlm_lora),
        why="",
    ),
    Setting(
        name="layers of that LoRA",
        keys=("stage.lora.targets",),
        original=lambda facts: (
            "every linear layer and embedding" if "stage.lora.targets" in facts else "none"
        ),
        here=lambda config: (
            "none"
            if config.vlm_lora is None
            else {"useful": "linear layers that feed a tap", "upstream": "every linear layer and embedding"}[
                config.vlm_lora.targets
            ]
        ),
        why="the vision tower runs without gradient and the last layer feeds nothing; "
        "`vlm_lora.targets=upstream` adapts all",
    ),
    Setting(
        name="sets of captions",
        keys=("stage.datasets_t2i",),
        original=lambda facts: plain_names(facts["stage.datasets_t2i"]),
        here=lambda config: sets(config.data, "generate"),
        why="",
    ),
    Setting(
        name="sets of edits",
        keys=("stage.datasets_edit",),
        original=lambda facts: plain_names(_edit_sets(facts)),
        here=lambda config: sets(config.data, "edit"),
        why="",
    ),
    Setting(
        name="batches of edits, of captions",
        keys=("stage.cycle_repeats.image2image", "stage.cycle_repeats.text2image", "stage.accumulation"),
        original=lambda facts: {
            "edit": facts["stage.cycle_repeats.image2image"],
            "generate": facts["stage.cycle_repeats.text2image"],
        },
        here=lambda config: ratios(config.data),
        why="",
    ),
    Setting(
        name="size of pictures",
        keys=("common.image.mode", "common.image.image_size", "common.image.unit"),
        original=lambda facts: {
            "rule": facts["common.image.mode"],
            "image_size": facts["common.image.image_size"],
            "unit": facts["common.image.unit"],
        },
        here=lambda config: mixture(config.data)["image"],
        why="",
    ),
    Setting(
        name="length, in optimizer steps",
        keys=("stage.optimizer_steps_derived", "stage.max_micro_iterations"),
        original=_key("stage.optimizer_steps_derived"),
        here=_field("num_steps"),
        why="",
    ),
    Setting(
        name="samples of a step",
        keys=("stage.global_batch_derived_64gpu",),
        original=_key("stage.global_batch_derived_64gpu"),
        here=_field("global_batch_size"),
        why={"sft-24gb": _ONE_CARD},
    ),
    Setting(
        name="samples of a run",
        keys=("stage.samples_derived_64gpu",),
        original=lambda facts: float(facts["stage.samples_derived_64gpu"]),
        here=lambda config: config.num_steps * config.global_batch_size,
        why={"sft-24gb": "as many steps of fewer samples"},
    ),
    Setting(
        name="micro-batch",
        keys=("stage.micro_batch.image2image", "stage.micro_batch.text2image"),
        original=_key("stage.micro_batch.text2image"),
        here=_field("micro_batch_size"),
        why={"sft-24gb": _ONE_CARD},
    ),
    Setting(name="peak rate", keys=("stage.lr",), original=_key("stage.lr"), here=_optim("lr"), why=""),
    Setting(
        name="betas",
        keys=("common.optimizer.betas", "common.optimizer.name"),
        original=lambda facts: tuple(facts["common.optimizer.betas"]),
        here=_optim("betas"),
        why="",
    ),
    Setting(
        name="epsilon",
        keys=("common.optimizer.eps",),
        original=_key("common.optimizer.eps"),
        here=_optim("eps"),
        why="",
    ),
    Setting(
        name="weight decay",
        keys=("common.optimizer.weight_decay", "common.optimizer.decay_min_ndim"),
        original=_key("common.optimizer.weight_decay"),
        here=_optim("weight_decay"),
        why="",
    ),
    Setting(
        name="warm-up, in optimizer steps",
        keys=("stage.warmup_micro_iterations", "common.schedule.warmup_ratio", "common.schedule.unit"),
        original=_per_step("stage.warmup_micro_iterations"),
        here=_optim("warmup_steps"),
        why="",
    ),
    Setting(
        name="rate of the first step, as a share of the peak",
        keys=("common.schedule.warmup_start_factor",),
        original=_key("common.schedule.warmup_start_factor"),
        here=first_rate,
        why="the warm-up rises from 0, and its first step counts as one",
    ),
    Setting(
        name="decay",
        keys=("common.schedule.decay", "common.schedule.min_lr"),
        original=lambda facts: f"{facts['common.schedule.decay']} to {facts['common.schedule.min_lr']:g}",
        here=lambda config: f"{config.optim.decay} to {config.optim.final_lr_share * config.optim.lr:g}",
        why="",
    ),
    Setting(
        name="clip of the gradient norm",
        keys=("common.grad_clip_norm",),
        original=_key("common.grad_clip_norm"),
        here=_optim("clip_norm"),
        why="",
    ),
    Setting(
        name="EMA",
        keys=("common.ema",),
        original=_key("common.ema"),
        here=_field("ema_decay"),
        why={"sft-24gb": "a batch of 48 is noisy, and averages level it out; `ema_decay=none` has none"},
    ),
    Setting(
        name="saves, every so many optimizer steps",
        keys=("common.save_every_micro_iterations",),
        original=_per_step("common.save_every_micro_iterations"),
        here=lambda config: float(config.save_every),
        why=_EVERY,
    ),
    Setting(
        name="checkpoints kept",
        keys=("common.keep_checkpoints",),
        original=_key("common.keep_checkpoints"),
        here=_field("keep"),
        why="",
    ),
    Setting(
        name="lines of the log, every so many optimizer steps",
        keys=("common.log_every",),
        original=_per_step("common.log_every"),
        here=lambda config: float(config.log_every),
        why="each is a mean over all samples since the last one",
    ),
    Setting(
        name="seed",
        keys=("common.seed",),
        original=lambda facts: (
            "another in every run" if facts["common.seed"] is None else facts["common.seed"]
        ),
        here=_field("seed"),
        why="the same command gives the same run",
    ),
    Setting(
        name="noise of the processes",
        keys=("common.rank_distinct_seed",),
        original=lambda facts: "each its own" if facts["common.rank_distinct_seed"] else "the same on all",
        here=lambda config: "each its own",  # keyed by the sample's number: training/randomness.py
        why=_OWN_NOISE,
    ),
    Setting(
        name="noise levels of a step",
        keys=("common.loss.timestep_sampling",),
        original=lambda facts: "drawn independently",
        here=lambda config: "stratified" if config.levels.is_stratified else "drawn independently",
        why="less variance at no cost; `levels.is_stratified=false` is the original's way",
    ),
    Setting(
        name="weight of noise levels",
        keys=("common.loss.weighting",),
        original=_key("common.loss.weighting"),
        here=lambda config: config.levels.weighting,
        why="",
    ),
    Setting(
        name="captions dropped",
        keys=("common.condition_dropout.text2image_text",),
        original=_key("common.condition_dropout.text2image_text"),
        here=lambda config: config.dropout.text,
        why="",
    ),
    Setting(
        name="conditions of edits dropped",
        keys=("common.condition_dropout.image2image_text", "common.condition_dropout.reference"),
        original=lambda facts: (
            facts["common.condition_dropout.image2image_text"] + facts["common.condition_dropout.reference"]
        ),
        here=lambda config: config.dropout.edit_text + config.dropout.edit_everything,
        why="",
    ),
    Setting(
        name="prompt tokens read",
        keys=("common.vlm.max_prompt_tokens",),
        original=_key("common.vlm.max_prompt_tokens"),
        here=_field("max_prompt_tokens"),
        why="",
    ),
    Setting(
        name="pads, to connector and DiT",
        keys=(),  # not in the file: section 5 of its page
        original=lambda facts: "visible",
        here=_field("padding"),
        why="a sample's loss does not depend on its batch-mates; `padding=visible` is the original's way",
    ),
    Setting(
        name="activations computed again",
        keys=("common.activation_checkpointing",),
        original=_key("common.activation_checkpointing"),
        here=_field("is_checkpointing_activations"),
        why={"sft-24gb": _ONE_CARD},
    ),
    Setting(
        name="arithmetic",
        keys=("common.precision.compute", "common.precision.optimizer_master"),
        original=_key("common.precision.compute"),
        here=lambda config: {"auto": "bf16", "bfloat16": "bf16"}.get(config.precision, config.precision),
        why="",
    ),
    Setting(
        name="weights and moments divided among cards",
        keys=("common.parallel.zero_stage", "common.parallel.engine"),
        original=lambda facts: f"ZeRO-{facts['common.parallel.zero_stage']}",
        here=_field("sharding"),
        why={
            "sft-24gb": "one card",
            "": "`sharding=zero2` does the same, without DeepSpeed; needed where memory asks for it",
        },
    ),
    Setting(
        name="workers that read data",
        keys=("common.dataloader.num_workers",),
        original=_key("common.dataloader.num_workers"),
        here=_field("num_workers"),
        why="the default of all recipes; `num_workers=4` is the original's",
    ),
)


def _edit_sets(facts: Any) -> Any:
    names = facts["stage.datasets_edit"]
    return all_facts("training")["stage1.datasets_edit"] if isinstance(names, str) else names


_LOCAL = "a setting of one's own machine"
_CHEAP = "a cheap recipe of our own"


def _rl_sets(facts: Any) -> Any:
    return [
        (one["name"], one["sample_weight"], tuple(sorted(one["rewards"].items())))
        for one in facts["data.datasets"]
    ]


def _rl_sets_here(config: Any) -> Any:
    if config.prompts is None:
        return []
    return [
        (
            one["name"],
            float(one.get("sample_weight", 1.0)),
            tuple(sorted((name, weight) for reward in one["rewards"] for name, weight in reward.items())),
        )
        for one in mixture(config.prompts)["datasets"]
    ]


def _set_names(describe: Any) -> Any:
    """Sets with weights and rewards: shown as their number, compared in full."""

    class Shown(tuple):
        def __str__(self) -> str:
            return f"{len(self)} sets" if self else "your own"

    return lambda value: Shown(describe(value))


def _num_trained(config: Any) -> int:
    return len(config.window.select(config.num_inference_steps, 0).trained)


def _objective(name: str) -> Any:
    return lambda config: getattr(config.made_objective(), name)


REINFORCEMENT = (
    Setting(
        name="start",
        keys=("model.model_config",),
        original=lambda facts: "the end of stage 2",
        here=lambda config: config.model,
        why="set `model` to what stage 2 exported; without it the run begins with the finished model",
    ),
    Setting(
        name="trained",
        keys=("model.freeze_lmm", "model.freeze_mq", "model.freeze_transformer"),
        original=lambda facts: "connector" if not facts["model.freeze_mq"] else "DiT",
        here=trained,
        why={"rl": "a cheap recipe of our own: no frozen copy for the KL, and a fraction of the memory"},
    ),
    Setting(
        name="prompts, their weights and rewards",
        keys=("data.sampling_mode", "data.sample_weight_default", "data.datasets"),
        original=_set_names(_rl_sets),
        here=_set_names(_rl_sets_here),
        why={"rl": "give `--prompts`"},
    ),
    Setting(
        name="length",
        keys=("train.num_train_epochs", "train.max_steps"),
        original=lambda facts: f"{facts['train.num_train_epochs']} epochs of the prompts",
        here=lambda config: (
            f"{config.num_steps:,} steps"
            if config.num_epochs is None
            else f"{config.num_epochs} epochs of the prompts"
        ),
        why={"rl": f"{_CHEAP}, for prompts of your own"},
    ),
    Setting(
        name="optimizer steps of a rollout",
        keys=("actor.atrain_num_actor_update_steps", "derived_8gpu.accidental_adamw_steps_per_rollout"),
        original=lambda facts: (
            f"{facts['derived_8gpu.accidental_adamw_steps_per_rollout']}, by accident; "
            f"{facts['actor.atrain_num_actor_update_steps']} is set"
        ),
        here=lambda config: f"{config.updates_per_rollout}",
        why="what the settings and the paper say; each step has its own clipping and moves the policy away",
    ),
    Setting(
        name="peak rate",
        keys=("train.learning_rate",),
        original=_key("train.learning_rate"),
        here=_optim("lr"),
        why={"rl": "of a LoRA"},
    ),
    Setting(
        name="schedule",
        keys=("train.lr_scheduler_type",),
        original=_key("train.lr_scheduler_type"),
        here=lambda config: "constant_with_warmup" if config.optim.decay_share == 0 else config.optim.decay,
        why="",
    ),
    Setting(
        name="warm-up, in optimizer steps",
        keys=("train.warmup_steps",),
        original=_key("train.warmup_steps"),
        here=_optim("warmup_steps"),
        why={"rl": "fewer steps in all"},
    ),
    Setting(
        name="clip of the gradient norm",
        keys=("train.max_grad_norm",),
        original=_key("train.max_grad_norm"),
        here=_optim("clip_norm"),
        why="",
    ),
    Setting(
        name="betas",
        keys=("train.adam_beta1", "train.adam_beta2"),
        original=lambda facts: (facts["train.adam_beta1"], facts["train.adam_beta2"]),
        here=_optim("betas"),
        why="",
    ),
    Setting(
        name="epsilon",
        keys=("train.adam_epsilon",),
        original=_key("train.adam_epsilon"),
        here=_optim("eps"),
        why="",
    ),
    Setting(
        name="weight decay",
        keys=("train.weight_decay",),
        original=_key("train.weight_decay"),
        here=_optim("weight_decay"),
        why="",
    ),
    Setting(
        name="EMA",
        keys=("actor.ema_diffusion",),
        original=lambda facts: facts["actor.ema_diffusion"] or None,
        here=_field("ema_decay"),
        why="",
    ),
    Setting(
        name="saves, every so many optimizer steps",
        keys=("train.save_steps",),
        original=_key("train.save_steps"),
        here=_field("save_every"),
        why="",
    ),
    Setting(
        name="checkpoints kept",
        keys=("train.save_total_limit",),
        original=lambda facts: (
            "all" if facts["train.save_total_limit"] < 0 else facts["train.save_total_limit"]
        ),
        here=_field("keep"),
        why="each has moments and weights in float32, 27 GB of a whole DiT; `keep=1000` keeps all",
    ),
    Setting(
        name="lines of the log, every so many optimizer steps",
        keys=("train.logging_steps",),
        original=_key("train.logging_steps"),
        here=_field("log_every"),
        why="",
    ),
    Setting(
        name="seed",
        keys=("train.seed",),
        original=_key("train.seed"),
        here=_field("seed"),
        why="keyed by group and image, so the same number would draw something else anyway",
    ),
    Setting(
        name="workers that read data",
        keys=("train.dataloader_num_workers",),
        original=_key("train.dataloader_num_workers"),
        here=_field("num_workers"),
        why="prompts are read ahead while rewards judge",
    ),
    Setting(
        name="weights and moments divided among cards",
        keys=("train.deepspeed",),
        original=lambda facts: {"zero2": "ZeRO-2"}[facts["train.deepspeed"]],
        here=_field("sharding"),
        why="a rollout draws with the whole model on each card",
    ),
    Setting(
        name="activations computed again",
        keys=("model.gradient_checkpointing",),
        original=_key("model.gradient_checkpointing"),
        here=_field("is_checkpointing_activations"),
        why="",
    ),
    Setting(
        name="arithmetic",
        keys=("model.bf16",),
        original=_key("model.bf16"),
        here=lambda config: config.precision in ("auto", "bfloat16"),
        why="",
    ),
    Setting(
        name="images of a prompt",
        keys=("rollout.rollout_n",),
        original=_key("rollout.rollout_n"),
        here=_field("group_size"),
        why="",
    ),
    Setting(
        name="images of a rollout",
        keys=(
            "rollout.rollout_global_batch_size",
            "derived_8gpu.images_per_step",
            "derived_8gpu.prompts_per_step",
        ),
        original=_key("rollout.rollout_global_batch_size"),
        here=lambda config: config.group_size * config.prompts_per_rollout,
        why="",
    ),
    Setting(
        name="images drawn together on a card",
        keys=("rollout.rollout_micro_batch_size",),
        original=_key("rollout.rollout_micro_batch_size"),
        here=lambda config: config.rollout_batch_size or config.micro_batch_size,
        why="a default for any card, which changes no result; `rollout_batch_size=32` is the original's",
    ),
    Setting(
        name="images of a micro-batch of the loss",
        keys=("actor.atrain_micro_batch_size",),
        original=_key("actor.atrain_micro_batch_size"),
        here=_field("micro_batch_size"),
        why="a default for any card, which changes no gradient; `micro_batch_size=32` is the original's",
    ),
    Setting(
        name="solver steps of a rollout",
        keys=("rollout.num_inference_steps",),
        original=_key("rollout.num_inference_steps"),
        here=_field("num_inference_steps"),
        why={"rl": f"{_CHEAP}: a quarter of the passes"},
    ),
    Setting(
        name="guidance of rollout and loss",
        keys=("rollout.cfg_scale",),
        original=lambda facts: "none" if facts["rollout.cfg_scale"] == 0 else facts["rollout.cfg_scale"],
        here=lambda config: "none" if config.guidance_scale == 1 else config.guidance_scale,
        why="",
    ),
    Setting(
        name="size of images",
        keys=("rollout.image_height", "rollout.image_width"),
        original=lambda facts: (facts["rollout.image_height"], facts["rollout.image_width"]),
        here=lambda config: (config.height, config.width),
        why="",
    ),
    Setting(
        name="one first noise for a group",
        keys=("rollout.init_same_noise",),
        original=_key("rollout.init_same_noise"),
        here=_field("shares_noise"),
        why="",
    ),
    Setting(
        name="sampler",
        keys=("rollout.atrain_sde_sampler",),
        original=lambda facts: facts["rollout.atrain_sde_sampler"].removesuffix("_sde"),
        here=_field("sampler"),
        why="",
    ),
    Setting(
        name="its noise, eta",
        keys=("rollout.sde_eta",),
        original=_key("rollout.sde_eta"),
        here=_field("eta"),
        why={"rl": f"{_CHEAP}: at 1 nothing of the last step's noise is kept"},
    ),
    Setting(
        name="trained steps of a rollout",
        keys=(
            "actor.timestep_fraction",
            "actor.include_last_denoise_step",
            "derived_8gpu.train_timesteps_per_step",
        ),
        original=_key("derived_8gpu.train_timesteps_per_step"),
        here=_num_trained,
        why={"rl": f"{_CHEAP}: four in a row are stochastic and trained"},
    ),
    Setting(
        name="objective",
        keys=("actor.atrain_algorithm",),
        original=lambda facts: facts["actor.atrain_algorithm"].replace("flowgrpo", "flow_grpo"),
        here=_field("objective"),
        why="",
    ),
    Setting(
        name="clip of the ratio",
        keys=("actor.clip_range",),
        original=_key("actor.clip_range"),
        here=_objective("clip_range"),
        why="",
    ),
    Setting(
        name="weight of the KL",
        keys=("actor.beta",),
        original=_key("actor.beta"),
        here=_objective("kl_coef"),
        why="",
    ),
    Setting(
        name="KL of",
        keys=("actor.atrain_kl_type",),
        original=lambda facts: {"v-based": "velocity"}[facts["actor.atrain_kl_type"]],
        here=_objective("kl"),
        why="",
    ),
    Setting(
        name="advantages",
        keys=("actor.atrain_adv_type",),
        original=_key("actor.atrain_adv_type"),
        here=_field("advantage"),
        why="",
    ),
    Setting(
        name="clip of advantages",
        keys=("actor.adv_clip_max",),
        original=_key("actor.adv_clip_max"),
        here=_field("advantage_clip"),
        why="",
    ),
    Setting(
        name="statistics of advantages",
        keys=(),  # not in the file: section 5 of its page
        original=lambda facts: "of each card's images",
        here=lambda config: "of all images",  # rl/stage.py gathers rewards first
        why="GDPO's paper means the batch; a run does not change with the number of cards",
    ),
    Setting(
        name="a score that fails to come",
        keys=(),  # not in the file: section 5.1 of its page
        original=lambda facts: "0, or the run stops",
        here=lambda config: "left out and counted",
        why="a zero is an opinion; past a share the run stops",
    ),
    Setting(
        name="groups of equal rewards",
        keys=(),  # not in the file: the original looks at none
        original=lambda facts: "keep",
        here=_field("flat_groups"),
        why={"rl": f"{_CHEAP}: they have no gradient but that of the KL"},
    ),
    Setting(
        name="share of the supervised loss",
        keys=("sftaux.sftaux_coef", "sftaux.sftaux_every_n_steps"),
        original=_key("sftaux.sftaux_coef"),
        here=_field("sft_coef"),
        why={"rl": f"{_CHEAP} that needs no data"},
    ),
    Setting(
        name="supervised data",
        keys=(
            "sftaux.sample_weights.general",
            "sftaux.sample_weights.text_rendering",
            "sftaux.sample_weights.banana_jimeng",
        ),
        original=lambda facts: (
            {
                name: facts[f"sftaux.sample_weights.{name}"]
                for name in ("general", "banana_jimeng", "text_rendering")
            }
            | {"tasks": ("generate",)}
        ),
        here=lambda config: (
            dict(sorted(row_weights(config.data).items())) | {"tasks": tuple(ratios(config.data))}
            if config.data
            else None
        ),
        why={"rl": f"{_CHEAP} that needs no data"},
    ),
    Setting(
        name="supervised samples of a step",
        keys=("sftaux.sftaux_micro_batch_size",),
        original=lambda facts: 8 * facts["sftaux.sftaux_micro_batch_size"],
        here=lambda config: config.global_batch_size if config.sft_coef else 0,
        why={"rl": f"{_CHEAP} that needs no data"},
    ),
    Setting(
        name="size of supervised pictures",
        keys=("sftaux.image_size", "sftaux.image_process", "sftaux.unit_image_size"),
        original=lambda facts: {
            "rule": facts["sftaux.image_process"],
            "image_size": facts["sftaux.image_size"],
            "unit": facts["sftaux.unit_image_size"],
        },
        here=lambda config: mixture(config.data)["image"] if config.data else None,
        why={"rl": f"{_CHEAP} that needs no data"},
    ),
    Setting(
        name="captions dropped",
        keys=("model.caption_dropout_sft",),
        original=_key("model.caption_dropout_sft"),
        here=lambda config: config.dropout.text,
        why="",
    ),
    Setting(
        name="evaluation in the run",
        keys=("eval.eval_freq", "eval.dataset", "eval.num_prompts", "eval.duplicates"),
        original=lambda facts: f"{facts['eval.dataset']}, every {facts['eval.eval_freq']} steps",
        here=lambda config: "none" if config.evaluation.prompts is None else "your own",
        why="needs a judge of its own; `benchmarks.names=unigenbench` or `evaluation.prompts=FILE`",
    ),
    Setting(
        name="pictures of rollouts, every so many steps",
        keys=("logging.log_images_interval",),
        original=_key("logging.log_images_interval"),
        here=_field("sheet_every"),
        why="`sheet_every=1` draws every one",
    ),
    Setting(
        name="trackers",
        keys=("logging.report_to",),
        original=lambda facts: ", ".join(facts["logging.report_to"]),
        here=lambda config: ", ".join(config.trackers) or "none",
        why="log.jsonl is always written; `trackers=wandb` adds one",
    ),
)

_MODEL = "of the model: deepgen/models/config.py and the released weights"
_DERIVED = "follows from others"
# Facts that no recipe sets, by the beginning of their path.
NOT_SETTINGS = {
    "training": {
        "source": "where the facts are from",
        "common.image.normalise": "pixels of every picture: data/pixels.py",
        "common.image.min_side_format_a": "rows that are left out: data/sources/caption_pair.py",
        "common.image.ratio_range_format_a": "rows that are left out: data/sources/caption_pair.py",
        "common.vlm.num_think_tokens": _MODEL,
        "common.vlm.hidden_state_indices": _MODEL,
        "common.vlm.vit_downscale": _MODEL,
        "common.connector": _MODEL,
        "common.dit.params": _MODEL,
        "common.optimizer.fused": "speed alone",
        "common.parallel.overlap_comm": "speed alone",
        "common.parallel.offload": "off there and not offered here",
        "common.dataloader.prefetch_factor": _LOCAL,
        "common.dataloader.pin_memory": _LOCAL,
        "common.dataloader.persistent_workers": _LOCAL,
        "common.loss.type": "the flow-matching loss: sampling/noise_levels.py",
        "common.loss.target": "the flow-matching loss: sampling/noise_levels.py",
        "common.gpus_documented": "any number of cards gives the same samples",
        "stage.name": "a name",
        "stage.freeze": "what is not trained",
        "stage.trainable_params_derived": _DERIVED,
        "stage.lora.params_derived": _DERIVED,
        "rl_auxiliary_sft": "said again in rl_defaults.json, and compared there",
        "suggested_changes": "not the original's",
    },
    "rl": {
        "_meta": "where the facts are from",
        "model.num_queries": _MODEL,
        "model.num_fusion_layers": _MODEL,
        "model.lora_": "the frozen LoRA of stage 2, which the start has merged or beside it",
        "train.num_train_epochs_cli_default": "replaced by the launch script",
        "train.lr_scheduler_type_cli_default": "replaced by the launch script",
        "train.deepspeed_": "speed alone",
        "actor.atrain_global_batch_size": "all images of a rollout",
        "actor.log_prob_micro_batch_size": "unset",
        "actor.advantage_std_eps": "the same constant: rl/advantages.py",
        "actor.kl_eps": "the same constant: rl/policy_gradient.py",
        "actor.logprob_eps": "the same constant: sampling/sde.py",
        "actor.clamp_log_prob": "off",
        "actor.grpoguard": "of another objective",
        "actor.atrain_nft": "of another objective",
        "sftaux.sftaux_num_workers": "unset",
        "sftaux.sftaux_config": "replaced by the launch script",
        "sftaux.sftaux_disable_on_error": "off; bad rows are counted and stop the run past a share",
        "eval.": "of the evaluation, which the run has none of",
        "logging.": "of trackers",
        "judges": "of judges: their options in the mix of prompts",
        "services": "of services: their addresses in the mix of prompts",
        "derived_8gpu": _DERIVED,
    },
}
