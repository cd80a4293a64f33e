"""Networks: VLM, connector, DiT, VAE, attention, prompts, and what is fast on one machine."""

from deepgen.moved import keep_modules

_MOVED = (
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
)  # to deepgen.checkpoints, under the same name
OLD_MODULES = {
    **{f"deepgen.models.{name}": f"deepgen.checkpoints.{name}" for name in _MOVED},
    "deepgen.models.bases": "deepgen.checkpoints.base_models",
    "deepgen.models.sizes": "deepgen.checkpoints.infer_config",
    "deepgen.models.branches": "deepgen.sampling.guided_inputs",
    "deepgen.models.parallel": "deepgen.sampling.parallel",
    "deepgen.models.trajectory": "deepgen.sampling.step_cache",
}
OLD_NAMES = {
    "deepgen.models.branches": {"Branches": "deepgen.sampling.guided_inputs.GuidedInputs"},
    "deepgen.models.trajectory": {"Trajectory": "deepgen.sampling.step_cache.StepCache"},
}

keep_modules(OLD_MODULES, OLD_NAMES)
