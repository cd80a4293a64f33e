"""What clients of the OpenAI API do by themselves: read `content` only, keep histories, send default sizes.

The clients' own packages are in test_real_clients.py; here is the HTTP they speak.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from deepgen.client import Client
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.config import ServeConfig
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.openai_fields import CHAT_IGNORED, MESSAGE_IGNORED
from deepgen.serving.schema import Limits
from http_server import http_server


@pytest.fixture(scope="module")
def http(_components: dict[str, Any]) -> Iterator[httpx.Client]:
    defaults = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
    pipe = DeepGenPipeline(**_components, defaults=defaults)
    pipe.set_progress_bar_config(disable=True)
    config = ServeConfig(model_name="small", model_aliases=("someone/small",))
    with http_server(Engine(pipe, EngineConfig(max_batch=1)), config) as client:
        yield client


@pytest.fixture
def client(http: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def of_address(address: str) -> Image.Image:
    if address.startswith("data:"):
        return opened(base64.b64decode(address.partition(",")[2]))
    return opened(httpx.get(address, trust_env=False).content)


def shown(content: str) -> list[str]:
    """Addresses of the Markdown images of a text."""
    return re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", content)


def is_near(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) <= 1


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def chat(http: httpx.Client, **body: Any) -> Any:
    answer = http.post("/v1/chat/completions", json={"seed": 1, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    text = http.post("/v1/chat/completions", json={"seed": 1, "stream": True, **body}).text
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


# --- the picture reaches who reads `content` ----------------------------------------------------------------


@pytest.mark.parametrize(("asked", "beginning"), [({}, "http://127"), ({"content_images": "data"}, "data:")])
def test_the_text_of_an_answer_shows_its_picture(
    http: httpx.Client, pipe: DeepGenPipeline, asked: dict[str, Any], beginning: str
) -> None:
    drawn = pipe("a [red] circle", seed=1).images[0]
    message = chat(http, messages=[user("a [red] circle")], **asked)["choices"][0]["message"]
    (address,) = shown(message["content"])
    assert message["content"] == f"![a red circle]({address})"
    assert address.startswith(beginning)
    assert is_near(of_address(address), drawn)
    assert is_near(of_address(message["images"][0]["image_url"]["url"]), drawn)

    pieces = chunks(http, messages=[user("a [red] circle")], **asked)
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert is_near(of_address(*shown(text)), drawn)


def test_a_request_or_the_server_may_leave_the_text_empty(http: httpx.Client, pipe: DeepGenPipeline) -> None:
    messages = [user("a star")]
    assert chat(http, messages=messages, content_images="none")["choices"][0]["message"]["content"] == ""
    with http_server(Engine(pipe), ServeConfig(chat_images="none")) as quiet:
        message = chat(quiet, messages=messages)["choices"][0]["message"]
        assert message["content"] == ""
        assert len(message["images"]) == 1
        assert shown(chat(quiet, messages=messages, content_images="url")["choices"][0]["message"]["content"])


@pytest.mark.parametrize("form", ["url", "data"])
def test_a_history_of_texts_alone_is_edited_all_the_same(
    http: httpx.Client, pipe: DeepGenPipeline, form: str
) -> None:
    first = chat(http, messages=[user("a star")], content_images=form)["choices"][0]["message"]["content"]
    messages = [user("a star"), {"role": "assistant", "content": first}, user("make it blue")]
    answer = chat(http, messages=messages)["choices"][0]["message"]
    edited = pipe("make it blue", image=pipe("a star", seed=1).images[0], seed=1).images[0]
    assert is_near(of_address(*shown(answer["content"])), edited)


def test_addresses_in_an_answer_are_those_of_this_server_or_left_alone(
    http: httpx.Client, pipe: DeepGenPipeline
) -> None:
    """A text may speak of pictures elsewhere; they are not fetched, and nothing of them is edited."""
    said = {"role": "assistant", "content": "like ![this](http://10.0.0.1/a.png)"}
    answer = chat(http, messages=[user("a"), said, user("a star")])["choices"][0]["message"]
    assert is_near(of_address(*shown(answer["content"])), pipe("a star", seed=1).images[0])


def test_a_picture_that_is_kept_no_longer_is_named(http: httpx.Client) -> None:
    gone = f"![a]({http.base_url}/v1/images/img-{'x' * 24}/content)"
    messages = [user("a"), {"role": "assistant", "content": gone}, user("make it blue")]
    answer = http.post("/v1/chat/completions", json={"messages": messages})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].content"
    assert "no longer" in answer.json()["error"]["message"]


# --- choices and usage --------------------------------------------------------------------------------------


def test_n_pictures_are_n_choices(http: httpx.Client, client: Any, pipe: DeepGenPipeline) -> None:
    alone = [pipe("a star", seed=seed).images[0] for seed in (1, 2, 3)]
    answer = client.chat.completions.create(model="small", messages=[user("a star")], n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice, image in zip(answer.choices, alone, strict=True):
        assert choice.finish_reason == "stop"
        assert is_near(of_address(*shown(choice.message.content)), image)
    found: dict[int, str] = {}
    ended = []
    for piece in chunks(http, messages=[user("a star")], n=3):
        (choice,) = piece["choices"]
        index = choice["index"]
        assert index not in ended
        found[index] = found.get(index, "") + choice["delta"].get("content", "")
        ended += [index] if choice["finish_reason"] else []
    assert sorted(ended) == [0, 1, 2]
    for index, image in enumerate(alone):
        assert is_near(of_address(*shown(found[index])), image)


def test_a_stream_tells_usage_where_asked(client: Any, http: httpx.Client) -> None:
    whole = client.chat.completions.create(model="small", messages=[user("a star")], seed=1)
    options: dict[str, Any] = {"include_usage": True}
    stream = client.chat.completions.create(
        model="small", messages=[user("a star")], seed=1, stream=True, stream_options=options
    )
    *pieces, last = stream
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(piece.usage is None and piece.choices for piece in pieces)
    assert all("usage" not in piece for piece in chunks(http, messages=[user("a star")]))
    for wrong in ({"include_use": True}, {"include_usage": "yes"}, 3):
        refused = http.post("/v1/chat/completions", json={"messages": [user("a")], "stream_options": wrong})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "stream_options"


# --- histories ----------------------------------------------------------------------------------------------


def test_a_history_may_hold_parts_of_every_kind(
    http: httpx.Client, pipe: DeepGenPipeline, image: Image.Image
) -> None:
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}
    messages = [
        {"role": "system", "content": [{"type": "input_text", "text": "be brief"}]},
        user([{"type": "text", "text": "what is this?"}, {"type": "file", "file": file}]),
        user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
        {
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "no"}, {"type": "output_text", "text": "hm"}],
            "tool_calls": [],
            "refusal": None,
            "reasoning_content": "...",
        },
        user([{"type": "input_text", "text": "make it blue"}]),
    ]
    drawn = pipe("make it blue", seed=1).images[0]
    assert is_near(
        of_address(*shown(chat(http, messages=messages)["choices"][0]["message"]["content"])), drawn
    )
    edited = pipe("make it blue", image=image, seed=1).images[0]
    for part in (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(image)}", "detail": "low"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{png(image)}"},
        {"type": "file", "file": {"filename": "a.png", "file_data": f"data:image/png;base64,{png(image)}"}},
        {"type": "input_file", "filename": "a.png", "file_data": png(image)},
    ):
        messages[-1] = user([{"type": "text", "text": "make it blue"}, part])
        content = chat(http, messages=messages)["choices"][0]["message"]["content"]
        assert is_near(of_address(*shown(content)), edited), part


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_audio", "input_audio": {}},
        {"type": "video_url", "video_url": {"url": "x"}},
    ],
)
def test_a_part_that_cannot_be_read_is_refused_where_it_matters(http: httpx.Client, part: Any) -> None:
    answer = http.post(
        "/v1/chat/completions", json={"messages": [user([{"type": "text", "text": "a"}, part])]}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[1]"


# --- fields -------------------------------------------------------------------------------------------------


def test_what_openai_documents_is_ignored_and_all_else_is_refused(http: httpx.Client) -> None:
    message = {**user("a"), **dict.fromkeys(MESSAGE_IGNORED, "x")}
    chat(http, messages=[message], **{name: {"any": "thing"} for name in CHAT_IGNORED})
    for body, param in (
        ({"messages": [user("a")], "guidence_scale": 2}, "guidence_scale"),
        ({"messages": [{**user("a"), "image": "x"}]}, "messages[0].image"),
    ):
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (
            param,
            "unknown_parameter",
        )


def test_a_nested_extra_body_counts_as_if_it_stood_beside(http: httpx.Client) -> None:
    body = {"prompt": "a star", "extra_body": {"seed": 7}, "seed": None}
    assert http.post("/v1/images/generations", json={**body, "seed": 7}).json()["data"][0]["seed"] == 7
    del body["seed"]
    assert http.post("/v1/images/generations", json=body).json()["data"][0]["seed"] == 7
    conflict = http.post("/v1/images/generations", json={**body, "seed": 8})
    assert conflict.json()["error"]["param"] == "seed"
    unknown = http.post(
        "/v1/chat/completions", json={"messages": [user("a")], "extra_body": {"guidence_scale": 2}}
    )
    assert unknown.json()["error"]["param"] == "guidence_scale"


@pytest.mark.parametrize("model", ["dall-e-2", "dall-e-3"])
def test_the_names_of_dall_e_are_answered_with_addresses(client: Any, model: str, image: Image.Image) -> None:
    entry = client.images.generate(model=model, prompt="a star").data[0]
    assert entry.b64_json is None
    assert of_address(entry.url).size == (64, 64)
    edited = client.images.edit(
        model=model, prompt="blue", image=base64.b64decode(png(image)), response_format="b64_json"
    )
    assert edited.data[0].url is None
    (event,) = client.images.generate(model=model, prompt="a star", stream=True)
    assert opened(base64.b64decode(event.b64_json)).size == (64, 64)


def test_a_request_names_the_model_that_is_served_or_none(client: Any, http: httpx.Client) -> None:
    for name in ("small", "someone/small", "gpt-image-1", "dall-e-3", "gpt-5-mini", "chatgpt-image-latest"):
        assert client.images.generate(model=name, prompt="a").model == "small"
    assert client.models.retrieve("small").id == client.models.retrieve("someone/small").id == "small"
    image = {"image_url": f"data:image/png;base64,{png(Image.new('RGB', (64, 64)))}"}
    for path, body in (
        ("/v1/images/generations", {"prompt": "a"}),
        ("/v1/images/edits", {"prompt": "a", "images": [image]}),
        ("/v1/chat/completions", {"messages": [user("a")]}),
    ):
        for name in ("sdxl", "smal", "", "someone/other"):
            answer = http.post(path, json={**body, "model": name})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
            assert "small" in error["message"]


# --- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ("65x64", "64x64"),
        ("96x64", "96x64"),
        ("512x512", "64x64"),
        ("1024x1024", "64x64"),
        ("60x90", "64x96"),
    ],
)
def test_a_size_the_model_has_not_is_drawn_near_and_brought_to_what_was_asked(
    client: Any, http: httpx.Client, size: str, drawn: str
) -> None:
    answer = client.images.generate(prompt="a star", size=size, extra_body={"seed": 1})
    image = opened(base64.b64decode(answer.data[0].b64_json))
    assert (f"{image.width}x{image.height}", answer.size, answer.drawn_size) == (size, size, drawn)
    said = getattr(answer, "warnings", [])
    assert said == [] if size == drawn else len(said) == 1
    assert all(f"does not draw {size}: drawn at {drawn}, " in one for one in said)
    content = chat(http, messages=[user("a star")], size=size)["choices"][0]["message"]["content"]
    assert content.startswith("the model does not draw" if size != drawn else "![")
    assert content.count("drawn at") == len(said)
    ours = Client(str(http.base_url)).generate("a star", size=size, seed=1)[0]
    assert ours.image.size == image.size
    assert list(ours.warnings) == said


def test_an_edit_keeps_its_masked_pixels_at_a_size_the_model_has_not(
    http: httpx.Client, image: Image.Image
) -> None:
    image = image.resize((65, 65))
    mask = image.convert("RGBA")
    mask.paste((0, 0, 0, 0), (20, 20, 40, 40))
    body = {
        "prompt": "a star",
        "size": "65x65",
        "images": [{"image_url": f"data:image/png;base64,{png(image)}"}],
        "mask": {"image_url": f"data:image/png;base64,{png(mask)}"},
    }
    answer = http.post("/v1/images/edits", json=body).json()
    edited = opened(base64.b64decode(answer["data"][0]["b64_json"]))
    assert (edited.size, answer["drawn_size"]) == ((65, 65), "64x64")
    assert (np.asarray(edited)[:18] == np.asarray(image)[:18]).all()


def test_a_server_may_refuse_such_sizes_and_names_one_it_has(pipe: DeepGenPipeline) -> None:
    with http_server(Engine(pipe), ServeConfig(fits_sizes=False)) as strict:
        answer = strict.post("/v1/images/generations", json={"prompt": "a", "size": "65x64"})
        assert answer.status_code == 400
        assert "try 64x64" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "size"


def test_one_side_beside_the_models_own_counts_against_the_limit_too(pipe: DeepGenPipeline) -> None:
    with http_server(Engine(pipe), ServeConfig(limits=Limits(max_pixels=64 * 128))) as small:
        assert small.post("/v1/images/generations", json={"prompt": "a", "height": 128}).status_code == 200
        answer = small.post("/v1/images/generations", json={"prompt": "a", "height": 129})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


def test_a_shape_that_no_size_of_the_model_has_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/images/generations", json={"prompt": "a", "size": "4000x16"})
    assert answer.status_code == 400
    assert "try " in answer.json()["error"]["message"]
