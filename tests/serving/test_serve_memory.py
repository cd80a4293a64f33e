"""A real server process and what all requests together hold of pixels and bytes, which is given back."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_process import CLAIM

SOURCE = Path(__file__).parents[2] / "src"
HELD = 4_000_000  # pixels; 4 edits of the largest picture that comes back whole


class Process:
    """`deepgen serve tiny` with small budgets."""

    def __init__(self) -> None:
        limits = {"--max-held-pixels": HELD, "--max-edit-pixels": 1_000_000, "--max-bodies-mib": 2}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deepgen", "serve", "tiny", "--port", "0"),
                *(str(part) for pair in limits.items() for part in pair),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"serving on (\S+)", line):
                break
        else:
            raise AssertionError("the server did not start")
        self.url = found[1]
        self.http = httpx.Client(base_url=self.url, timeout=300, trust_env=False)
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def edit(self, *files: bytes, mask: bytes | None = None, **fields: Any) -> httpx.Response:
        parts = [("image", (f"{index}", file)) for index, file in enumerate(files)]
        parts += [] if mask is None else [("mask", ("mask", mask))]
        data = {"prompt": "make it night", "num_inference_steps": "1", **fields}
        return self.http.post("/v1/images/edits", data=data, files=parts)

    def worker(self) -> int:
        """The process that draws: the child that holds most."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return max(map(int, children), key=lambda p: int(Path(f"/proc/{p}/statm").read_text().split()[1]))


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    started = Process()
    yield started
    started.http.close()
    started.process.terminate()
    assert started.process.wait(60) == 0


def file(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    colour = {"RGB": "red", "RGBA": (0, 0, 0, 0), "1": 0}[mode]
    Image.new(mode, (width, height), colour).save(content, kind)
    return content.getvalue()


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return response.json()["error"]["message"]


def test_a_file_of_74_bytes_cannot_claim_64_million_rows(server: Process) -> None:
    assert len(CLAIM) == 74
    assert "1x64000000; the longer side may be at most 16 times" in error(server.edit(CLAIM), 413)
    assert "image 2 is 1x64000000" in error(server.edit(file(8, 8), CLAIM), 413)
    address = f"data:image/png;base64,{base64.b64encode(CLAIM).decode()}"
    content = [{"type": "text", "text": "bluer"}, {"type": "image_url", "image_url": {"url": address}}]
    chat = server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]})
    assert "1x64000000" in error(chat, 413)


def test_a_large_picture_comes_back_no_larger_than_allowed_and_the_answer_says_so(server: Process) -> None:
    answer = server.edit(file(3000, 1500), file(2000, 2000, "JPEG"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == "1414x707"
    assert "3000x1500 pixels, and edits come back with at most 1,000,000" in answer.json()["warnings"][0]


def test_pixels_over_the_budget_are_refused_with_what_would_fit(server: Process) -> None:
    assert "n of at most 3 would fit" in error(server.edit(file(1000, 1000), n=5), 413)
    large = error(server.edit(file(1100, 1000), mask=file(1100, 1000, mode="RGBA")), 413)
    assert re.search(r"may have 1,000,000 pixels.*scale both down to 1048x953", large)
    nine = [file(8000, 8000, mode="1")] * 9
    assert "576,000,000 pixels together" in error(server.edit(*nine), 413)
    assert server.edit(file(64, 64)).status_code == 200


def test_uploads_that_stand_still_hold_what_came_and_give_it_back_when_they_end(server: Process) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    def stand_still() -> socket.socket:
        slow = socket.create_connection((host, int(port)))
        slow.sendall(head + b"Content-Length: 1900000\r\n\r\n" + b" " * 1_600_000)
        return slow

    body = {"prompt": "a cat", "num_inference_steps": 1, "user": "x" * 500}
    padding = b" " * 600_000  # JSON may be surrounded by spaces
    content = httpx.Request("POST", server.url, json=body).content + padding

    def ask() -> httpx.Response:
        headers = {"content-type": "application/json"}
        return server.http.post("/v1/images/generations", content=content, headers=headers)

    assert ask().status_code == 200  # the worker is there, and no answer below waits for it
    slow = stand_still()
    deadline = time.monotonic() + 60
    while (refused := ask()).status_code == 200:  # until the server has read what was sent
        assert time.monotonic() < deadline
        slow.close()  # on a busy machine it may have been closed for taking too long
        slow = stand_still()
        time.sleep(0.5)
    assert "send it again later" in error(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "bytes_in_flight"
    slow.close()
    while (answer := ask()).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer.status_code == 200


@pytest.mark.slow
def test_a_worker_that_is_killed_with_pixels_in_flight_leaves_the_budget_whole(server: Process) -> None:
    full = {"n": 3, "num_inference_steps": "60"}  # with the picture, all that may be held
    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(server.edit, file(1000, 1000), **full)
        deadline = time.monotonic() + 120
        while not server.http.get("/ready").json()["running"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        busy = server.edit(file(1000, 1000), n=2)
        assert busy.json()["error"]["code"] == "pixels_in_flight", busy.text
        os.kill(server.worker(), signal.SIGKILL)
        assert drawn.result().status_code in (200, 500, 503)
    while (again := server.edit(file(1000, 1000), n=3)).status_code in (429, 503):
        assert time.monotonic() < deadline + 120
        time.sleep(0.5)
    assert again.status_code == 200, again.text
