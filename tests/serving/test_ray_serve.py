"""The server on a local Ray with two replicas: the client's tests of the real server, against that one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

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
def url(ray_serve: Any) -> Iterator[str]:
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
        serve.run(ray_serve.build({"model": "tiny", "num_replicas": "2"}))
        (application,) = serve.status().applications.values()
        assert application.deployments["deepgen"].replica_states == {"RUNNING": 2}
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()
        patch.undo()


def test_a_misspelt_argument_is_refused(ray_serve: Any) -> None:
    with pytest.raises(ValueError, match="unknown argument 'replicas'; known"):
        ray_serve.build({"replicas": "2"})
