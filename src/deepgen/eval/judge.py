"""A judge behind an OpenAI-compatible endpoint: every reply kept, every question asked once.

Replies are kept by content: model, sampling, words, pictures and the number of the attempt. A second scoring
of the same pictures asks nothing. Where the endpoint answers with another model than at first, the run
stops, because scores of two judges would be mixed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.rewards.http import Connection
from deepgen.rewards.reward import RewardUnavailable


class JudgeChanged(ValueError):
    """The endpoint answers with another model than before."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Which judge, and how it is asked.

    Attributes:
        url: up to and with the version, such as http://gpu7:8000/v1.
        model: the name the endpoint serves it under.
        api_key: sent as a bearer token; not shown and not saved.
        temperature, max_tokens: of the answer.
        timeout, retries: seconds of silence in a try, and tries after the first.
        concurrency: questions at once.
        per_minute: most questions a minute; 0 is no limit.
        price_in, price_out: of a million tokens, for the estimate; 0 where not known.
    """

    url: str
    model: str
    api_key: str = ""
    temperature: float = 0.0
    max_tokens: int = 4096
    timeout: float = 120.0
    retries: int = 4
    concurrency: int = 8
    per_minute: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        """Refuse questions of nothing."""
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.model:
            raise ValueError("a judge has a model; give the name the endpoint serves it under")


@dataclass
class Usage:
    """What a judge was asked in this process."""

    asked: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Judge:
    """Asks one endpoint, keeps replies in a folder if one is given; may be used by many threads."""

    def __init__(
        self,
        config: JudgeConfig,
        *,
        cache_dir: Path | None = None,
        prompts_dir: Path | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.config, self.prompts_dir = config, prompts_dir
        self.usage = Usage()
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._connection = connection or Connection(
            url=config.url, timeout=config.timeout, retries=config.retries, headers=headers
        )
        self._cache_dir = cache_dir
        self._slots = threading.Semaphore(config.concurrency)
        self._lock = threading.Lock()
        self._served: str | None = None
        self._next = 0.0

    @property
    def version(self) -> str:
        """Model and sampling in one word; the wording is added by the benchmark."""
        return f"{self.config.model}-t{self.config.temperature:g}"

    def wording(self, benchmark: str, question: str, ours: str) -> str:
        """The prompt of a question: the user's file, or ours where no folder was given.

        Raises:
            FileNotFoundError: a folder was given and the file is not in it.
        """
        if self.prompts_dir is None:
            return ours
        path = self.prompts_dir / benchmark / f"{question}.txt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the judge's prompt for {question!r} of {benchmark}, with {{fields}} as "
                "in docs/evaluation.md; leave --judge-prompts out to use our own wording"
            )
        return path.read_text(encoding="utf-8")

    def ask(self, text: str, images: Sequence[Image.Image] = (), *, attempt: int = 0, side: int = 0) -> str:
        """What the judge says; RewardUnavailable where it cannot be reached or says nothing.

        Args:
            text: the question.
            images: shown after it, as PNG, or as JPEG within `side` pixels where `side` is not 0.
            attempt: from 0; another attempt is another question.
            side: see `images`.
        """
        files = [_encode(image, side) for image in images]
        key = self._key(text, [data for _, data in files], attempt)
        kept = self._read(key)
        if kept is not None:
            with self._lock:
                self.usage.cached += 1
            return kept
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for kind, data in files:
            url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url, "detail": "high"}})
        payload = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        with self._slots:
            self._wait()
            reply = self._connection.post("/chat/completions", payload)
        said = self._said(reply)
        self._keep(key, said)
        return said

    def forget(self, text: str, images: Sequence[Image.Image] = (), *, attempts: int, side: int = 0) -> None:
        """Drop the kept replies to the first attempts of a question, so that another run asks it anew."""
        if self._cache_dir is None:
            return
        data = [file for _, file in (_encode(image, side) for image in images)]
        for attempt in range(attempts):
            self._path(self._key(text, data, attempt)).unlink(missing_ok=True)

    def cost(self) -> float | None:
        """What the questions of this process cost, in the currency of the prices; None without prices."""
        if not self.config.price_in and not self.config.price_out:
            return None
        usage = self.usage
        return (usage.tokens_in * self.config.price_in + usage.tokens_out * self.config.price_out) / 1e6

    def _said(self, reply: Any) -> str:
        try:
            said = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise RewardUnavailable(f"{self.config.url} is no chat endpoint: {str(reply)[:120]!r}") from error
        if not isinstance(said, str) or not said.strip():
            raise RewardUnavailable(f"{self.config.model} said nothing")
        with self._lock:
            served = reply.get("model")
            if self._served is None:
                self._served = served
            elif served != self._served:
                raise JudgeChanged(
                    f"{self.config.url} answered as {self._served!r} and now as {served!r}; scores of two "
                    "judges do not mix, so score again with one"
                )
            usage = reply.get("usage") or {}
            self.usage.asked += 1
            self.usage.tokens_in += int(usage.get("prompt_tokens") or 0)
            self.usage.tokens_out += int(usage.get("completion_tokens") or 0)
        return said

    def _wait(self) -> None:
        """Keep to the rate."""
        if not self.config.per_minute:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / self.config.per_minute
        time.sleep(start - now)

    def _key(self, text: str, files: Sequence[bytes], attempt: int) -> str:
        config = self.config
        what = ["deepgen judge 1", config.model, config.temperature, config.max_tokens, attempt, text]
        digest = hashlib.sha256(json.dumps(what).encode())
        for data in files:
            digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()

    def _read(self, key: str) -> str | None:
        if self._cache_dir is None:
            return None
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):  # absent, or half a file of another program
            return None

    def _keep(self, key: str, said: str) -> None:
        if self._cache_dir is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        part.write_text(json.dumps({"model": self._served, "reply": said}), encoding="utf-8")
        os.replace(part, path)  # noqa: PTH105

    def _path(self, key: str) -> Path:
        assert self._cache_dir is not None
        return self._cache_dir / key[:2] / f"{key[2:]}.json"


def fill(wording: str, fields: Mapping[str, str]) -> str:
    """A wording with its fields put in; other braces stay, since prompts show JSON."""
    for name, value in fields.items():
        wording = wording.replace(f"{{{name}}}", value)
    return wording


def _encode(image: Image.Image, side: int) -> tuple[str, bytes]:
    """(format, file) of a picture."""
    image = image.convert("RGB")
    buffer = BytesIO()
    if not side:
        image.save(buffer, "PNG", compress_level=1)
        return "png", buffer.getvalue()
    image.thumbnail((side, side))
    image.save(buffer, "JPEG", quality=95)
    return "jpeg", buffer.getvalue()
