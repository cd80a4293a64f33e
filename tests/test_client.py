"""The client: what it sends and makes of answers, on a server of ten lines and on the real one."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deepgen
from deepgen.client import (
    Client,
    DrawnImage,
    Patience,
    PreviewImage,
    RequestFailed,
    ServerUnreachable,
    Step,
    Waiting,
)
from deepgen.data.png import read_record
from serve_process import serving

NO_WAIT = Patience(backoff=0, timeout=10)
DRAWN = {"data": [{"b64_json": "AAAA", "seed": 4}], "size": "64x64"}


@dataclass
class Scripted:
    """Answers with what stands in `script`, one entry a request; keeps what it was asked."""

    script: list[tuple[int, dict[str, str], bytes]]
    url: str = ""
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    told = Scripted([])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.asked.append((self.path, dict(self.headers), json.loads(body)))
            status, headers, content = told.script.pop(0)
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(status: int, code: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    error = {"message": "no", "type": "x", "param": "size", "code": code}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"x-request-id": "req-1", **names}, json.dumps({"error": error}).encode()


def drawn() -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(DRAWN).encode()


def test_the_client_is_a_name_of_the_package_and_fields_reach_the_server(scripted: Scripted) -> None:
    scripted.script = [drawn()]
    client = deepgen.Client(scripted.url + "/v1/", "secret", patience=NO_WAIT)
    images = client.generate("a star", seed=4, guidance_scale=2.0, negative_prompt=None)
    path, headers, body = scripted.asked[0]
    assert path == "/v1/images/generations"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "prompt": "a star",
        "n": 1,
        "seed": 4,
        "guidance_scale": 2.0,
        "response_format": "b64_json",
    }
    assert images == [DrawnImage(b"\0\0\0", 4, "64x64")]
    assert "secret" not in repr(client)


def test_what_passes_is_tried_again_and_retry_after_is_obeyed(scripted: Scripted) -> None:
    scripted.script = [
        refusal(429, "queue_full", retry_after="1"),
        refusal(503, "x", retry_after="0"),
        drawn(),
    ]
    started = time.monotonic()
    assert Client(scripted.url, patience=NO_WAIT).generate("a")[0].seed == 4
    assert time.monotonic() - started >= 1
    assert len(scripted.asked) == 3


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (refusal(400, "invalid_value"), 1),
        (refusal(504, "deadline_exceeded", x_should_retry="false"), 1),
        (refusal(429, "queue_full", retry_after="900"), 1),
        (refusal(503, "shutting_down"), 3),
    ],
)
def test_a_refusal_becomes_an_error_once_trying_again_is_in_vain(
    scripted: Scripted, answer: Any, tries: int
) -> None:
    scripted.script = [answer] * tries
    with pytest.raises(RequestFailed, match="req-1") as failed:
        Client(scripted.url, patience=Patience(backoff=0, retries=2)).generate("a")
    assert len(scripted.asked) == tries
    error = json.loads(answer[2])["error"]
    assert (failed.value.status, failed.value.code) == (answer[0], error["code"])
    assert (failed.value.param, failed.value.message) == ("size", "no")


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"error": "text"}', b"\xff"])
def test_an_error_in_other_words_is_an_error_all_the_same(scripted: Scripted, content: bytes) -> None:
    scripted.script = [(404, {}, content)]
    with pytest.raises(RequestFailed, match="not in the words of this API") as failed:
        Client(scripted.url).generate("a")
    assert failed.value.status == 404


def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    client = Client("http://127.0.0.1:9", patience=Patience(retries=1, backoff=0))
    assert not client.is_ready()
    with pytest.raises(ServerUnreachable, match=r"2 tries.*deepgen serve"):
        client.generate("a")


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (['{"error": {"message": "late", "code": "deadline_exceeded"}}'], RequestFailed, "late"),
        (["[DONE]"], RequestFailed, "after 0 of 1"),
        ([], RequestFailed, "after 0 of 1"),
    ],
)
def test_a_stream_that_fails_raises(scripted: Scripted, lines: list[str], error: Any, message: str) -> None:
    content = "".join(f": ping\n\nevent: x\ndata: {line}\n\n" for line in lines).encode()
    scripted.script = [(200, {"x-request-id": "req-7"}, content)]
    with pytest.raises(error, match=message) as failed:
        list(Client(scripted.url).stream("a"))
    assert failed.value.request_id == "req-7"


def test_a_stream_that_breaks_says_how_far_it_came(scripted: Scripted) -> None:
    scripted.script = [(200, {"content-length": "999"}, b'data: {"type": "image_generation.later"}\n\n')]
    with pytest.raises((ServerUnreachable, RequestFailed), match="0 of 1"):
        list(Client(scripted.url).stream("a"))


def test_characters_that_end_lines_elsewhere_end_none_here(scripted: Scripted) -> None:
    line = json.dumps({"error": {"message": "one\u2028two\x85three"}}, ensure_ascii=False)
    scripted.script = [(200, {}, f"data: {line}\r\n\r\n".encode())]
    with pytest.raises(RequestFailed, match="one\u2028two\x85three"):
        list(Client(scripted.url).stream("a"))


def test_a_proxy_of_the_network_is_not_asked_for_this_machine(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    scripted.script = [drawn()]
    assert Client(scripted.url, patience=NO_WAIT).generate("a")[0].seed == 4


def test_a_redirect_is_followed(scripted: Scripted) -> None:
    scripted.script = [(307, {"location": "/elsewhere"}, b""), drawn()]
    assert Client(scripted.url, patience=NO_WAIT).generate("a")[0].seed == 4
    assert [path for path, _, _ in scripted.asked] == ["/v1/images/generations", "/elsewhere"]


def test_pictures_of_every_kind_are_sent_and_files_go_as_they_are(
    scripted: Scripted, image: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    image.save(path)
    array, mask = np.asarray(image), Image.new("RGBA", image.size)
    given = [path, str(path), path.read_bytes(), image, array, DrawnImage(path.read_bytes(), 1, "90x70")]
    scripted.script = [drawn()]
    Client(scripted.url).edit("blue", [*given, "https://example.org/a.png"], mask=mask)
    body = scripted.asked[0][2]
    sent = [entry["image_url"] for entry in body["images"]]
    assert sent[-1] == "https://example.org/a.png"
    assert sent[0] == sent[1] == sent[2] == sent[5]
    assert sent[3] == sent[4] != sent[0]
    assert body["mask"]["image_url"].startswith("data:image/unknown;base64,")


def test_what_cannot_be_sent_is_refused_here(tmp_path: Path) -> None:
    client = Client()
    with pytest.raises(ValueError, match="an edit needs a picture"):
        client.edit("a", [])
    with pytest.raises(ValueError, match="give the picture as images"):
        client.stream("a", mask=Image.new("RGBA", (4, 4)))
    with pytest.raises(FileNotFoundError):
        client.edit("a", tmp_path / "none.png")
    with pytest.raises(ValueError, match="http://"):
        Client("localhost:8000")
    with pytest.raises(ValueError, match="retries 0 or more"):
        Patience(retries=-1)


# --- the real server ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.mark.slow
def test_a_script_draws_edits_and_saves(url: str, tmp_path: Path) -> None:
    client = Client(url)
    assert client.is_ready()
    assert client.model()["id"] == "tiny"
    two = client.generate("a red circle", n=2, seed=3, num_inference_steps=2)
    assert [(p.seed, p.index) for p in two] == [(3, 0), (4, 1)]
    record = read_record(two[0].save(tmp_path / "circle.png"))
    assert record is not None
    assert (record.seed, record.prompt) == (3, "a red circle")
    for given in (two[0], tmp_path / "circle.png", [two[0].image, two[1]]):
        edited = client.edit("make the circle blue", given, seed=1, num_inference_steps=2)
        assert edited[0].image.size == two[0].image.size


@pytest.mark.slow
def test_a_stream_tells_the_way_to_the_same_picture(url: str) -> None:
    client = Client(url)
    events = list(client.stream("a red circle", seed=3, previews=2, num_inference_steps=4))
    assert isinstance(events[0], Waiting)
    assert [e.step for e in events if isinstance(e, Step)] == [0, 1, 2, 3, 4]
    previews = [e for e in events if isinstance(e, PreviewImage)]
    assert [e.number for e in previews] == [0, 1]
    assert previews[0].image.width * 2 == events[-1].image.width  # type: ignore[union-attr]
    assert events[-1] == client.generate("a red circle", seed=3, num_inference_steps=4)[0]


@pytest.mark.slow
def test_leaving_a_stream_cancels_the_request(url: str) -> None:
    client = Client(url)
    for event in client.stream("a red circle", num_inference_steps=200):
        if isinstance(event, Step) and event.step == 1:
            break
    until = time.monotonic() + 5
    while client._json("/ready")["running"]:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_the_servers_refusal_names_the_field(url: str) -> None:
    with pytest.raises(RequestFailed, match="is too large") as failed:
        Client(url).generate("a", size="4096x16")
    assert (failed.value.status, failed.value.param) == (400, "size")
    # The server's own name, or the one that a proxy before it, such as Ray's, gave to both of them.
    assert re.fullmatch(r"req-[0-9a-f]{24}|[0-9a-f-]{36}", failed.value.request_id or "")


def test_a_picture_is_not_saved_under_the_name_of_another_format(tmp_path: Path) -> None:
    for kind, content in (("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF\0\0\0\0WEBP")):
        image = DrawnImage(content, 1, "64x64")
        for suffix in ("png", "jpg", "jpeg", "webp", "bin"):
            path = tmp_path / f"{kind}.{suffix}"
            if suffix == "bin" or kind == {"jpg": "jpeg"}.get(suffix, suffix):
                assert image.save(path).read_bytes() == content
                continue
            with pytest.raises(ValueError, match=f"the picture came as {kind}; name it .{kind}, or ask with"):
                image.save(path)
            assert not path.exists()


@pytest.mark.parametrize(
    ("size", "drawn", "notice"),
    [
        ("400x300", "96x96", "drawn at 96x96, enlarged to 400x300"),
        ("90x70", "96x96", ""),
        ("64x64", "64x64", ""),
        ("64x64", "", ""),
        ("", "", ""),
    ],
)
def test_a_picture_says_whether_it_was_drawn_smaller(size: str, drawn: str, notice: str) -> None:
    assert DrawnImage(b"", 1, size, drawn_size=drawn).notice == notice
