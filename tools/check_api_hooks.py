"""What the OpenAPI document names and cannot spell out, for schemathesis: see `check_api.py`.

A size has to be a multiple of the model's unit, and a picture has to be one that can be opened. Requests that
are meant to be wrong stay wrong.
"""

from __future__ import annotations

import base64
from typing import Any

import schemathesis  # pyright: ignore[reportMissingImports]  # runs in an environment of its own
from hypothesis import strategies as st  # pyright: ignore[reportMissingImports]


def _images() -> list[bytes]:
    # Small files, written by hand so that the environment needs nothing but schemathesis.
    pixel = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    pixel += (40).to_bytes(4, "little") + (1).to_bytes(4, "little") * 2
    pixel += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    return [pixel + bytes([blue, green, red, 0]) for blue, green, red in ((0, 0, 255), (255, 255, 255))]


def _masks() -> bytes:
    return base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    )


IMAGES = [*_images(), _masks()]
SIZES = ["auto", "32x32", "64x32", "64x64"]  # of `tiny`, whose unit is 32

SILENT = {
    "refusal",
    "input_audio",
    "file",
}  # no last message of these alone: no document can say so

schemathesis.openapi.format("picture-size", st.sampled_from(SIZES))
schemathesis.openapi.format("binary", st.just(IMAGES[-1]))  # a form's picture and its mask alike


def _address(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


schemathesis.openapi.format("picture-address", st.sampled_from(IMAGES).map(_address))
schemathesis.openapi.format("mask-address", st.just(_address(IMAGES[-1])))  # of the pictures' size


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    """A mask has to fit its picture, which is another test's business."""
    return not (isinstance(body, dict) and isinstance(body.get("mask"), dict | bytes))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """So is what a document cannot say of some fields: sides follow the unit of size and exclude `size`, a
    preset chooses its solver, and an earlier response has to be one that was given. They are taken out of
    requests that are meant to be right.
    """
    if isinstance(case.body, dict) and case.meta.generation.mode.is_positive:
        excluded = {"height", "width"} | ({"solver"} if case.body.get("preset") is not None else set())
        for name in excluded | {
            "previous_response_id"
        }:  # in place: a new body would be judged as another one
            case.body.pop(name, None)
        for message in case.body.get("messages") or ():
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                message["content"] = [part for part in message["content"] if part.get("type") not in SILENT]
