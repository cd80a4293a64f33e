"""`/v1/responses`: drawing by the tool `image_generation`, through the official client and by hand."""

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

from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.config import ServeConfig
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.hooks import Hooks, Refusal
from deepgen.serving.openai_fields import ITEMS_IGNORED, RESPONSES_IGNORED
from http_server import http_server

TOOL = {"type": "image_generation"}


@pytest.fixture(scope="module")
def http(_components: dict[str, Any]) -> Iterator[httpx.Client]:
    defaults = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
    pipe = DeepGenPipeline(**_components, defaults=defaults)
    pipe.set_progress_bar_config(disable=True)
    with http_server(Engine(pipe, EngineConfig(max_batch=1)), ServeConfig(model_name="small")) as client:
        yield client


@pytest.fixture
def client(http: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


def opened(b64: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    image.load()
    return image


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def is_near(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) <= 1


def ask(http: httpx.Client, **body: Any) -> Any:
    answer = http.post("/v1/responses", json={"seed": 1, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_tool_draws_as_the_image_route_does(client: Any, pipe: DeepGenPipeline) -> None:
    tool: Any = {**TOOL, "size": "64x32", "output_format": "webp", "quality": "low"}
    answer = client.responses.create(
        model="gpt-5", input="a star", tools=[tool], instructions="be brief", extra_body={"seed": 1}
    )
    (call,) = answer.output
    image = opened(call.result)
    assert (call.type, call.status, image.format) == ("image_generation_call", "completed", "WEBP")
    assert (call.size, call.quality, call.action) == ("64x32", "low", "generate")
    assert (answer.status, answer.model, answer.output_text) == ("completed", "small", "")
    assert answer.usage.output_tokens == 4 * 2
    (plain,) = client.responses.create(
        model="small", input="a star", tools=[TOOL], extra_body={"seed": 1}
    ).output
    assert is_near(opened(plain.result), pipe("a star", seed=1).images[0])


def test_a_client_that_names_no_tool_gets_words_that_show_the_picture(
    http: httpx.Client, client: Any, pipe: DeepGenPipeline
) -> None:
    answer = client.responses.create(model="small", input="a star", extra_body={"seed": 1})
    (address,) = re.findall(r"^!\[a star\]\((\S+)\)$", answer.output_text)
    shown = httpx.get(address, trust_env=False).content
    assert is_near(opened(base64.b64encode(shown).decode()), pipe("a star", seed=1).images[0])
    sized = ask(http, input="a star", tools=[{**TOOL, "size": "65x64"}])
    assert sized["output"][1]["content"][0]["text"].startswith("the model does not draw 65x64")


def test_earlier_pictures_are_edited_however_the_conversation_is_kept(
    http: httpx.Client, pipe: DeepGenPipeline, image: Image.Image
) -> None:
    first = ask(http, input="a star", tools=[TOOL])
    drawn = pipe("a star", seed=1).images[0]
    edited = pipe("make it blue", image=drawn, seed=1).images[0]
    words = {"role": "user", "content": [{"type": "input_text", "text": "make it blue"}]}
    call = first["output"][0]
    said = {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed"}
    said["content"] = [{"type": "output_text", "text": "here", "annotations": []}]  # type: ignore[assignment]
    opening = {"role": "user", "content": "a star"}
    for body in (
        {"input": "make it blue", "previous_response_id": first["id"]},
        {"input": [opening, call, words]},
        {"input": [opening, {"type": "reasoning", "summary": []}, call, said, words]},
        {"input": [{"type": "image_generation_call", "id": call["id"]}, words]},
        {"input": [{"type": "item_reference", "id": call["id"]}, words]},
    ):
        (answer,) = ask(http, tools=[TOOL], **body)["output"]
        assert answer["action"] == "edit"
        assert is_near(opened(answer["result"]), edited), body
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{png(image)}", "detail": "auto"}
    asked = [{"role": "user", "content": [words["content"][0], picture]}]
    answer, remark = ask(http, input=asked, tools=[TOOL])["output"]
    assert remark["content"][0]["text"].startswith("drawn at ")  # smaller than its source
    assert is_near(opened(answer["result"]), pipe("make it blue", image=image, seed=1).images[0])
    fresh = {"previous_response_id": first["id"], "tools": [{**TOOL, "action": "generate"}]}
    (answer,) = ask(http, input="a star", **fresh)["output"]
    assert is_near(opened(answer["result"]), drawn)


def test_a_mask_of_the_tool_keeps_the_rest(http: httpx.Client, image: Image.Image) -> None:
    image = image.resize((64, 64))
    mask = image.convert("RGBA")
    mask.paste((0, 0, 0, 0), (20, 20, 40, 40))
    part = {"type": "input_image", "image_url": f"data:image/png;base64,{png(image)}"}
    tool = {**TOOL, "input_image_mask": {"image_url": f"data:image/png;base64,{png(mask)}"}}
    content = [{"type": "input_text", "text": "a star"}, part]
    (call,) = ask(http, input=[{"role": "user", "content": content}], tools=[tool])["output"]
    assert (np.asarray(opened(call["result"]))[:20] == np.asarray(image)[:20]).all()


def test_a_stream_has_the_events_of_the_tool_in_order(client: Any, pipe: DeepGenPipeline) -> None:
    tool: Any = {**TOOL, "partial_images": 2}
    options = {"seed": 1, "num_inference_steps": 4}
    events = list(
        client.responses.create(model="gpt-5", input="a star", tools=[tool], stream=True, extra_body=options)
    )
    call = "response.image_generation_call"
    assert [event.type for event in events] == [
        *("response.created", "response.in_progress", "response.output_item.added"),
        *(f"{call}.in_progress", f"{call}.generating", f"{call}.partial_image", f"{call}.partial_image"),
        *(f"{call}.completed", "response.output_item.done", "response.completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert type(events[5]).__name__ == "ResponseImageGenCallPartialImageEvent"
    assert opened(events[5].partial_image_b64).size == (32, 32)
    whole = events[-1].response
    assert whole.id == events[0].response.id
    alone = pipe("a star", seed=1, num_inference_steps=4).images[0]
    assert is_near(opened(whole.output[0].result), alone)
    with client.responses.stream(model="small", input="a star") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text.startswith("![a star](http://127")
        assert stream.get_final_response().output_text == text


def test_a_picture_that_is_not_to_be_kept_is_not(http: httpx.Client) -> None:
    first = ask(http, input="a star", tools=[TOOL], store=False)
    answer = http.post("/v1/responses", json={"input": "a", "previous_response_id": first["id"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "previous_response_not_found"


def test_what_openai_documents_beside_the_picture_is_ignored(http: httpx.Client) -> None:
    items = [{"type": kind, "id": "x"} for kind in sorted(ITEMS_IGNORED)]
    body = {name: {"any": "thing"} for name in RESPONSES_IGNORED}
    tools = [{"type": "function", "name": "f", "parameters": {}}, {**TOOL, "moderation": "low"}]
    answer = ask(http, input=[*items, {"role": "user", "content": "a"}], tools=tools, **body)
    assert answer["tools"] == tools


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": "\ud800"}, "input"),
        ({"input": "a\0"}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"role": "x", "content": "a"}]}, "input[0]"),
        ({"input": [{"content": "a"}]}, "input[0]"),
        ({"input": [{"type": "dream"}]}, "input[0]"),
        ({"input": [{"type": "image_generation_call", "id": "ig_x"}]}, "input[0]"),
        ({"input": user({"type": "input_text", "text": 3})}, "input[0].content[0]"),
        (
            {"input": user({"type": "input_text", "text": "a"}, {"type": "input_image"})},
            "input[0].content[1]",
        ),
        ({"input": [{"role": "assistant", "content": "a"}]}, "input"),
        ({"input": "a", "n": 2}, "n"),
        ({"input": "a", "guidence_scale": 2}, "guidence_scale"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "tools": [{"type": "function", "name": "\ud800"}]}, "tools"),
        ({"input": "a", "tool_choice": {"type": "auto", "x": "\ud800"}}, "tool_choice"),
        ({"input": "a", "tools": 3}, "tools"),
        ({"input": "a", "tools": [3]}, "tools[0]"),
        ({"input": "a", "tools": [{**TOOL, "sise": "64x64"}]}, "tools[0].sise"),
        ({"input": "a", "tools": [{**TOOL, "action": "paint"}]}, "tools[0].action"),
        ({"input": "a", "tools": [{**TOOL, "action": "edit"}]}, "tools"),
        ({"input": "a", "tools": [{**TOOL, "background": "transparent"}]}, "tools[0].background"),
        ({"input": "a", "tools": [{**TOOL, "input_image_mask": {}}]}, "tools[0].input_image_mask"),
        ({"input": "a", "tools": [{**TOOL, "output_compression": 101}]}, "output_compression"),
        ({"input": "a", "tools": [{**TOOL, "quality": "best"}]}, "quality"),
        ({"input": "a", "tools": [{**TOOL, "size": "64"}]}, "size"),
        ({"input": "a", "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"input": "a", "tool_choice": "none"}, "tool_choice"),
        ({"input": "a", "previous_response_id": "resp_x"}, "previous_response_id"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "model": "sdxl"}, "model"),
        ({"input": "a", "tools": [{**TOOL, "model": "sdxl"}]}, "model"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_bad_response_is_refused_with_its_field(http: httpx.Client, body: Any, param: str) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/responses", content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("depth", [400, 900])
def test_what_is_nested_deeply_is_repeated_or_refused(http: httpx.Client, depth: int) -> None:
    content = b'{"input": "a", "instructions": ' + b"[" * depth + b"]" * depth + b"}"
    answer = http.post("/v1/responses", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400), answer.text
    assert (answer.json()["error"] is None) == (answer.status_code == 200)


def test_a_number_that_no_float_holds_is_refused_where_it_would_be_repeated(http: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post(
        "/v1/responses", content=b'{"input": "a", "tools": [{"type": "f", "x": 1e999}]}', headers=headers
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_a_hook_that_objects_ends_a_stream_with_its_reason(pipe: DeepGenPipeline) -> None:
    def no_stars(request: Any, image: Image.Image) -> None:
        raise Refusal("no stars shown")

    with http_server(Engine(pipe), ServeConfig(hooks=Hooks(after=[no_stars]))) as http:
        text = http.post(
            "/v1/responses",
            json={"input": "a star", "tools": [{**TOOL, "partial_images": 2}], "stream": True},
        ).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert not [event for event in events if "partial" in event["type"]]
        assert (events[-2]["type"], events[-2]["code"]) == ("error", "content_policy_violation")
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["message"] == "no stars shown"
        refused = http.post("/v1/responses", json={"input": "a star"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, "no stars shown")
