"""Safety hooks: who objects is obeyed, and who fails is taken to object."""

from __future__ import annotations

import re
from typing import Any

import pytest
from PIL import Image

from deepgen.serving.errors import ApiError
from deepgen.serving.hooks import Hooks, Refusal
from deepgen.serving.jobs import GenerationRequest

REQUEST = GenerationRequest(prompt="a cat")


def no_cats(request: GenerationRequest) -> None:
    if "cat" in request.prompt:
        raise Refusal("no cats here")


def nothing_red(request: GenerationRequest, image: Image.Image) -> None:
    if image.getpixel((0, 0)) == (255, 0, 0):
        raise Refusal("too red")


def broken(*_: Any) -> None:
    raise RuntimeError("secret detail")


def test_hooks_are_found_by_name_and_obeyed() -> None:
    hooks = Hooks.load([f"{__name__}:no_cats"], [f"{__name__}:nothing_red"])
    hooks.check_request(GenerationRequest(prompt="a dog"))
    hooks.check_image(REQUEST, Image.new("RGB", (1, 1), "blue"))
    for check in (
        lambda: hooks.check_request(REQUEST),
        lambda: hooks.check_image(REQUEST, Image.new("RGB", (1, 1), "red")),
    ):
        with pytest.raises(ApiError, match=r"no cats|too red") as refused:
            check()
        assert (refused.value.status, refused.value.code) == (400, "content_policy_violation")


def test_a_hook_that_fails_lets_nothing_through_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ApiError) as refused:
        Hooks(before=[broken]).check_request(REQUEST)
    assert refused.value.status == 500
    assert "secret" not in refused.value.message
    found = re.search(r"err-\w+", refused.value.message)
    assert found is not None
    assert found[0] in caplog.text


@pytest.mark.parametrize("name", ["nowhere:check", "deepgen.serving.hooks:nothing", "deepgen", ":x", ""])
def test_a_hook_that_cannot_be_found_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"package\.module:function"):
        Hooks.load([name], [])
