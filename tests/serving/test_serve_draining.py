"""A server ends without losing a request: the gate by itself, and real processes that get signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepgen.serving.draining import Drain, DrainGate, Ending
from serve_process import started

# --- the gate -----------------------------------------------------------------------------------------------


async def answering(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"connection", b"keep-alive"), (b"x-its-own", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"drawn"})


async def ask(gate: DrainGate, method: str = "POST", pieces: int = 1) -> tuple[int, dict[bytes, bytes], int]:
    """(status, headers, pieces of the body that were read)."""
    sent: list[dict[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x", "more_body": read < pieces}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await gate({"type": "http", "method": method}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), read


def test_while_draining_work_is_refused_after_its_body_and_every_answer_closes_its_connection() -> None:
    gate = DrainGate(answering, b"{}")
    status, headers, _ = asyncio.run(ask(gate))
    assert (status, headers[b"connection"]) == (200, b"keep-alive")
    gate.is_draining = True
    status, headers, read = asyncio.run(ask(gate, pieces=5))
    assert (status, headers[b"connection"], headers[b"retry-after"]) == (503, b"close", b"5")
    assert read == 5
    status, headers, _ = asyncio.run(ask(gate, "GET"))
    assert (status, headers[b"connection"], headers[b"x-its-own"]) == (200, b"close", b"1")
    assert gate.num_requests == 0


def test_an_application_that_refuses_by_itself_is_asked() -> None:
    gate = DrainGate(answering)
    gate.is_draining = True
    assert asyncio.run(ask(gate))[0] == 200


def test_the_port_closes_when_nothing_is_under_way_and_the_notice_is_over() -> None:
    gate, told = DrainGate(answering), []
    drain = Drain(gate, Ending(drain=0.2, notice=0.1, on_give_up=lambda: told.append("given up")))

    async def run() -> None:
        assert not await drain.is_done()
        assert drain.begin()
        assert not drain.begin()  # the second signal
        assert not await drain.is_done()  # the notice
        await asyncio.sleep(0.11)
        gate.num_requests = 1
        assert not await drain.is_done()
        gate.num_requests = 0
        assert await drain.is_done()
        gate.num_requests = 1
        await asyncio.sleep(0.1)
        assert await drain.is_done()

    asyncio.run(run())
    assert told == ["given up"]


# --- processes ----------------------------------------------------------------------------------------------


LONG = {"prompt": "a red circle", "num_inference_steps": 200, "n": 2, "seed": 1}


@pytest.mark.slow
def test_while_a_picture_is_drawn_the_port_stays_open_and_refuses() -> None:
    with started("serve", "tiny") as server:
        thread, answers = server.draw(LONG)
        streamed: list[str] = []

        def stream() -> None:
            streamed.append(server.post({**LONG, "n": 1, "stream": True}).text)

        other = threading.Thread(target=stream)
        other.start()
        server.until(lambda: server.http.get("/ready").json()["running"] == 3)
        kept = httpx.Client(base_url=server.url, trust_env=False)
        assert "connection" not in kept.get("/health").headers
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: kept.get("/ready").json()["status"] == "draining")
        for _ in range(3):
            ready = kept.get("/ready")
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            refused = kept.post("/v1/images/generations", json={"prompt": "a"})
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert refused.headers["retry-after"] == "5"
            assert refused.json()["error"]["code"] == "shutting_down"
            assert kept.get("/health").status_code == 200
            assert not answers
        thread.join()
        other.join()
        assert answers[0].status_code == 200
        assert [one["seed"] for one in answers[0].json()["data"]] == [1, 2]
        assert "image_generation.completed" in streamed[0]
        assert streamed[0].endswith("data: [DONE]\n\n")
        assert server.process.wait(60) == 0
    lines = [json.loads(line) for line in server.lines]  # from the first to the last
    assert lines[-1]["message"] == "stopped"
    with pytest.raises(httpx.ConnectError):
        kept.get("/ready")


@pytest.mark.slow
def test_what_is_not_done_in_time_is_answered_with_503() -> None:
    with started("serve", "tiny", "--drain", "1") as server:
        thread, answers = server.draw({**LONG, "n": 8})
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert answers[0].status_code == 503
        assert answers[0].json()["error"]["code"] == "shutting_down"
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_a_notice_keeps_the_port_open_for_balancers_and_a_second_signal_ends_it() -> None:
    with started("serve", "tiny", "--drain-notice", "120") as server:
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.http.get("/ready").status_code == 503)
        time.sleep(1)
        assert server.post({"prompt": "a"}).status_code == 503
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_sighup_rereads_the_keys_and_costs_nobody_his_picture(tmp_path: Path) -> None:
    def key(name: str) -> dict[str, dict[str, str]]:
        return {"headers": {"authorization": f"Bearer {name}-0123456789abcdef"}}

    keys = tmp_path / "keys.txt"
    keys.write_text("anna:anna-0123456789abcdef\n")
    quick = {"prompt": "a", "num_inference_steps": 1}
    with started("serve", "tiny", "--api-key-file", str(keys)) as server:
        thread, answers = server.draw(LONG, **key("anna"))
        assert server.post(quick, **key("ben")).status_code == 401
        keys.write_text("ben:ben-0123456789abcdef\n")
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.post(quick, **key("ben")).status_code == 200)
        assert server.post(quick, **key("anna")).status_code == 401
        keys.write_text("broken\n")
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: "the keys stay as they were" in "".join(server.lines))
        assert server.post(quick, **key("ben")).status_code == 200
        thread.join()
        assert answers[0].status_code == 200  # its key is gone, and it was accepted
        assert server.http.get("/ready").json()["workers"] == {"ready": 1, "total": 1}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert "0123456789abcdef" not in "".join(server.lines)


@pytest.mark.slow
def test_a_server_of_rewards_answers_what_it_was_sent_and_ends_with_0() -> None:
    with started("rewards", "serve", "jpeg", pattern=r"jpeg  \S+  (http://\S+)") as server:
        port = int(server.url.rpartition(":")[2])
        body = json.dumps({"reward": "jpeg", "candidates": []}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as begun:
            head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            begun.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert server.http.get("/health").headers["connection"] == "close"
            refused = server.http.post("/score", content=b"x" * 5_000_000)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert "shutting down" in refused.json()["error"]
            begun.sendall(body[10:])
            answer = begun.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["verdicts"] == []
        assert server.process.wait(60) == 0
