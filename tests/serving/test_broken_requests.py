"""Thousands of broken requests over real sockets: none gets a 500, and every answer is strict JSON."""

from __future__ import annotations

import json
import logging
import random
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from broken_requests import REWARD, BrokenRequest, json_request, json_text, requests

from deepgen.http_access import AccessRules
from deepgen.pipeline import DeepGenPipeline
from deepgen.rewards.service import make_app as make_reward_app
from deepgen.serving.app import make_app
from deepgen.serving.config import ApiKeys, ServeConfig
from deepgen.serving.connections import server_config
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.guard import guarded
from deepgen.serving.schema import Limits
from rewards.reward_fakes import FakeReward
from serve_process import in_thread, listening


@pytest.fixture(scope="module")
def port(_components: dict[str, Any]) -> Iterator[int]:
    defaults = {"height": 32, "width": 32, "num_inference_steps": 1, "guidance_scale": 1.0}
    pipe = DeepGenPipeline(**_components, defaults=defaults)
    pipe.set_progress_bar_config(disable=True)
    limits = Limits(max_images=2, max_steps=1, max_pixels=32 * 32, body_timeout_s=5)
    with in_thread(server_config(make_app(Engine(pipe, EngineConfig()), ServeConfig(limits=limits)))) as port:
        yield port


def answer_to(request: BrokenRequest, port: int) -> bytes:
    """All that is answered before the connection closes; of broken HTTP, what comes soon."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        parts = []
        try:
            connection.sendall(request.wire(f"127.0.0.1:{port}"))
            if request.raw is not None:
                connection.settimeout(0.1)  # it may wait for the rest of what was announced
            while part := connection.recv(1 << 16):
                parts.append(part)
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            """It was answered before all was sent, or never will be."""
        return b"".join(parts)


def strict(text: str) -> Any:
    """JSON that every parser reads: no NaN, and no half of a surrogate pair."""
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    json.dumps(values, ensure_ascii=False).encode()
    return values


def check_answer(request: BrokenRequest, answer: bytes) -> int:
    """The status; an answer is below 500, or says that the server is busy, and its body is JSON."""
    if not answer:
        assert request.raw is not None, (request, "no answer")
        return 0
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status == 100:
        return check_answer(request, body)
    assert status < 500 or status == 503, (request, answer[:2000])
    kind = re.search(rb"content-type: ([^\r;]*)", head, re.IGNORECASE)
    chunks = re.search(rb"transfer-encoding: chunked", head, re.IGNORECASE)
    text = (b"".join(unchunked(body)) if chunks else body).decode()
    if kind and kind[1] == b"text/event-stream":
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert [strict(line) for line in lines if line != "[DONE]"]
    elif text:
        assert kind is not None, answer[:500]
        assert kind[1] in (b"application/json", b"text/html"), answer[:500]
        strict(text if kind[1] == b"application/json" else "0")
    return status


def unchunked(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def test_broken_requests_get_a_refusal_in_json_and_leave_no_trace(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        statuses = [check_answer(request, answer_to(request, port)) for request in requests(21, 200)]
    assert len([status for status in statuses if 400 <= status < 500]) > 120
    assert 200 in statuses  # some come far enough to be drawn
    assert not [record for record in caplog.records if record.exc_info]
    last = BrokenRequest("", raw=b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert check_answer(last, answer_to(last, port)) == 200


@pytest.mark.slow
def test_five_thousand_broken_requests_are_refused_by_a_server_that_lives_on() -> None:
    limits = ["--max-steps", "1", "--max-pixels", "1024", "--max-images", "2"]
    with listening(["serve", "tiny", "--port", "0", *limits]) as (url, lines):
        port = int(url.rpartition(":")[2])
        statuses = [check_answer(request, answer_to(request, port)) for request in requests(22, 5000)]
        last = BrokenRequest("", raw=b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert check_answer(last, answer_to(last, port)) == 200
    assert len([status for status in statuses if 400 <= status < 500]) > 3000
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_reward_service_refuses_broken_requests_in_json(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(count)
    with in_thread(
        server_config(guarded(make_reward_app({"grey": FakeReward()}), ApiKeys(), AccessRules()))
    ) as port:
        for _ in range(count):
            make = chance.choice([json_request, json_text])
            request = make(chance, "/score", REWARD)
            check_answer(request, answer_to(request, port))
    assert not [record for record in caplog.records if record.exc_info]
