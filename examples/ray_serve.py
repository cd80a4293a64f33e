"""The same server on a Ray cluster: every replica holds a model and answers the whole API.

    pip install 'deepgen-image[serve]' 'ray[serve]'
    serve run examples.ray_serve:build model=deepgenteam/DeepGen-1.0-diffusers num_gpus=1 num_replicas=4

Further arguments are those of `deepgen serve` by the same names: preset, max_batch, max_running, max_waiting,
max_waiting_per_key, max_images, max_steps, max_pixels, timeout, name, key_file, and adapters as a list with
commas (style=/models/style.safetensors,/models/loras). Paths are read where the replica runs.

Ray routes each request to a replica; batching, streaming, limits and errors are the application's own. A
replica that is stopped first draws what it accepted. `num_replicas=auto` lets Ray choose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve  # pyright: ignore[reportMissingImports]  # an extra

# Arguments that are whole numbers, and where they go.
_ENGINE = {"max_batch", "max_running", "max_waiting", "max_waiting_per_key"}
_LIMITS = {"max_images", "max_steps", "max_pixels", "max_references", "max_body_mib"}
_TEXTS = {"model", "name", "device", "preset", "key_file", "adapters", "allowed_hosts"}
_CLUSTER = {"num_gpus", "num_cpus", "num_replicas"}


def make_replica_app(arguments: Mapping[str, str]) -> Any:
    """What a replica serves; runs where the replica does, so the model is loaded there."""
    from deepgen.cli.loading import load_pipeline
    from deepgen.cli.options import ModelOptions, short_name
    from deepgen.http_access import AllowedHosts
    from deepgen.serving.adapters import read_loras
    from deepgen.serving.app import make_app
    from deepgen.serving.config import ApiKeys, ServeConfig
    from deepgen.serving.engine import Engine, EngineConfig
    from deepgen.serving.metrics import Metrics
    from deepgen.serving.schema import Limits

    numbers = {name: int(arguments[name]) for name in (_ENGINE | _LIMITS) & set(arguments)}
    limits: dict[str, Any] = {name: numbers[name] for name in _LIMITS & set(numbers)}
    if "timeout" in arguments:
        limits["timeout_s"] = float(arguments["timeout"])
    options: dict[str, Any] = {name: numbers[name] for name in _ENGINE & set(numbers)}
    adapters = [part for part in arguments.get("adapters", "").split(",") if part]
    config = EngineConfig(
        **options, loras=read_loras(adapters), preset=arguments.get("preset", EngineConfig.preset)
    )
    allowed = Limits(**limits)  # more pictures than may wait would never be accepted
    allowed = replace(allowed, max_images=min(allowed.max_images, config.max_waiting))
    model, device = arguments.get("model", "tiny"), arguments.get("device", "auto")
    pipe = load_pipeline(ModelOptions(model=model, device=device))  # pyright: ignore[reportArgumentType]
    pipe.set_progress_bar_config(disable=True)
    metrics, file = Metrics(), arguments.get("key_file")
    keys = ApiKeys() if file is None else ApiKeys.read(Path(file))
    name = arguments.get("name") or short_name(model)
    engine = Engine(pipe, config, metrics.measure)
    public = arguments.get("allowed_hosts", "").split(",")  # names that lead here
    hosts = AllowedHosts.of_server("0.0.0.0", public, has_keys=not keys.is_open)
    served = ServeConfig(model_name=name, keys=keys, limits=allowed, allowed_hosts=hosts)
    return make_app(engine, served, metrics)


def check_arguments(arguments: Mapping[str, str]) -> None:
    """ValueError for an argument that is unknown or none of its kind, before a replica is started for it."""
    from deepgen.sampling.presets import NAMES

    known = _ENGINE | _LIMITS | _TEXTS | _CLUSTER | {"timeout"}
    if unknown := sorted(set(arguments) - known):
        raise ValueError(f"unknown argument {unknown[0]!r}; known: {', '.join(sorted(known))}")
    for name in sorted((_ENGINE | _LIMITS) & set(arguments)):
        if not re.fullmatch("[1-9][0-9]{0,11}", arguments[name]):
            raise ValueError(f"{name} must be a whole number of at least 1, got {arguments[name]!r}")
    if (preset := arguments.get("preset", "exact")) not in NAMES:
        raise ValueError(f"preset must be one of {', '.join(NAMES)}, got {preset!r}")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", seconds := arguments.get("timeout", "1")):
        raise ValueError(f"timeout must be a number of seconds, got {seconds!r}")


def build(arguments: dict[str, str]) -> Any:
    """The Ray Serve application; `arguments` are those of `serve run`, all of them text."""
    check_arguments(arguments)
    replicas = arguments.get("num_replicas", "1")

    @serve.deployment(
        name="deepgen",
        num_replicas="auto" if replicas == "auto" else int(replicas),
        max_ongoing_requests=64,  # the engine's own queue decides above that
        graceful_shutdown_timeout_s=600,
        ray_actor_options={
            "num_gpus": float(arguments.get("num_gpus", "0")),
            "num_cpus": float(arguments.get("num_cpus", "1")),
        },
    )
    @serve.ingress(lambda: make_replica_app(arguments))
    class DeepGen:
        """The application is the deployment."""

    return DeepGen.bind()
