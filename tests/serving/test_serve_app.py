"""The server through the eyes of the official Python client, over a real socket, and of clients that err."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from deepgen.client import Client, DrawnImage
from deepgen.data.png import read_record
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.app import make_app
from deepgen.serving.config import ApiKeys, ServeConfig
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.hooks import Hooks, Refusal
from deepgen.serving.metrics import Metrics
from deepgen.serving.schema import ImageGenerationRequest, Limits

KEY = "sk-a-long-enough-key"
LIMITS = Limits(
    max_prompt=400,
    max_steps=40,
    max_pixels=256 * 256,
    max_body_mib=1,
    max_reference_pixels=10**6,
    max_ratio=600,
)


class Running:
    """An app in a thread with a port of its own."""

    def __init__(self, engine: Engine, config: ServeConfig, metrics: Metrics) -> None:
        self.engine = engine
        app = make_app(engine, config, metrics)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
        )

    def stop(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def server(_components: dict[str, Any]) -> Iterator[Running]:
    defaults = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
    pipe = DeepGenPipeline(**_components, defaults=defaults)
    pipe.set_progress_bar_config(disable=True)
    metrics = Metrics()
    engine = Engine(pipe, EngineConfig(max_batch=1), metrics.measure)
    running = Running(engine, ServeConfig(keys=ApiKeys({"tests": KEY}), limits=LIMITS), metrics)
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def opened(b64: str | None) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64 or "")))
    image.load()
    return image


def is_equal(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and bool((np.asarray(one) == np.asarray(other)).all())


def is_near(one: Image.Image, other: Image.Image) -> bool:
    """Equal up to rounding: the pipeline computes the modulation of all its steps in one product."""
    return one.size == other.size and int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) <= 1


# --- the client draws ---------------------------------------------------------------------------------------


def test_a_generation_is_the_pipelines_picture_of_its_seed(client: Any, pipe: DeepGenPipeline) -> None:
    options = {"seed": 7, "num_inference_steps": 3, "guidance_scale": 2.0, "negative_prompt": "blue"}
    answer = client.images.generate(prompt="a red circle", size="64x32", extra_body=options)
    alone = pipe("a red circle", height=32, width=64, **options).images[0]
    assert is_near(opened(answer.data[0].b64_json), alone)
    assert (answer.size, answer.output_format, answer.background) == ("64x32", "png", "opaque")
    assert answer.usage.output_tokens == 4 * 2
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_several_pictures_have_seeds_of_their_own(client: Any, pipe: DeepGenPipeline) -> None:
    answer = client.images.generate(model="gpt-image-1", prompt="a star", n=3, extra_body={"seed": 2})
    assert answer.model == "deepgen-1.0"  # what drew, whatever the client called it
    assert len(answer.data) == 3
    for entry, seed in zip(answer.data, (2, 3, 4), strict=True):
        assert entry.seed == seed
        assert is_near(opened(entry.b64_json), pipe("a star", seed=seed).images[0])


def test_a_png_remembers_how_it_was_made(client: Any, tmp_path: Any) -> None:
    answer = client.images.generate(prompt="a stár", extra_body={"seed": 2})
    (tmp_path / "a.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
    record = read_record(tmp_path / "a.png")
    assert record is not None
    assert (record.prompt, record.seed, record.num_inference_steps) == ("a stár", 2, 2)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_files_of_other_formats_remember_it_too(kind: Any, client: Any, tmp_path: Any) -> None:
    answer = client.images.generate(prompt="a stár", output_format=kind, extra_body={"seed": 2})
    path = tmp_path / f"a.{kind}"
    path.write_bytes(base64.b64decode(answer.data[0].b64_json))
    record = read_record(path)
    assert record is not None
    assert (record.prompt, record.seed, record.num_inference_steps) == ("a stár", 2, 2)


def test_a_format_that_cannot_hold_the_picture_is_refused(client: Any) -> None:
    wide = png(Image.new("RGB", (16400, 32)))
    with pytest.raises(openai.BadRequestError, match="16400x32 is too large for a webp file") as refused:
        client.images.edit(image=wide, prompt="red", output_format="webp")
    assert refused.value.param == "output_format"


def test_a_misspelt_field_or_name_is_answered_with_the_nearest(client: Any) -> None:
    for body, message in (
        ({"guidence_scale": 2}, "unknown field 'guidence_scale'; did you mean guidance_scale"),
        ({"preset": "balance"}, "unknown preset 'balance'; did you mean balanced"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.images.generate(prompt="a", extra_body=body)


def test_a_preset_is_asked_for_by_name_and_remembered(
    client: Any, pipe: DeepGenPipeline, tmp_path: Any
) -> None:
    answer = client.images.generate(
        prompt="a star", size="64x64", quality="low", extra_body={"seed": 2, "preset": "balanced"}
    )
    (tmp_path / "a.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
    record = read_record(tmp_path / "a.png")
    assert record is not None
    assert (record.preset, record.solver) == ("balanced", "unipc")
    assert record.num_inference_steps == 1  # half of the model's own two, which are fewer than 17
    alone = pipe("a star", height=64, width=64, seed=2, preset="balanced", num_inference_steps=1).images[0]
    assert is_near(opened(answer.data[0].b64_json), alone)


@pytest.mark.parametrize("count", [1, 3])
def test_edits_of_one_and_of_three_pictures(
    client: Any, pipe: DeepGenPipeline, image: Image.Image, count: int
) -> None:
    given = [image, image.rotate(90, expand=True), image.rotate(180)][:count]
    files = [(f"{k}.png", png(one)) for k, one in enumerate(given)]
    answer = client.images.edit(
        image=files if count > 1 else files[0], prompt="make it blue", extra_body={"seed": 4}
    )
    alone = pipe("make it blue", image=given, seed=4).images[0]
    assert is_near(opened(answer.data[0].b64_json), alone)


def test_raw_bytes_a_mask_and_jpeg_output(client: Any, image: Image.Image) -> None:
    mask = image.convert("RGBA")
    mask.paste((0, 0, 0, 0), (20, 20, 60, 60))
    raw = {"image": png(image), "mask": png(mask)}
    options = {"output_format": "jpeg", "output_compression": 90}
    made = opened(client.images.edit(prompt="a star", **raw, **options).data[0].b64_json)
    assert (made.format, made.size) == ("JPEG", image.size)
    exact = opened(client.images.edit(prompt="a star", **raw).data[0].b64_json)
    assert is_equal(exact.crop((0, 0, 90, 20)), image.crop((0, 0, 90, 20)))


def test_a_variation_and_an_edit_in_json_draw(client: Any, server: Running, image: Image.Image) -> None:
    made = client.images.create_variation(image=png(image), n=2)
    assert len(made.data) == 2
    address = "data:image/png;base64," + base64.b64encode(png(image)).decode()
    body = {"prompt": "make it blue", "images": [{"image_url": address}], "seed": 1}
    answer = server.http.post("/v1/images/edits", json=body)
    assert opened(answer.json()["data"][0]["b64_json"]).size == image.size


def test_pictures_are_answered_as_addresses_where_asked(client: Any, server: Running) -> None:
    answer = client.images.generate(prompt="a", response_format="url")
    got = httpx.get(answer.data[0].url, trust_env=False)
    assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
    assert server.http.get("/v1/images/img-none/content").status_code == 404


def test_a_stream_brings_partial_pictures_and_the_picture(client: Any, pipe: DeepGenPipeline) -> None:
    stream = client.images.generate(
        prompt="a", stream=True, partial_images=2, extra_body={"seed": 1, "num_inference_steps": 4}
    )
    events = list(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert type(events[2]).__name__ == "ImageGenCompletedEvent"
    assert opened(events[0].b64_json).size == (32, 32)
    assert is_near(opened(events[2].b64_json), pipe("a", seed=1, num_inference_steps=4).images[0])
    assert events[2].usage.output_tokens == 16


def test_an_edit_streams_in_its_own_words(client: Any, image: Image.Image) -> None:
    stream = client.images.edit(image=png(image), prompt="blue", stream=True, partial_images=1)
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert type(events[1]).__name__ == "ImageEditCompletedEvent"


def test_progress_is_streamed_on_request_only(server: Running) -> None:
    body = {"prompt": "a", "stream": True, "include_progress": True, "n": 2}
    text = server.http.post("/v1/images/generations", json=body).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    steps = [(e["index"], e["step"]) for e in events if "step" in e]
    assert sorted(steps) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert sorted(e["index"] for e in events if e["type"] == "image_generation.completed") == [0, 1]
    assert text.endswith("data: [DONE]\n\n")


def test_a_chat_draws_and_then_edits_its_last_answer(client: Any, pipe: DeepGenPipeline) -> None:
    messages: list[Any] = [{"role": "user", "content": "a red circle"}]
    first = client.chat.completions.create(model="gpt-4o", messages=messages, seed=3, temperature=1)
    message = first.choices[0].message
    url = message.images[0]["image_url"]["url"]
    drawn = pipe("a red circle", seed=3).images[0]
    assert is_near(opened(url.partition(",")[2]), drawn)

    answer = {"role": "assistant", "content": "", "images": message.images}
    messages += [answer, {"role": "user", "content": [{"type": "text", "text": "make it blue"}]}]
    stream = client.chat.completions.create(model="gpt-4o", messages=messages, seed=3, stream=True)
    chunks = [chunk.choices[0] for chunk in stream]
    assert chunks[-1].finish_reason == "stop"
    images = [image for chunk in chunks for image in getattr(chunk.delta, "images", [])]
    edited = pipe("make it blue", image=drawn, seed=3).images[0]
    assert is_near(opened(images[0]["image_url"]["url"].partition(",")[2]), edited)


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "a",
        [3],
        [{"role": "user"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "a\0"}, {"role": "user", "content": "a"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "audio"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1"}}]}],
        [{"role": "user", "content": "a", "images": [{"type": "image_url", "image_url": "x"}]}],
    ],
)
def test_a_bad_chat_is_refused(server: Running, messages: Any) -> None:
    check_refusal(server.http.post("/v1/chat/completions", json={"messages": messages}))


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_given_on_purpose_draws(client: Any, pipe: DeepGenPipeline, prompt: str) -> None:
    answer = client.images.generate(prompt=prompt, extra_body={"seed": 2})
    assert is_near(opened(answer.data[0].b64_json), pipe(prompt, seed=2).images[0])
    messages = [{"role": "user", "content": prompt}]
    chat = client.chat.completions.create(model="gpt-4o", messages=messages, seed=2)
    (image,) = chat.choices[0].message.images
    assert is_near(opened(image["image_url"]["url"].partition(",")[2]), pipe(prompt, seed=2).images[0])


def test_an_edit_may_have_no_words(client: Any, pipe: DeepGenPipeline, image: Image.Image) -> None:
    answer = client.images.edit(prompt="", image=png(image), extra_body={"seed": 2})
    assert is_near(opened(answer.data[0].b64_json), pipe("", image=image, seed=2).images[0])


@pytest.fixture
def six_tokens(server: Running) -> Iterator[None]:
    server.engine.sampler.pipe.max_prompt_tokens = 6
    yield
    server.engine.sampler.pipe.max_prompt_tokens = None


@pytest.mark.usefixtures("six_tokens")
def test_what_was_cut_of_a_prompt_is_in_every_answer(
    server: Running, client: Any, pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    prompt = "a red circle on a tree"
    pipe.max_prompt_tokens = 6
    (cut,) = pipe(prompt, seed=2).prompt_cuts
    answer = client.images.generate(prompt=prompt, extra_body={"seed": 2})
    assert answer.warnings == [str(cut)]
    assert is_near(opened(answer.data[0].b64_json), pipe(cut.kept, seed=2).images[0])
    (tmp_path / "a.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
    record = read_record(tmp_path / "a.png")
    assert record is not None
    assert (record.prompt, record.prompt_cut) == (prompt, str(cut))

    events = list(client.images.generate(prompt=prompt, stream=True))
    assert events[-1].warnings == [str(cut)]
    messages = [{"role": "user", "content": prompt}]
    chat = client.chat.completions.create(model="gpt-4o", messages=messages)
    assert chat.choices[0].message.content.startswith(f"{cut}\n\n![")
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=messages, stream=True))
    assert chunks[0].choices[0].delta.content == str(cut)
    ours = Client(server.url, KEY)
    assert ours.generate(prompt)[0].warnings == (str(cut),)
    assert [event.warnings for event in ours.stream(prompt) if isinstance(event, DrawnImage)] == [(str(cut),)]
    assert ours.generate("a")[0].warnings == ()


def test_models_are_listed_and_found(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["deepgen-1.0"]
    assert client.models.retrieve("deepgen-1.0").owned_by == "deepgen"
    with pytest.raises(openai.NotFoundError, match=r"deepgen-1\.0"):
        client.models.retrieve("some/other")


# --- errors -------------------------------------------------------------------------------------------------


def test_an_error_has_the_clients_form(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a", size="4096x16")
    error = caught.value
    assert "4096x16 is too large: this model's positions end at" in error.message
    assert (error.param, error.code, error.type) == ("size", "invalid_value", "invalid_request_error")
    assert (error.request_id or "").startswith("req-")


def test_a_wrong_key_is_refused_and_the_pages_of_operators_need_none(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.images.generate(prompt="a")
        assert caught.value.code == "invalid_api_key"
    open_client = httpx.Client(base_url=server.url, trust_env=False)
    with open_client:
        assert open_client.get("/v1/models").status_code == 401
        assert open_client.get("/health").json() == {"status": "ok"}
        assert open_client.get("/ready").json()["status"] == "ready"
        assert 'deepgen_stage_seconds_count{stage="step"}' in open_client.get("/metrics").text
        assert open_client.get("/openapi.json").json()["openapi"] == "3.1.0"
        page = open_client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_model_tells_steps_that_may_be_asked_for(pipe: DeepGenPipeline) -> None:
    config, metrics = ServeConfig(limits=replace(LIMITS, max_steps=1)), Metrics()
    running = Running(Engine(pipe, EngineConfig()), config, metrics)
    try:
        (model,) = running.http.get("/v1/models").json()["data"]
    finally:
        running.stop()
    assert running.engine.model.defaults["num_inference_steps"] > 1
    assert model["defaults"]["num_inference_steps"] == 1
    sides = [model["defaults"][name] for name in ("width", "height", "num_inference_steps")]
    assert [type(side) for side in sides] == [int, int, int]  # clients show them, and compute sizes of them
    assert (model["preset"], model["presets"]) == ("exact", {"exact": 1, "balanced": 1, "fast": 1})


def test_pages_of_other_origins_are_refused(server: Running) -> None:
    origins = (("https://evil.example", 403), ("null", 403), ("http://[", 403), ("", 403), (server.url, 200))
    for origin, status in origins:
        answer = server.http.get("/v1/models", headers={"origin": origin})
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


def test_a_name_of_a_strangers_own_is_not_answered_and_probes_need_none(server: Running) -> None:
    name = f"evil.example:{server.port}"
    for path, status in (
        ("/v1/models", 421),
        ("/", 421),
        ("/metrics", 421),
        ("/health", 200),
        ("/ready", 200),
    ):
        answer = server.http.get(path, headers={"host": name, "origin": f"http://{name}"})
        assert answer.status_code == status
        assert server.http.get(path, headers={"host": f"deepgen:{server.port}"}).status_code == 200
    answer = server.http.get("/v1/models", headers={"host": name})
    check_refusal(answer)
    assert answer.json()["error"]["code"] == "host_not_allowed"
    assert "--allowed-hosts" in answer.json()["error"]["message"]


def test_a_picture_with_a_secret_name_may_be_shown_by_another_site(client: Any, server: Running) -> None:
    url = client.images.generate(prompt="a", response_format="url").data[0].url
    embedded = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert httpx.get(url, headers=embedded, trust_env=False).status_code == 200
    assert server.http.get("/v1/models", headers=embedded).status_code == 403


def test_a_full_queue_is_429_with_retry_after_and_draining_is_503(pipe: DeepGenPipeline) -> None:
    metrics = Metrics()
    engine = Engine(pipe, EngineConfig(max_running=1, max_waiting=1))
    go, step = threading.Event(), engine.sampler.step
    engine.sampler.step = lambda samples: (go.wait(20), step(samples))[1]  # type: ignore[method-assign]
    running = Running(engine, ServeConfig(), metrics)
    try:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0)
        answers: list[Any] = []
        ask = lambda: answers.append(client.images.generate(prompt="a"))  # noqa: E731
        threads = []
        for waiting, drawn in ((0, 1), (1, 1)):
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            while (engine.status().waiting, engine.status().running) != (waiting, drawn):
                time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="a")
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        engine.drain(timeout=0)
        with pytest.raises(openai.InternalServerError) as draining:
            client.images.generate(prompt="a")
        assert draining.value.status_code == 503
        assert running.http.get("/ready").status_code == 503
        go.set()
        for thread in threads:
            thread.join(30)
        assert len(answers) == 2  # what was accepted was drawn
        client.close()
    finally:
        go.set()
        running.stop()


def test_a_client_that_leaves_has_its_picture_dropped(server: Running) -> None:
    for body in ({"prompt": "a"}, {"prompt": "a", "stream": True, "partial_images": 3}):
        slow, seen = server.engine.sampler.step, threading.Event()

        def step(samples: Any, slow: Any = slow, seen: threading.Event = seen) -> None:
            seen.set()
            time.sleep(0.1)
            slow(samples)

        server.engine.sampler.step = step  # type: ignore[method-assign]
        try:
            content = json.dumps({**body, "num_inference_steps": 40}).encode()
            head = (
                f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head.encode() + content)
                assert seen.wait(20)
            left = time.monotonic()
            while server.engine.status().running:
                assert time.monotonic() - left < 3, "it was still drawn 3 s after its client had left"
                time.sleep(0.02)
        finally:
            server.engine.sampler.step = slow  # type: ignore[method-assign]


def test_a_chat_draws_the_last_words_of_its_user_whatever_follows_them(server: Running) -> None:
    messages = [{"role": "user", "content": "a star"}, {"role": "system", "content": "be brief"}]
    answer = server.http.post("/v1/chat/completions", json={"messages": messages, "seed": 1})
    assert answer.status_code == 200, answer.text


def test_slow_and_broken_uploads_are_given_up_and_cost_nobody_else(pipe: DeepGenPipeline) -> None:
    limits = dataclasses.replace(LIMITS, body_timeout_s=0.5)
    running = Running(Engine(pipe), ServeConfig(limits=limits), Metrics())
    head = (
        b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=a\r\n\r\n--a\r\n"
    )
    try:
        with socket.create_connection(("127.0.0.1", running.port)) as broken:
            broken.sendall(head)  # and leaves in the middle of its body
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
            slow.sendall(head)
            assert running.http.get("/health").status_code == 200
            answer = slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert running.engine.status().running == running.engine.status().waiting == 0
        assert running.http.post("/v1/images/generations", json={"prompt": "a"}).status_code == 200
    finally:
        running.stop()


def test_a_hook_refuses_requests_and_pictures_in_every_kind_of_answer(pipe: DeepGenPipeline) -> None:
    def no_cats(request: Any) -> None:
        if "cat" in request.prompt:
            raise Refusal("no cats here")

    def no_stars(request: Any, image: Image.Image) -> None:
        if "star" in request.prompt:
            raise Refusal("no stars shown")

    hooks = Hooks(before=[no_cats], after=[no_stars])
    running = Running(Engine(pipe), ServeConfig(hooks=hooks), Metrics())
    try:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
            for prompt, message in (("a cat", "no cats"), ("a star", "no stars")):
                with pytest.raises(openai.BadRequestError, match=message) as refused:
                    client.images.generate(prompt=prompt)
                assert refused.value.code == "content_policy_violation"
            events = []
            with pytest.raises(openai.APIError, match="no stars"):
                events.extend(client.images.generate(prompt="a star", stream=True, partial_images=1))
            assert events == []  # not even a preview
            chat = [{"role": "user", "content": "a star"}]
            with pytest.raises(openai.APIError, match="no stars"):
                list(client.chat.completions.create(model="gpt-4o", messages=chat, stream=True))  # type: ignore
            assert client.images.generate(prompt="a circle").data
    finally:
        running.stop()


def test_loras_are_named_by_the_model_and_an_unknown_one_is_a_400(server: Running) -> None:
    assert server.http.get("/v1/models").json()["data"][0]["loras"] == []
    answer = server.http.post("/v1/images/generations", json={"prompt": "a", "lora": "style"})
    check_refusal(answer)
    assert answer.json()["error"]["param"] == "lora"


def test_addresses_are_fetched_only_from_listed_hosts(pipe: DeepGenPipeline) -> None:
    running = Running(Engine(pipe), ServeConfig(image_hosts=("localhost",)), Metrics())
    try:
        for host in ("localhost", "example.org"):  # the first is listed, and private all the same
            images = [{"image_url": f"http://{host}:{running.port}/"}]
            answer = running.http.post("/v1/images/edits", json={"prompt": "a", "images": images})
            check_refusal(answer)
            assert answer.json()["error"]["code"] == "address_not_allowed"
    finally:
        running.stop()


def test_nothing_of_an_unexpected_error_reaches_a_client(
    server: Running, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret detail")

    for part in ("plan", "step"):
        with monkeypatch.context() as patch:
            patch.setattr(server.engine.sampler, part, fail)
            with pytest.raises(openai.InternalServerError) as caught:
                client.images.generate(prompt="a")
            assert "secret" not in str(caught.value.response.text)
            assert "Traceback" not in caught.value.response.text
        assert "secret detail" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(server.engine.sampler, "step", fail)
        with pytest.raises(openai.APIError, match="drawing failed") as failed:
            list(client.images.generate(prompt="a", stream=True))
    assert "secret" not in str(failed.value)
    assert client.images.generate(prompt="a").data


@pytest.mark.parametrize(
    ("asked", "steps"),
    [({}, 20), ({"quality": "low"}, 10), ({"quality": "max"}, 30), ({"num_inference_steps": 7}, 7)],
)
def test_steps_are_what_was_asked_or_a_share_of_the_usual_number(asked: dict[str, Any], steps: int) -> None:
    assert ImageGenerationRequest(prompt="a", **asked).steps(usual=20, limit=30) == steps


def test_no_request_is_drawn_in_more_steps_than_the_server_allows() -> None:
    for quality in ("auto", "low", "medium", "high", "max"):
        assert ImageGenerationRequest(prompt="a", quality=quality).steps(usual=50, limit=2) == 2


BAD_FIELDS: list[dict[str, Any]] = [
    {},
    {"prompt": None},
    {"prompt": 3},
    {"prompt": ["a"]},
    {"prompt": "x" * 401},
    {"prompt": "a\0b"},
    {"prompt": "\ud800"},
    *({"prompt": "a", "n": n} for n in (0, -1, 11, 1.5, "2", True, [], 10**30)),
    *(
        {"prompt": "a", "size": s}
        for s in ("", "64", "64x", "-64x64", "0x0", "99999x16", "16x4096", 64, "４x４")
    ),
    *({"prompt": "a", "size": s} for s in ("512x512", "64X64")),
    {"prompt": "a", "quality": "best"},
    {"prompt": "a", "preset": "quick"},
    {"prompt": "a", "preset": 3},
    {"prompt": "a", "output_format": "gif"},
    {"prompt": "a", "output_format": "svg"},
    {"prompt": "a", "output_compression": 101, "output_format": "jpeg"},
    {"prompt": "a", "background": "transparent"},
    {"prompt": "a", "response_format": "file"},
    {"prompt": "a", "stream": "yes"},
    {"prompt": "a", "stream": 1},
    {"prompt": "a", "partial_images": 4, "stream": True},
    *({"prompt": "a", "seed": s} for s in (-1, 2**63, 0.5, "1", 1e40)),
    *({"prompt": "a", "num_inference_steps": s} for s in (0, 41, "4", 2.5)),
    *({"prompt": "a", "guidance_scale": s} for s in (-1, 101, "4", 10**400, [])),
    {"prompt": "a", "guidence_scale": 4},
    {"prompt": "a", "negative_prompt": 4},
    {"prompt": "a", "user": {}},
    {"prompt": "a", "n": 10**400},
    {"prompt": "a", "\ud800": 1},
    {"prompt": "a", "quality": "\ud800"},
    {"prompt": "a", "unknown": None},
]


def check_refusal(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("body", BAD_FIELDS, ids=lambda body: ascii(body)[:60])
def test_a_bad_field_is_a_400(server: Running, body: dict[str, Any]) -> None:
    headers = {"content-type": "application/json"}
    answer = server.http.post("/v1/images/generations", content=json.dumps(body).encode(), headers=headers)
    check_refusal(answer)
    assert answer.status_code == 400


def test_null_is_the_default_of_every_optional_field(server: Running) -> None:
    properties = server.http.get("/openapi.json").json()["paths"]["/v1/images/generations"]["post"]
    names = properties["requestBody"]["content"]["application/json"]["schema"]["properties"]
    body = {**dict.fromkeys(names), "prompt": "a"}
    assert server.http.post("/v1/images/generations", json=body).status_code == 200


def test_the_document_names_the_bounds_that_are_checked(server: Running) -> None:
    text = server.http.get("/openapi.json").text
    document = json.loads(text)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= document["components"]["schemas"].keys()
    operation = document["paths"]["/v1/images/generations"]["post"]
    properties = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert '"lora"' not in text  # there is none, so any name would be refused
    bounded = 0
    for name, schema in properties.items():
        schema = schema.get("anyOf", [schema])[0]
        for value in (schema["minimum"] - 1, schema["maximum"] + 1) if "minimum" in schema else ():
            answer = server.http.post("/v1/images/generations", json={"prompt": "a", name: value})
            check_refusal(answer)
            assert answer.json()["error"]["param"] == name
            bounded += 1
    assert bounded == 2 * 9


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"prompt": NaN}', "application/json", 400),
        (b'{"prompt": "\xff"}', "application/json", 400),
        (b'{"prompt": "a"}', "text/plain", 415),
        (b'{"prompt": "a"}', "", 415),
        (b" " * (1 << 20) + b"{}", "application/json", 413),
    ],
    ids=["empty", "cut", "list", "deep", "nan", "bytes", "plain", "untyped", "large"],
)
def test_a_bad_body_is_refused(server: Running, content: bytes, kind: str, status: int) -> None:
    answer = server.http.post("/v1/images/generations", content=content, headers={"content-type": kind})
    check_refusal(answer)
    assert answer.status_code == status


def test_a_form_that_says_a_thing_twice_is_refused(server: Running, image: Image.Image) -> None:
    file = ("a.png", png(image))
    for name in ("mask", "n"):
        parts = [("image", file), *[(name, file if name == "mask" else (None, "1"))] * 2]
        answer = server.http.post("/v1/images/edits", data={"prompt": "a"}, files=parts)
        check_refusal(answer)
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == ("invalid_form", f"{name} is given twice")


def test_a_form_beyond_a_limit_is_told_which_part_and_which_limit(
    pipe: DeepGenPipeline, image: Image.Image
) -> None:
    file, fields = ("a.png", png(image)), [(f"field{n}", (None, "1")) for n in range(65)]
    too_many_files = LIMITS.max_references + 3
    cases: list[tuple[list[Any], str, str]] = [
        ([("negative_prompt", (None, "a" * (2 << 20)))], "negative_prompt", "is larger than 1 MiB"),
        (fields, "field64", "is number 65 of the form; the limit is 64"),
        ([("image", file)] * too_many_files, "image", f"is number {too_many_files} of the form"),
    ]
    limits = dataclasses.replace(LIMITS, max_body_mib=16)
    running = Running(Engine(pipe), ServeConfig(limits=limits), Metrics())
    try:
        for parts, name, said in cases:
            answer = running.http.post("/v1/images/edits", files=parts)
            check_refusal(answer)
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("invalid_form", name)
            assert f"{name!r} {said}" in error["message"]
        kind = {"content-type": "multipart/form-data"}
        answer = running.http.post("/v1/images/edits", content=b"--a", headers=kind)
        assert "damaged: Missing boundary" in answer.json()["error"]["message"]
    finally:
        running.stop()


def bad_images() -> dict[str, bytes]:
    whole = png(Image.new("RGB", (64, 64)))
    bomb = png(Image.new("1", (5000, 5000)))
    return {
        "empty": b"",
        "text": b"not a picture",
        "cut": whole[:60],
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "large": bomb,
        "header": whole[:20] + b"\xff" * 40,
    }


@pytest.mark.parametrize("name", bad_images())
def test_a_bad_picture_is_a_400(server: Running, name: str) -> None:
    files = {"image": ("upload", bad_images()[name], "application/octet-stream")}
    answer = server.http.post("/v1/images/edits", data={"prompt": "a"}, files=files)
    check_refusal(answer)
    assert answer.json()["error"]["param"] == "image"


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "L", "LA", "P", "1"])
def test_pictures_of_every_kind_are_edited(server: Running, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 60).convert(mode).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    files = {"images[]": ("a", buffer.getvalue())}
    answer = server.http.post("/v1/images/edits", data={"prompt": "a", "seed": "1"}, files=files)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "images",
    [
        "x",
        [3],
        [{}],
        [{"file_id": "file-1"}],
        [{"image_url": "http://169.254.169.254/latest"}],
        [{"image_url": "file:///etc/passwd"}],
        [{"image_url": "data:image/png;base64,@@@"}],
        [],
        None,
    ],
)
def test_bad_references_in_json_are_refused(server: Running, images: Any) -> None:
    check_refusal(server.http.post("/v1/images/edits", json={"prompt": "a", "images": images}))


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_multipart_bodies_are_4xx_and_the_server_stays_up(server: Running, count: int) -> None:
    chance = random.Random(count)
    request = httpx.Request(
        "POST",
        server.url,
        data={"prompt": "a", "n": "1"},
        files={"image": ("a.png", chance.randbytes(400))},  # refused even where the damage hurts nothing
    )
    whole, kind = request.read(), request.headers["content-type"]
    for _ in range(count):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(len(body))
            what = chance.randrange(3)
            if what == 0:
                body[place] = chance.randrange(256)
            elif what == 1:
                del body[place : place + chance.randint(1, 40)]
            else:
                body[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 20)))
        types = [
            kind,
            kind,
            kind,
            "multipart/form-data",
            "multipart/form-data; boundary=",
            kind + "; charset=x",
        ]
        headers = {"content-type": chance.choice(types)}
        check_refusal(server.http.post("/v1/images/edits", content=bytes(body), headers=headers))
    assert server.http.get("/health").status_code == 200


def test_unknown_addresses_and_methods_have_the_clients_form(server: Running) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/images/edits", 405)):
        answer = server.http.request(method, path)
        check_refusal(answer)
        assert answer.status_code == status
