"""The same server on a Ray cluster: every replica holds a model and answers the whole API.

    pip install 'deepgen-image[serve]' 'ray[serve]'
    serve run examples.ray_serve:build model=deepgenteam/DeepGen-1.0-diffusers num_gpus=1 num_replicas=4

Ray routes each request to a replica; batching, streaming, limits and errors are the application's own. A
replica that is stopped first draws what it accepted. `num_replicas=auto` lets Ray choose.
"""

from __future__ import annotations

from typing import Any

from ray import serve  # pyright: ignore[reportMissingImports]  # an extra


def make_replica_app(
    model: str, device: str, key_file: str | None, max_batch: int, allowed_hosts: str = ""
) -> Any:
    """What a replica serves; runs where the replica does, so the model is loaded there."""
    from pathlib import Path

    from deepgen.cli.loading import load_pipeline
    from deepgen.cli.options import ModelOptions
    from deepgen.http_access import AllowedHosts
    from deepgen.serving.app import make_app
    from deepgen.serving.config import ApiKeys, ServeConfig
    from deepgen.serving.engine import Engine, EngineConfig
    from deepgen.serving.metrics import Metrics

    pipe = load_pipeline(ModelOptions(model=model, device=device))  # pyright: ignore[reportArgumentType]
    pipe.set_progress_bar_config(disable=True)
    metrics = Metrics()
    engine = Engine(pipe, EngineConfig(max_batch=max_batch), metrics.measure)
    keys = ApiKeys() if key_file is None else ApiKeys.read(Path(key_file))
    hosts = AllowedHosts.of_server("0.0.0.0", [allowed_hosts], has_keys=not keys.is_open)
    return make_app(engine, ServeConfig(keys=keys, allowed_hosts=hosts), metrics)


def build(arguments: dict[str, str]) -> Any:
    """The Ray Serve application; `arguments` are those of `serve run`, all of them text."""
    known = {"model", "device", "key_file", "max_batch", "num_gpus", "num_cpus", "num_replicas"}
    known |= {"allowed_hosts"}  # without keys, public names that lead here, joined by commas
    if unknown := sorted(set(arguments) - known):
        raise ValueError(f"unknown argument {unknown[0]!r}; known: {', '.join(sorted(known))}")
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
    @serve.ingress(
        lambda: make_replica_app(
            arguments.get("model", "tiny"),
            arguments.get("device", "auto"),
            arguments.get("key_file"),
            int(arguments.get("max_batch", "8")),
            arguments.get("allowed_hosts", ""),
        )
    )
    class DeepGen:
        """The application is the deployment."""

    return DeepGen.bind()
