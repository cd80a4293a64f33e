"""Networks and their weights: VLM, connector, DiT, VAE, and the translation of released files."""

from deepgen.moved import keep_modules

OLD_MODULES = {
    "deepgen.models.branches": "deepgen.sampling.guided_inputs",
    "deepgen.models.parallel": "deepgen.sampling.parallel",
    "deepgen.models.trajectory": "deepgen.sampling.step_cache",
}
OLD_NAMES = {
    "deepgen.models.branches": {"Branches": "deepgen.sampling.guided_inputs.GuidedInputs"},
    "deepgen.models.trajectory": {"Trajectory": "deepgen.sampling.step_cache.StepCache"},
}

keep_modules(OLD_MODULES, OLD_NAMES)
