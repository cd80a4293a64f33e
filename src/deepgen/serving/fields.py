"""Fields of a request: what they are called, what they may hold, and what is said about everything else.

JSON and multipart forms carry the same fields; a form's values are all text. A field nobody knows is refused,
because a misspelt `guidance_scale` that is ignored costs its owner more than an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepgen.data.image_files import Kind
from deepgen.generation import MAX_SEED, nearest_name
from deepgen.prompt_text import check_prompt
from deepgen.sampling.presets import NAMES as PRESETS
from deepgen.sampling.solvers import NAMES as _SOLVERS
from deepgen.serving.errors import invalid
from deepgen.suggestions import suggestion

MAX_SIDE = 99_999  # pixels, of a field
MAX_GUIDANCE = 100
SOLVERS = tuple(name for name in _SOLVERS if name != "heun")  # which calls the model twice in a step
MAX_PREVIEWS = 3
MAX_NAME = 512  # characters of the texts that are no prompts
FORMATS = ("png", "jpeg", "webp")
RESPONSE_FORMATS = ("b64_json", "url")
# How many steps, as a share of the usual number; other names are the usual number.
_QUALITY = {"low": 0.5, "medium": 0.75, "xhigh": 1.5, "max": 2.0}
QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
# Known to the clients and without meaning here.
IGNORED = ("model", "style", "moderation", "user", "input_fidelity", "safety_identifier")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_images: pictures drawn.
        max_references: pictures given to an edit.
        max_pixels: of a drawn picture.
        max_reference_pixels: of a given picture, before it is scaled down.
        max_prompt: characters of a prompt.
        max_steps: solver steps.
        max_body_mib: MiB of a request.
        body_timeout_s: seconds a client may take to send its request.
        timeout_s: seconds until the pictures must be done.
    """

    max_images: int = 10
    max_references: int = 16
    max_pixels: int = 2048 * 2048
    max_reference_pixels: int = 64_000_000
    max_prompt: int = 8000
    max_steps: int = 200
    max_body_mib: int = 128
    body_timeout_s: float = 60.0
    timeout_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The scalar fields of a request for pictures, checked; None leaves a choice to the model.

    `output_compression` matters to jpeg and webp, `partial_images` and `include_progress` to a stream, and
    `response_format` to an answer that is none; where they do not, they change nothing.
    """

    prompt: str
    negative_prompt: str = ""
    n: int = 1
    height: int | None = None
    width: int | None = None
    quality: str = "auto"
    output_format: Kind = "png"
    output_compression: int = 100
    response_format: str = "b64_json"
    stream: bool = False
    partial_images: int = 0
    include_progress: bool = False
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    preset: str | None = None
    solver: str | None = None
    safety_identifier: str | None = None
    lora: str | None = None

    def steps(self, usual: int, limit: int) -> int:
        """Solver steps: what was asked, or the quality's share of the usual number, within the limit."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        return min(limit, max(1, math.ceil(usual * _QUALITY.get(self.quality, 1.0))))


def read_fields(
    given: Mapping[str, Any], limits: Limits, *, is_form: bool, prompt: str | None = None
) -> Fields:
    """Check every field; `ApiError` names the first that is wrong.

    Args:
        given: names and values, pictures left out; values are text where `is_form`.
        limits: what may be asked.
        is_form: read numbers and truths from text.
        prompt: stands in where the route has no prompt of its own.
    """
    reader = _Reader(given, is_form)
    text = reader.text("prompt", limits.max_prompt)
    if prompt is not None:
        if text is not None:
            raise invalid("this route takes no prompt; use /v1/images/edits", "prompt", "unknown_parameter")
        text = prompt
    try:
        text = check_prompt(text, "prompt")
    except ValueError as error:
        raise invalid(str(error), "prompt", "missing_required_parameter") from error
    if reader.choice("background", ("auto", "opaque", "transparent")) == "transparent":
        raise invalid("background: this model draws no transparent pictures; use opaque", "background")
    scale, alias = (
        reader.number("guidance_scale", 0, MAX_GUIDANCE),
        reader.number("true_cfg_scale", 0, MAX_GUIDANCE),
    )
    height, width = reader.sizes(limits.max_pixels)
    asked: dict[str, Any] = {
        "prompt": text,
        "negative_prompt": reader.text("negative_prompt", limits.max_prompt),
        "n": reader.integer("n", 1, limits.max_images),
        "height": height,
        "width": width,
        "quality": reader.choice("quality", QUALITIES),
        "output_format": reader.choice("output_format", FORMATS),
        "output_compression": reader.integer("output_compression", 0, 100),
        "response_format": reader.choice("response_format", RESPONSE_FORMATS),
        "stream": reader.truth("stream"),
        "partial_images": reader.integer("partial_images", 0, MAX_PREVIEWS),
        "include_progress": reader.truth("include_progress"),
        "seed": reader.integer("seed", 0, MAX_SEED - limits.max_images),
        "num_inference_steps": reader.integer("num_inference_steps", 1, limits.max_steps),
        "guidance_scale": alias if scale is None else scale,
        "preset": reader.choice("preset", PRESETS),
        "solver": reader.choice("solver", SOLVERS),
        "safety_identifier": reader.text("safety_identifier", MAX_NAME),
        "lora": reader.text("lora", 128),
    }
    for name in IGNORED:
        reader.text(name, MAX_NAME)
    reader.refuse_unknown()
    return Fields(**{name: value for name, value in asked.items() if value is not None})


