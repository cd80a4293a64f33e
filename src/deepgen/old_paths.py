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
MODULES = {
    **{f"deepgen.models.{name}": f"deepgen.checkpoints.{name}" for name in _TO_CHECKPOINTS},
    **{f"deepgen.eval.scoring.{name}": f"deepgen.evaluation.benchmarks.{name}" for name in _SCORED},
    "deepgen.diffusion.losses": "deepgen.sampling.interpolation",
    "deepgen.eval.detection": "deepgen.rewards.detector",
    "deepgen.eval.forms": "deepgen.evaluation.response_schema",
    "deepgen.eval.judged": "deepgen.evaluation.judge_benchmark",
    "deepgen.eval.remote": "deepgen.rewards.remote_scorers",
    "deepgen.eval.scoring": "deepgen.evaluation.benchmark",
    "deepgen.eval.scoring.cases": "deepgen.evaluation.recorded_cases",
    "deepgen.eval.scoring.final_score": "deepgen.evaluation.final_score",
    "deepgen.eval.verdicts": "deepgen.evaluation.scoring",
    "deepgen.eval.wordings": "deepgen.evaluation.judge_prompts",
    "deepgen.models.bases": "deepgen.checkpoints.base_models",
    "deepgen.models.branches": "deepgen.sampling.guided_inputs",
    "deepgen.models.parallel": "deepgen.sampling.parallel",
    "deepgen.models.sizes": "deepgen.checkpoints.infer_config",
    "deepgen.models.trajectory": "deepgen.sampling.step_cache",
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
    "deepgen.eval.scorers": {
        "AnswersQuestions": "deepgen.rewards.interfaces.QuestionAnswerer",
        "FindsObjects": "deepgen.rewards.interfaces.ObjectDetector",
        "LikensTexts": "deepgen.rewards.interfaces.ImageTextScorer",
        "ScorerConfig": "deepgen.evaluation.make_scorers.ScorerConfig",
        "is_address": "deepgen.rewards.remote_scorers.is_address",
        "make_scorers": "deepgen.evaluation.make_scorers.make_scorers",
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
        "read_picture": "deepgen.serving.images.read_image",
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
    "deepgen.train.policy": {
        "Asked": "deepgen.rl.policy.EncodedPrompt",
    },
    "deepgen.train.rl_sheet": {
        "Sheet": "deepgen.rl.contact_sheet.ContactSheet",
    },
    "deepgen.train.rollouts": {
        "Explorer": "deepgen.rl.rollout_sampler.RolloutSampler",
    },
    "deepgen.train.stages.rl": {
        "FlatGroups": "deepgen.rl.config.FlatGroups",
    },
}


def register() -> None:
    """Make the old paths importable."""
    OldModules(FOLDERS, MODULES, NAMES).register()
