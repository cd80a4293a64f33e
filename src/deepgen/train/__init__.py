"""One training loop for every stage."""

from deepgen.moved import keep_modules

OLD_MODULES = {
    "deepgen.train.experience": "deepgen.rl.rollout_buffer",
    "deepgen.train.gate": "deepgen.rl.gate",
    "deepgen.train.guidance": "deepgen.rl.guidance_search",
    "deepgen.train.judged_prompts": "deepgen.rl.judged_prompts",
    "deepgen.train.policy": "deepgen.rl.policy",
    "deepgen.train.rl_evaluation": "deepgen.rl.evaluation",
    "deepgen.train.rl_plan": "deepgen.rl.plan",
    "deepgen.train.rl_sheet": "deepgen.rl.contact_sheet",
    "deepgen.train.rl_stage": "deepgen.rl.stage",
    "deepgen.train.rollouts": "deepgen.rl.rollout_sampler",
    "deepgen.train.stages.rl": "deepgen.rl.stage",
}
OLD_NAMES = {
    "deepgen.train.experience": {
        "Drawn": "deepgen.rl.rollout_buffer.RolloutBuffer",
        "Experience": "deepgen.rl.rollout_buffer.RolloutBuffer",
        "Judged": "deepgen.rl.advantages.AdvantageBatch",
        "Scored": "deepgen.rewards.reward_batch.RewardBatch",
    },
    "deepgen.train.policy": {"Asked": "deepgen.rl.policy.EncodedPrompt"},
    "deepgen.train.rl_sheet": {"Sheet": "deepgen.rl.contact_sheet.ContactSheet"},
    "deepgen.train.rollouts": {"Explorer": "deepgen.rl.rollout_sampler.RolloutSampler"},
    "deepgen.train.stages.rl": {"FlatGroups": "deepgen.rl.config.FlatGroups"},
}

keep_modules(OLD_MODULES, OLD_NAMES)
