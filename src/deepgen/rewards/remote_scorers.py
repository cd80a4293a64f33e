"""An OCR engine or a detector behind a small HTTP service of one's own.

    GET  /health                               {"version": word}
    POST /read    {"image": base64 PNG}        {"version", "lines": [text in reading order]}
    POST /detect  {"image"}                    {"version", "objects": {class: [[l, t, r, b, confidence]]}}
    POST /colors  {"image", "class", "boxes"}  {"version", "colors": [one a box]}

So any engine serves (PaddleOCR as officially, mmdetection's checkpoint), without its packages here. The
version seen first is kept; a service that answers as another one would mix two scales in a table, and is
refused.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from deepgen.rewards.http import Connection
from deepgen.rewards.interfaces import Box
from deepgen.rewards.reward import RewardUnavailable
from deepgen.rewards.wire import encode_image


class RemoteScorer:
    """What reader and detector share. Making one asks for its health, so a missing service is known at once.

    Raises:
        RewardUnavailable: there is no answer, or one of another kind of service.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, retries: int = 3) -> None:
        self._connection = Connection(url=url, timeout=timeout, retries=retries)
        self.url = url
        self.version = f"{url} {_version(url, self._connection.get('/health'))}"

    def _ask(self, path: str, image: Image.Image, key: str, **fields: Any) -> Any:
        """One field of the answer about a picture; RewardUnavailable for another version or no answer."""
        data = base64.b64encode(encode_image(image, "png")).decode()
        reply = self._connection.post(path, {"image": data, **fields})
        now = f"{self.url} {_version(self.url, reply)}"
        if now != self.version:
            raise RewardUnavailable(
                f"the service answered as {now!r} and was {self.version!r} at first; verdicts of two "
                "versions do not mix, so start again with one"
            )
        if key not in reply:
            raise RewardUnavailable(f"{self.url}{path} answered without {key!r}: {str(reply)[:120]!r}")
        return reply[key]


class RemoteReader(RemoteScorer):
    """Reads text; a `deepgen.rewards.interfaces.TextReader`."""

    def __call__(self, image: Image.Image) -> list[str]:
        """The lines in the service's order, without empty ones."""
        lines = self._ask("/read", image, "lines")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise RewardUnavailable(f"{self.url}/read: lines are a list of texts, got {str(lines)[:120]!r}")
        return [line for line in lines if line.strip()]


class RemoteDetector(RemoteScorer):
    """Finds objects of GenEval's classes and names their colors; an `ObjectDetector`."""

    _last: tuple[bytes, dict[str, list[Box]]] | None = None  # colors are asked for right after boxes

    def __call__(self, image: Image.Image) -> dict[str, list[Box]]:
        """By class, the surest box first."""
        objects = {
            str(name): sorted((_box(self.url, box) for box in boxes), key=lambda box: -box[4])
            for name, boxes in _objects(self.url, self._ask("/detect", image, "objects")).items()
        }
        self._last = (image.tobytes(), objects)
        return objects

    def colors(self, image: Image.Image, name: str, indices: Sequence[int]) -> list[str]:
        """Of some of the boxes of a class, in the order of `__call__`."""
        last = self._last
        objects = last[1] if last is not None and last[0] == image.tobytes() else self(image)
        boxes = objects.get(name, [])
        asked = [boxes[index][:4] for index in indices]
        if not asked:
            return []
        colors = self._ask("/colors", image, "colors", **{"class": name, "boxes": asked})
        if not isinstance(colors, list) or len(colors) != len(asked):
            raise RewardUnavailable(
                f"{self.url}/colors: {len(asked)} colors were asked for, got {str(colors)[:120]!r}"
            )
        return [str(color) for color in colors]


def is_address(name: str) -> bool:
    """Whether a scorer is a service elsewhere."""
    return name.startswith(("http://", "https://"))


def _version(url: str, reply: Any) -> str:
    if not isinstance(reply, Mapping) or not reply.get("version"):
        raise RewardUnavailable(f"{url} does not say its version: {str(reply)[:120]!r}")
    return str(reply["version"])


def _objects(url: str, objects: Any) -> Mapping[str, Any]:
    if not isinstance(objects, Mapping) or not all(isinstance(boxes, list) for boxes in objects.values()):
        raise RewardUnavailable(
            f"{url}/detect: objects are lists of boxes by class, got {str(objects)[:120]!r}"
        )
    return objects


def _box(url: str, box: Any) -> Box:
    try:
        left, top, right, bottom, confidence = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise RewardUnavailable(f"{url}/detect: a box is five numbers, got {str(box)[:120]!r}") from error
    return left, top, right, bottom, confidence