class _Reader:
    """Reads fields one by one and remembers which; every method returns None for a field left out."""

    def __init__(self, given: Mapping[str, Any], is_form: bool) -> None:
        self._given, self._is_form, self._seen = given, is_form, set[str]()

    def _get(self, name: str) -> Any:
        self._seen.add(name)
        return self._given.get(name)

    def text(self, name: str, limit: int) -> str | None:
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise invalid(f"{name} must be text, got {_kind(value)}", name, "invalid_type")
        if len(value) > limit:
            raise invalid(
                f"{name} has {len(value)} characters; the limit is {limit}", name, "string_too_long"
            )
        return check_text(value, name)

    def choice(self, name: str, known: tuple[str, ...]) -> str | None:
        value = self.text(name, 64)
        if value is not None and value not in known:
            near = suggestion(value, known)
            raise invalid(f"unknown {name} {value!r}{near}; known: {', '.join(known)}", name)
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        return self._within(name, self._parse(name, int, r"[+-]?\d{1,20}", "a whole number"), low, high)

    def number(self, name: str, low: float, high: float) -> float | None:
        pattern = r"[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?"
        return self._within(name, self._parse(name, float, pattern, "a number"), low, high)

    def truth(self, name: str) -> bool | None:
        value = self._get(name)
        if self._is_form and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if value is not None and not isinstance(value, bool):
            raise invalid(f"{name} must be true or false, got {_kind(value)}", name, "invalid_type")
        return value

    def sizes(self, max_pixels: int) -> tuple[int | None, int | None]:
        """(height, width), given as `size` or by their names."""
        size = self.size("size", max_pixels)
        height, width = (self.integer(side, 1, MAX_SIDE) for side in ("height", "width"))
        if size is None:
            if (height or 1) * (width or 1) > max_pixels:
                raise invalid(
                    f"{width or 1}x{height or 1} has more than the {max_pixels:,} pixels allowed", "height"
                )
            return height, width
        if height is not None or width is not None:
            raise invalid("size says height and width; leave out one or the other", "size")
        return size

    def size(self, name: str, max_pixels: int) -> tuple[int, int] | None:
        value = self.text(name, 64)
        if value is None or value == "auto":
            return None
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)
        if not match:
            raise invalid(f"size {value!r} is not WIDTHxHEIGHT, such as 768x512, or auto", name)
        width, height = int(match[1]), int(match[2])
        if width < 1 or height < 1:
            raise invalid(f"size {value} has no pixels", name)
        if width * height > max_pixels:
            raise invalid(f"size {value} has more than the {max_pixels:,} pixels allowed", name)
        return height, width

    def refuse_unknown(self) -> None:
        unknown = sorted(set(map(str, self._given)) - self._seen)
        if unknown:
            name = unknown[0][:64]
            known = sorted(self._seen)
            message = f"unknown field {name!r}{nearest_name(name, known)}; known: {', '.join(known)}"
            raise invalid(message, name, "unknown_parameter")

    def _parse(self, name: str, make: Callable[[Any], Any], pattern: str, kind: str) -> Any:
        value = self._get(name)
        if value is None:
            return None
        if self._is_form and isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII):
            return make(value)
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not (is_whole if make is int else isinstance(value, int | float)):
            raise invalid(f"{name} must be {kind}, got {_kind(value)}", name, "invalid_type")
        return make(value) if make is int or abs(value) < 1e300 else math.inf

    def _within(self, name: str, value: Any, low: float, high: float) -> Any:
        if value is not None and not low <= value <= high:
            raise invalid(f"{name} must be between {low:g} and {high:g}, got {value:g}", name)
        return value


def check_text(value: str, name: str) -> str:
    """The text, unless it could not be written as UTF-8 or holds a null character."""
    if "\0" in value:
        raise invalid(f"{name} holds a null character", name)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # lone surrogates, which JSON can spell
        raise invalid(f"{name} is not valid Unicode at character {error.start}", name) from error
    return value


def _kind(value: Any) -> str:
    names = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
