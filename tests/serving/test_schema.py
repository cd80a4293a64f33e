"""Bodies of requests: what is read from JSON and forms, and what is said about everything else."""

from __future__ import annotations

from typing import Any

import pytest

from deepgen.serving.bodies import read_body
from deepgen.serving.conversation import read_chat
from deepgen.serving.errors import ApiError
from deepgen.serving.schema import (
    Body,
    ChatCompletionRequest,
    ImageEditForm,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageVariationForm,
    Limits,
    limited,
)

LIMITS = Limits(max_images=3, max_steps=7, max_references=2, max_pixels=128 * 128, max_prompt=9)
IMAGE = {"image_url": "data:image/png;base64,AAAA"}


def read(model: type[Body], values: dict[str, Any], is_form: bool = False) -> Any:
    return read_body(limited(model, LIMITS, ["ink", "oil"]), values, LIMITS, is_form=is_form)


def test_numbers_and_truths_of_a_form_are_text_and_whole_numbers_of_json_may_have_a_point() -> None:
    text = {"prompt": "12", "n": "2", "seed": "+3", "guidance_scale": "1e1", "stream": "True", "size": "auto"}
    form = read(ImageEditForm, {**text, "image": [b"a"]}, is_form=True)
    assert (form.prompt, form.n, form.seed, form.guidance_scale, form.stream) == ("12", 2, 3, 10.0, True)
    body = read(ImageGenerationRequest, {"prompt": "a", "n": 2.0, "guidance_scale": 3, "seed": None})
    assert (body.n, body.guidance_scale, body.seed, body.sides) == (2, 3.0, None, (None, None))
    assert type(body.n) is int


@pytest.mark.parametrize(
    ("model", "values", "param", "code", "message"),
    [
        (ImageGenerationRequest, {}, "prompt", "missing_required_parameter", "prompt is missing; say what"),
        (
            ImageGenerationRequest,
            {"prompt": "x" * 10},
            "prompt",
            "string_too_long",
            "10 characters; the",
        ),
        (ImageGenerationRequest, {"n": 4}, "n", "invalid_value", "n must be between 1 and 3, got 4"),
        (ImageGenerationRequest, {"n": 10**400}, "n", "invalid_value", "got a number of 401 digits"),
        (
            ImageGenerationRequest,
            {"n": True},
            "n",
            "invalid_type",
            "whole number, got true or false",
        ),
        (ImageGenerationRequest, {"num_inference_steps": 8}, "num_inference_steps", None, "between 1 and 7"),
        (ImageGenerationRequest, {"height": 0}, "height", "invalid_value", "between 1 and 99999, got 0"),
        (
            ImageGenerationRequest,
            {"height": 200, "width": 200},
            "height",
            None,
            "more than the 16,384",
        ),
        (ImageGenerationRequest, {"size": "64x64", "width": 64}, "size", None, "leave out one or the other"),
        (ImageGenerationRequest, {"preset": "balance"}, "preset", None, "did you mean balanced"),
        (ImageGenerationRequest, {"lora": "oli"}, "lora", None, "unknown lora 'oli'; did you mean oil"),
        (
            ImageGenerationRequest,
            {"background": "transparent"},
            "background",
            None,
            "draws no transparent",
        ),
        (ImageGenerationRequest, {"guidance": 2}, "guidance", "unknown_parameter", "mean guidance_scale"),
        (ImageGenerationRequest, {"extra_body": 3}, "extra_body", "invalid_type", "must be an object"),
        (ImageGenerationRequest, {"n": 1, "extra_body": {"n": 2}}, "n", None, "n is given twice"),
        (ImageGenerationRequest, {"extra_body": {"sed": 2}}, "sed", "unknown_parameter", "did you mean seed"),
        (ImageEditForm, {"image": [b"a"], "extra_body": "{}"}, "extra_body", None, "parts of their own"),
        (ImageGenerationRequest, {"typo": None}, "typo", "unknown_parameter", "unknown field 'typo'"),
        (ImageEditRequest, {}, "images", "missing_required_parameter", "a list of objects with image_url"),
        (ImageEditRequest, {"images": "x"}, "images", "invalid_type", "must be a list of objects"),
        (ImageEditRequest, {"images": [{"file_id": "f"}]}, "images[0]", None, "files by id are not kept"),
        (ImageEditRequest, {"images": [IMAGE, {"image_url": 3}]}, "images[1].image_url", None, "in text"),
        (ImageEditRequest, {"images": [IMAGE] * 3}, "images", None, "3 pictures; the limit is 2"),
        (ImageEditRequest, {"images": [IMAGE], "mask": {}}, "mask", None, "an object with image_url"),
        (ImageEditForm, {}, "image", "missing_required_parameter", "send one file or several"),
        (ImageEditForm, {"n": "x", "image": [b"a"]}, "n", "invalid_type", "a whole number, got text"),
        (ImageVariationForm, {"image": [b"a"], "prompt": "b"}, "prompt", None, "use /v1/images/edits"),
        (ImageVariationForm, {"image": [b"a"], "mask": b""}, "mask", None, "a variation takes no mask"),
        (ChatCompletionRequest, {"messages": []}, "messages", None, "a list that says what to draw"),
        (ChatCompletionRequest, {"messages": [{"role": "x"}]}, "messages[0]", None, "a role and content"),
        (
            *(ChatCompletionRequest, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
            *("invalid_type", "text or a list of parts"),
        ),
        (
            *(ChatCompletionRequest, {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}),
            *("messages[0].content[0]", None, "must be a text, an image_url or another"),
        ),
        (
            *(ChatCompletionRequest, {"messages": [{"role": "user", "content": "a\0"}]}),
            *("messages[0].content", None, "null character"),
        ),
        *(
            (
                *(ChatCompletionRequest, {"messages": [{"role": "user", "content": [part]}]}),
                *("messages[0].content[0]", "invalid_type", "must be a data: address in text"),
            )
            for part in [{"type": "image_url", "image_url": address} for address in ({}, {"url": 1})]
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_field(
    model: type[Body], values: dict[str, Any], param: str, code: str | None, message: str
) -> None:
    needs_prompt = "prompt" in model.model_fields and param != "prompt"
    with pytest.raises(ApiError, match=message) as refused:
        read(model, {**({"prompt": "a"} if needs_prompt else {}), **values}, is_form="Form" in model.__name__)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.code == code or code is None


def test_a_chat_may_hold_anything_else_and_is_a_request_for_images() -> None:
    part = {"type": "image_url", "image_url": {"url": IMAGE["image_url"], "detail": "low"}}
    messages = [
        {"role": "user", "content": "a star"},
        {"role": "assistant", "content": "", "images": [part], "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "blue"}]},
    ]
    body = read(
        ChatCompletionRequest, {"messages": messages, "seed": 1, "temperature": 2, "user": 3, "n": None}
    )
    fields, images = read_chat(body, None)
    assert (fields, images) == ({"prompt": "blue", "seed": 1}, [b"\0\0\0"])
    assert read(ImageGenerationRequest, fields).seed == 1
