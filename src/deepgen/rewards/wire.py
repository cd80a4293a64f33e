"""Serialisation of candidates and verdicts: JSON, pictures as base64 of a file format, never a pickle.

    request   {"reward": name, "candidates":
              [{"image": base64, "prompt", "references": [base64], "metadata"}]}
    reply     {"reward", "version", "kind", "needs", "range": [low, high], "concurrency", "precision",
              "verdicts": [{"score": number or null, "words", "num_questions", "num_answers"}],
              "warnings": [text]}

The warnings say which pictures were scaled down, and are left out where there are none. A bound of the range
that is infinite is null. Pictures are PNG, JPEG or WebP; what is larger than MAX_PIXELS is refused before a
pixel is decoded.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Literal

from PIL import Image

from deepgen.image_colors import to_srgb
from deepgen.json_values import unicode_fault
from deepgen.moved import renamed
from deepgen.rewards.reading import decode_base64, header_of
from deepgen.rewards.reward import (
    Candidate,
    CannotJudge,
    Reward,
    RewardResult,
    RewardUnavailable,
    precision_of,
)
from deepgen.uploads.decoding import UploadLimits, read_image
from deepgen.uploads.rgb import ImageError

ImageFormat = Literal["png", "jpeg"]
JPEG_QUALITY = 95
MAX_PIXELS = 64_000_000
MAX_REFERENCES = 16


def encode_image(image: Image.Image, image_format: ImageFormat) -> bytes:
    """A picture as a file: PNG without loss, or JPEG of quality 95 for judges that see no difference."""
    buffer = BytesIO()
    if image_format == "png":
        to_srgb(image).save(buffer, "PNG", compress_level=1)
    else:
        to_srgb(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_image(text: Any) -> Image.Image:
    """The picture in a base64 text, as a viewer shows it; CannotJudge for anything else, or for one too
    large to be decoded.
    """
    file = BytesIO(decode_base64(text))
    header = header_of(file, UploadLimits(max_pixels=MAX_PIXELS))
    try:
        return read_image(file, header)
    except ImageError as error:
        raise CannotJudge(f"the picture cannot be read: {error}") from error


def candidate_to_json(candidate: Candidate, image_format: ImageFormat) -> dict[str, Any]:
    """One candidate of a request."""
    images = (candidate.image, *candidate.references)
    first, *references = (base64.b64encode(encode_image(image, image_format)).decode() for image in images)
    return {
        "image": first,
        "prompt": candidate.prompt,
        "references": references,
        "metadata": dict(candidate.metadata),
    }


def candidate_from_json(values: Any, decode: Callable[[Any], Image.Image] = decode_image) -> Candidate:
    """A candidate of a request, its pictures decoded so; CannotJudge says what is wrong with it."""
    if not isinstance(values, dict):
        raise CannotJudge(f"a candidate is an object, got {type(values).__name__}")
    prompt, references, metadata = (
        values.get(key, default) for key, default in (("prompt", ""), ("references", []), ("metadata", {}))
    )
    for name, value, kind in (
        ("prompt", prompt, str),
        ("references", references, list),
        ("metadata", metadata, dict),
    ):
        if not isinstance(value, kind):
            raise CannotJudge(f"{name} has the wrong type: {type(value).__name__}")
    if (place := unicode_fault(prompt)) is not None:
        raise CannotJudge(f"prompt is not valid Unicode at character {place}")
    if len(references) > MAX_REFERENCES:
        raise CannotJudge(f"{len(references)} references; the limit is {MAX_REFERENCES}")
    return Candidate(
        image=decode(values.get("image")),
        prompt=prompt,
        references=tuple(decode(text) for text in references),
        metadata=metadata,
    )


def describe(name: str, reward: Reward) -> dict[str, Any]:
    """What a reward declares, as every reply carries it."""
    bounds = [bound if math.isfinite(bound) else None for bound in (reward.low, reward.high)]
    return {
        "reward": name,
        "version": reward.version,
        "kind": reward.kind,
        "needs": list(reward.needs),
        "range": bounds,
        "concurrency": reward.concurrency,
        "precision": precision_of(reward),
    }


def result_to_json(verdict: RewardResult) -> dict[str, Any]:
    """One verdict of a reply."""
    return {
        "score": verdict.score,
        "words": verdict.reason,  # the name of the first release, which services and clients share
        "num_questions": verdict.num_questions,
        "num_answers": verdict.num_answers,
    }


def result_from_json(values: Any) -> RewardResult:
    """A verdict of a reply; NaN is a verdict without a score, what is no verdict an error."""
    if not isinstance(values, Mapping) or "score" not in values:
        raise RewardUnavailable(f"a verdict is an object with a score, got {str(values)[:80]!r}")
    score, counts = values["score"], [values.get(key, 0) for key in ("num_questions", "num_answers")]
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise RewardUnavailable(f"a score is a number or null, got {str(score)[:80]!r}")
    if not all(isinstance(count, int) for count in counts):
        raise RewardUnavailable(f"num_questions and num_answers are whole numbers, got {counts}")
    if score is not None and not math.isfinite(score):
        return RewardResult(None, f"the service answered {score}", *counts)
    return RewardResult(score, str(values.get("words", "")), *counts)


__getattr__ = renamed(
    __name__,
    {
        "PictureFormat": "deepgen.rewards.wire.ImageFormat",
        "decode_picture": "deepgen.rewards.wire.decode_image",
        "encode_picture": "deepgen.rewards.wire.encode_image",
        "verdict_to_json": "deepgen.rewards.wire.result_to_json",
        "verdict_from_json": "deepgen.rewards.wire.result_from_json",
    },
)
