"""Where modules and names were that are elsewhere now, for one release; see moved.py."""

from __future__ import annotations

from deepgen.moved import OldModules

FOLDERS = {  # their modules kept their names, but for those of MODULES
    "deepgen.commands": "deepgen.cli",
    "deepgen.diffusion": "deepgen.sampling",
    "deepgen.eval": "deepgen.evaluation",
    "deepgen.serve": "deepgen.serving",
    "deepgen.train": "deepgen.training",
}
_TO_CHECKPOINTS = (
    "checkpoint",
    "convert",
    "dtypes",
    "file_hash",
    "fresh",
    "gguf_files",
    "gguf_header",
    "hashes",
    "hub_files",
    "info",
    "layouts",
    "limits",
    "lora",
    "lora_files",
    "lora_fit",
    "lora_keys",
    "lora_names",
    "lora_settings",
    "memory",
    "names",
    "parts",
    "pickle_names",
    "published",
    "remote_code",
    "report",
    "run_facts",
    "safetensors_header",
    "saving",
    "spans",
    "sums",
    "tensors",
    "torch_files",
    "unpickle",
    "verify",
    "weights",
    "writer",
    "zero_partitions",
    "zero_pieces",
    "zeros",
)
_SCORED = (
    "corebench",
    "cvtg2k",
    "dpg",
    "gedit",
    "geneval",
    "imgedit",
    "risebench",
    "unigenbench",
    "unireditbench",
    "wise",
)
_TRAINING = ("deepgen.train", "deepgen.training")
_FLAT = {"vae": "VAE", "vlm": "VLM", "dit": "DiT"}  # parts of the model of flat shapes, which was "tiny"
_STORYBOOK = ("chains", "prompts", "scores", "sheet", "summary", "table")
MODULES = {
    "deepgen.data.sources.storybook": "deepgen.tiny.source",
    "deepgen.evaluation.benchmarks.storybook": "deepgen.tiny.evaluation.benchmark",
    "deepgen.evaluation.final_score": "deepgen.evaluation.judge_benchmark",
    "deepgen.evaluation.storybook": "deepgen.tiny.evaluation.evaluate",
    **{f"deepgen.evaluation.storybook_{name}": f"deepgen.tiny.evaluation.{name}" for name in _STORYBOOK},
    "deepgen.recipes.storybook": "deepgen.tiny.recipes",
    "deepgen.recipes.tiny": "deepgen.recipes.shapes",
    **{
        f"{folder}.stages.tiny_{x}": f"deepgen.training.stages.shapes_{x}"
        for folder in _TRAINING
        for x in _FLAT
    },
    "deepgen.rewards.scorers.storybook": "deepgen.tiny.rewards.storybook",
    "deepgen.rewards.scorers.storybook_kept": "deepgen.tiny.rewards.storybook_kept",
    "deepgen.data.pictures": "deepgen.data.example_images",
    "deepgen.data.picture_files": "deepgen.data.image_files",
    "deepgen.picture_sizes": "deepgen.image_sizes",
    **{f"deepgen.models.{name}": f"deepgen.checkpoints.{name}" for name in _TO_CHECKPOINTS},
    **{f"deepgen.eval.scoring.{name}": f"deepgen.evaluation.benchmarks.{name}" for name in _SCORED},
    "deepgen.data.ledger": "deepgen.data.bad_rows",
    "deepgen.data.sheet": "deepgen.data.contact_sheet",
    "deepgen.commands.reporting": "deepgen.cli.outputs",
    "deepgen.diffusion.losses": "deepgen.sampling.interpolation",
    "deepgen.eval.detection": "deepgen.rewards.detector",
    "deepgen.eval.forms": "deepgen.evaluation.response_schema",
    "deepgen.eval.judged": "deepgen.evaluation.judge_benchmark",
    "deepgen.eval.remote": "deepgen.rewards.remote_scorers",
    "deepgen.eval.scoring": "deepgen.evaluation.benchmark",
    "deepgen.eval.scoring.cases": "deepgen.evaluation.recorded_cases",
    "deepgen.eval.scoring.final_score": "deepgen.evaluation.judge_benchmark",
    "deepgen.eval.verdicts": "deepgen.evaluation.scoring",
    "deepgen.eval.wordings": "deepgen.evaluation.judge_prompts",
    "deepgen.models.bases": "deepgen.checkpoints.base_models",
    "deepgen.models.branches": "deepgen.sampling.guided_inputs",
    "deepgen.models.parallel": "deepgen.sampling.parallel",
    "deepgen.models.sizes": "deepgen.checkpoints.infer_config",
    "deepgen.models.trajectory": "deepgen.sampling.step_cache",
    "deepgen.planning.cards": "deepgen.planning.accelerators",
    "deepgen.rewards.panel": "deepgen.rewards.ensemble",
    "deepgen.rl.clipping": "deepgen.rl.policy_gradient",
    "deepgen.rl.kl": "deepgen.rl.policy_gradient",
    "deepgen.rl.rollout": "deepgen.sampling.rollout",
    "deepgen.rl.windows": "deepgen.sampling.windows",
    "deepgen.serve.about_routes": "deepgen.serving.routes",
    "deepgen.serve.chat_routes": "deepgen.serving.routes",
    "deepgen.serve.desk": "deepgen.serving.request_handler",
    "deepgen.serve.fields": "deepgen.serving.schema",
    "deepgen.serve.image_routes": "deepgen.serving.routes",
    "deepgen.serve.keys": "deepgen.serving.config",
    "deepgen.serve.orders": "deepgen.serving.pool_jobs",
    "deepgen.serve.pictures": "deepgen.serving.images",
    "deepgen.serve.preview": "deepgen.serving.sampler",
    "deepgen.serve.shelf": "deepgen.serving.images",
    "deepgen.serve.tracing": "deepgen.serving.middleware",
    "deepgen.train.experience": "deepgen.rl.rollout_buffer",
    "deepgen.train.gate": "deepgen.rl.gate",
    "deepgen.train.guidance": "deepgen.rl.guidance_search",
    "deepgen.train.judged_prompts": "deepgen.rl.judged_prompts",
    "deepgen.train.policy": "deepgen.rl.policy",
    "deepgen.train.rl_evaluation": "deepgen.rl.evaluation",
    "deepgen.train.rl_plan": "deepgen.rl.plan",
    "deepgen.train.rl_sheet": "deepgen.rl.contact_sheet",
    "deepgen.train.rl_stage": "deepgen.rl.stage",
    "deepgen.train.stages.storybook_dit": "deepgen.tiny.stages.dit",
    "deepgen.train.stages.storybook_vae": "deepgen.tiny.stages.vae",
    "deepgen.train.stages.storybook_vlm": "deepgen.tiny.stages.vlm",
    "deepgen.train.rollouts": "deepgen.rl.rollout_sampler",
    "deepgen.train.stages.rl": "deepgen.rl.stage",
}
NAMES = {
    "deepgen.train.checkpoints": {
        name: f"deepgen.training.checkpoint_folders.{name}"
        for name in ("check_checkpoint", "latest_checkpoint")
    },
    "deepgen.commands.options": {"PictureOptions": "deepgen.cli.options.ImageOptions"},
    "deepgen.commands.rewards": {"ScorePicture": "deepgen.cli.rewards.ScoreImage"},
    "deepgen.data.pictures": {
        "load_picture": "deepgen.data.example_images.load_image",
        "picture_size": "deepgen.data.example_images.image_size",
    },
    "deepgen.data.picture_files": {
        "encode_picture": "deepgen.data.image_files.encode_image",
        "save_picture": "deepgen.data.image_files.save_image",
    },
    "deepgen.eval.drawing": {"Picture": "deepgen.evaluation.drawing.Sample"},
    "deepgen.eval.store": {"Pictures": "deepgen.evaluation.store.Images"},
    "deepgen.eval": {"object_finder": "deepgen.rewards.detector.object_finder"},
    "deepgen.data.sources.storybook": {
        "Storybook": "deepgen.tiny.source.StorybookSource",
        "StorybookOptions": "deepgen.tiny.source.StorybookSourceOptions",
    },
    "deepgen.evaluation.benchmarks.storybook": {
        "Storybook": "deepgen.tiny.evaluation.benchmark.StorybookBenchmark",
    },
    "deepgen.evaluation.storybook_summary": {
        "Part": "deepgen.tiny.evaluation.summary.StorybookPart",
        "Share": "deepgen.tiny.evaluation.summary.RightShare",
    },
    "deepgen.rewards.scorers.storybook": {
        "Storybook": "deepgen.tiny.rewards.storybook.StorybookReward",
        "StorybookOptions": "deepgen.tiny.rewards.storybook.StorybookRewardOptions",
    },
    "deepgen.evaluation.final_score": {"parse": "deepgen.evaluation.judge_benchmark.parse_final_score"},
    "deepgen.commands.outputs": {"picture_paths": "deepgen.data.image_files.numbered_paths"},
    "deepgen.commands.prompt_file": {"MOST_PICTURES": "deepgen.cli.prompt_file.MOST_IMAGES"},
    "deepgen.serve.bodies": {"PICTURE_PARTS": "deepgen.serving.bodies.IMAGE_PARTS"},
    "deepgen.serve.mcp_tools": {"MAX_PICTURES": "deepgen.serving.mcp_tools.MAX_IMAGES"},
    "deepgen.commands.data": {
        "PICTURES": "deepgen.image_formats.SUFFIXES",
        "Place": "deepgen.cli.data.DataChoice",
    },
    "deepgen.commands.planned": {
        "this_card": "deepgen.cli.planned.this_accelerator",
    },
    "deepgen.data.ledger": {
        "Ledger": "deepgen.data.bad_rows.BadRowTracker",
    },
    "deepgen.data.sheet": {
        "Card": "deepgen.data.contact_sheet.SampleTile",
        "make_card": "deepgen.data.contact_sheet.make_tile",
    },
    "deepgen.eval.benchmarks.shapes": {
        "picture_grid": "deepgen.evaluation.benchmarks.shapes.image_grid",
        "Shapes": "deepgen.evaluation.benchmarks.shapes.ShapesBenchmark",
    },
    "deepgen.eval.detection": {
        "Likeness": "deepgen.rewards.clip.ClipImageTextScorer",
        "ObjectFinder": "deepgen.rewards.detector.object_finder",
    },
    "deepgen.eval.forms": {
        "Form": "deepgen.evaluation.response_schema.ResponseSchema",
    },
    "deepgen.eval.judge": {
        "Judge": "deepgen.evaluation.judge.PromptedJudge",
        "JudgeChanged": "deepgen.rewards.judge.JudgeChanged",
        "Query": "deepgen.evaluation.judge.image_query",
    },
    "deepgen.eval.judged": {
        "Judged": "deepgen.evaluation.judge_benchmark.JudgeBenchmark",
    },
    "deepgen.eval.remote": {
        "Box": "deepgen.rewards.interfaces.Box",
        "RemoteEyes": "deepgen.rewards.remote_scorers.RemoteScorer",
    },
    "deepgen.eval.run_config": {
        "Job": "deepgen.evaluation.run_config.EvaluationJob",
    },
    "deepgen.eval.scorers": {
        "AnswersQuestions": "deepgen.rewards.interfaces.QuestionAnswerer",
        "FindsObjects": "deepgen.rewards.interfaces.ObjectDetector",
        "LikensTexts": "deepgen.rewards.interfaces.ImageTextScorer",
        "ScorerConfig": "deepgen.evaluation.make_scorers.ScorerConfig",
        "is_address": "deepgen.rewards.remote_scorers.is_address",
        "make_scorers": "deepgen.evaluation.make_scorers.make_scorers",
    },
    "deepgen.eval.scoring.final_score": {
        "parse": "deepgen.evaluation.judge_benchmark.parse_final_score",
    },
    "deepgen.eval.wordings": {
        "Wording": "deepgen.evaluation.judge_prompts.JudgePrompt",
        "Wordings": "deepgen.evaluation.judge_prompts.JudgePrompts",
    },
    "deepgen.models.branches": {
        "Branches": "deepgen.sampling.guided_inputs.GuidedInputs",
    },
    "deepgen.models.trajectory": {
        "Trajectory": "deepgen.sampling.step_cache.StepCache",
    },
    "deepgen.planning.cards": {
        "CARDS": "deepgen.planning.accelerators.ACCELERATORS",
        "Card": "deepgen.planning.accelerators.Accelerator",
        "card": "deepgen.planning.accelerators.accelerator",
        "card_of_chip": "deepgen.planning.accelerators.accelerator_of_chip",
        "card_of_device": "deepgen.planning.accelerators.accelerator_of_device",
    },
    "deepgen.serve.adapters": {
        "LoraShelf": "deepgen.serving.adapters.LoraAdapters",
    },
    "deepgen.serve.app": {
        "ServeConfig": "deepgen.serving.config.ServeConfig",
    },
    "deepgen.serve.desk": {
        "Desk": "deepgen.serving.request_handler.RequestHandler",
    },
    "deepgen.serve.fields": {
        "Fields": "deepgen.serving.schema.ImageGenerationRequest",
    },
    "deepgen.serve.jobs": {
        "DrawRequest": "deepgen.serving.jobs.GenerationRequest",
        "Drawn": "deepgen.serving.jobs.ImageDone",
        "Draws": "deepgen.serving.jobs.EngineProtocol",
        "Ended": "deepgen.serving.jobs.JobDone",
        "JobFacts": "deepgen.serving.jobs.JobInfo",
        "ModelFacts": "deepgen.serving.jobs.ModelInfo",
        "Placed": "deepgen.serving.jobs.Queued",
    },
    "deepgen.serve.middleware": {
        "Around": "deepgen.serving.middleware.RequestMiddleware",
    },
    "deepgen.serve.orders": {
        "Order": "deepgen.serving.pool_jobs.PoolJob",
        "Share": "deepgen.serving.pool_jobs.WorkerJob",
    },
    "deepgen.serve.pictures": {
        "read_mask": "deepgen.uploads.decoding.read_mask",
        "read_picture": "deepgen.uploads.decoding.read_image",
        "write_picture": "deepgen.serving.images.write_image",
    },
    "deepgen.serve.shelf": {
        "Shelf": "deepgen.serving.images.ImageStore",
    },
    "deepgen.serve.worker": {
        "Measured": "deepgen.serving.worker.Measurement",
        "Memory": "deepgen.serving.worker.MemoryReport",
        "Told": "deepgen.serving.worker.JobEvent",
    },
    "deepgen.train.experience": {
        "Drawn": "deepgen.rl.rollout_buffer.RolloutBuffer",
        "Experience": "deepgen.rl.rollout_buffer.RolloutBuffer",
        "Judged": "deepgen.rl.advantages.AdvantageBatch",
        "Scored": "deepgen.rewards.reward_batch.RewardBatch",
    },
    "deepgen.train.plan": {
        "CARDS": "deepgen.planning.accelerators.ACCELERATORS",
        "Card": "deepgen.planning.accelerators.Accelerator",
        "Plan": "deepgen.training.plan.TrainingPlan",
        "card": "deepgen.planning.accelerators.accelerator",
    },
    "deepgen.rewards.panel": {
        "Panel": "deepgen.rewards.ensemble.RewardEnsemble",
        "PanelConfig": "deepgen.rewards.ensemble.RewardEnsembleConfig",
        "Scores": "deepgen.rewards.reward_batch.RewardBatch",
        "Submission": "deepgen.rewards.ensemble.Submission",
        "TooManyFailures": "deepgen.rewards.ensemble.TooManyFailures",
    },
    "deepgen.train.loop": {
        "Observer": "deepgen.training.config.Observer",
        "StageLoss": "deepgen.training.config.StageLoss",
    },
    "deepgen.train.policy": {
        "Asked": "deepgen.rl.policy.EncodedPrompt",
    },
    "deepgen.train.rl_stage": {
        "RLConfig": "deepgen.rl.recipe.RLConfig",
    },
    "deepgen.train.rl_sheet": {
        "Sheet": "deepgen.rl.contact_sheet.ContactSheet",
    },
    "deepgen.train.rollouts": {
        "Explorer": "deepgen.rl.rollout_sampler.RolloutSampler",
    },
    "deepgen.train.sharding": {
        "Piece": "deepgen.training.sharding.ShardSlice",
        "Turn": "deepgen.training.sharding.SyncedMicroBatch",
        "Turns": "deepgen.training.sharding.MicroBatchSync",
    },
    "deepgen.train.stages.rl": {
        "FlatGroups": "deepgen.rl.config.FlatGroups",
        "RLConfig": "deepgen.rl.recipe.RLConfig",
    },
    "deepgen.train.supervised": {
        "DropoutConfig": "deepgen.training.supervised_settings.DropoutConfig",
        "Precision": "deepgen.training.supervised_settings.Precision",
        "prepare_parts": "deepgen.training.supervised_stage.prepare_parts",
    },
    "deepgen.train.stages.storybook_vlm": {
        "ReadingBatch": "deepgen.tiny.stages.vlm.StorybookReadingBatch",
    },
    "deepgen.recipes.tiny": {
        f"{old}_{x}": f"deepgen.{home}.{new}_{x}"
        for old, home, new in (
            ("tiny", "recipes.shapes", "shapes"),
            ("storybook", "tiny.recipes", "storybook"),
        )
        for x in _FLAT
    }
    | {"finish_storybook_vae": "deepgen.tiny.recipes.finish_vae"},
    **{
        f"{folder}.stages.tiny_{x}": {
            f"Tiny{name}{end}": f"deepgen.training.stages.shapes_{x}.Shapes{name}{end}"
            for end in ("", "Config")
        }
        for folder in _TRAINING
        for x, name in _FLAT.items()
    },
}


def register() -> None:
    """Make the old paths importable."""
    OldModules(FOLDERS, MODULES, NAMES).register()
