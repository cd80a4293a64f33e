"""The server on a local Ray with two replicas: the client's tests of the real server, against that one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig

from deepgen.pipeline import DeepGenPipeline
from serve_process import ENVIRONMENT, ROOT
from test_client import (  # noqa: F401 - collected here again, with this file's `url`
    test_a_script_draws_edits_and_saves,
    test_a_stream_tells_the_way_to_the_same_picture,
    test_the_servers_refusal_names_the_field,
)

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray_serve() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        import ray_serve  # pyright: ignore[reportMissingImports]  # examples/ray_serve.py

        yield ray_serve
        sys.modules.pop("ray_serve")


@pytest.fixture(scope="module")
def url(ray_serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ray import serve  # pyright: ignore[reportMissingImports]  # an extra

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token into the home of whoever tests
    patch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine is slow, not broken
    patch.setenv("RAY_worker_register_timeout_seconds", "300")
    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(ROOT / "examples")])
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        folder = tmp_path_factory.mktemp("loras")
        write_lora(folder / "style")
        more = {
            "max_steps": "40",
            "max_images": "3",
            "preset": "fast",
            "adapters": str(folder),
            "name": "deepgen-1.0",
        }
        serve.run(ray_serve.build({"model": "tiny", "num_replicas": "2", **more}))
        (application,) = serve.status().applications.values()
        assert application.deployments["deepgen"].replica_states == {"RUNNING": 2}
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()
        patch.undo()


def write_lora(folder: Path) -> None:
    pipe = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipe.save_lora_weights(folder)


def test_limits_adapters_and_presets_are_the_replicas_own(url: str) -> None:
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
        (card,) = http.get("/v1/models").json()["data"]
        assert (card["id"], card["preset"], card["loras"]) == ("deepgen-1.0", "fast", ["style"])

        def ask(**fields: Any) -> httpx.Response:
            return http.post("/v1/images/generations", json={"prompt": "a red circle", **fields})

        for fields, field in (({"num_inference_steps": 41}, "num_inference_steps"), ({"n": 4}, "n")):
            refused = ask(**fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
        assert ask(lora="other").json()["error"]["param"] == "lora"
        plain, styled = (ask(seed=1, **fields).json()["data"][0] for fields in ({}, {"lora": "style"}))
        assert plain["b64_json"] != styled["b64_json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replicas": "2"}, "unknown argument 'replicas'; known"),
        ({"max_steps": "many"}, "max_steps must be a whole number of at least 1, got 'many'"),
        ({"max_batch": "0"}, "max_batch must be"),
        ({"preset": "slow"}, "preset must be one of exact"),
        ({"timeout": "-1"}, "timeout must be a number of seconds"),
    ],
)
def test_a_wrong_argument_is_refused(ray_serve: Any, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ray_serve.build(arguments)
