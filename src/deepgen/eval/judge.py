"""A judge behind an OpenAI-compatible endpoint: every reply kept, every question asked once.

Replies are kept by content: model, sampling, words, pictures and the number of the attempt. A second scoring
of the same pictures asks nothing. A reply of another model than the first is no verdict, because scores of
two judges would be mixed: it is a problem of its picture, and after some of them nobody is asked any more.
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
from typing import Any, Literal

from PIL import Image

from deepgen.eval.wordings import Wording, Wordings
from deepgen.rewards.http import Connection, RequestRefused
from deepgen.rewards.judge import ChatOptions, message_of
from deepgen.rewards.reward import RewardUnavailable

_MOST_STRANGERS = 8  # replies of another model before nobody is asked any more
_NO_SUCH_OPTION = {400, 404, 415, 422, 501}  # how servers refuse a response_format they do not know


class JudgeChanged(RewardUnavailable):
    """The endpoint answers with another model than before."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(ChatOptions):
    """Which judge, and how it is asked.

    Attributes:
        api_key: sent as a bearer token; not shown and not saved.
        per_minute: most questions a minute; 0 is no limit.
        price_in, price_out: of a million tokens, for the estimate and the bill; 0 where not known.
        replies: "json" holds the judge to a JSON schema where the wording is ours, and goes on without where
            the server refuses that; "words" never does.
    """

    max_tokens: int = 4096
    retries: int = 4
    concurrency: int = 8
    api_key: str = ""
    per_minute: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    replies: Literal["json", "words"] = "json"

    def price(self, tokens_in: float, tokens_out: float) -> float | None:
        """What tokens cost, in the currency of the prices; None without prices."""
        if not self.price_in and not self.price_out:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass
class Usage:
    """What a judge was asked in this process, and the tokens of replies that were kept from before."""

    asked: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens_in: int = 0
    cached_tokens_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question.

    Attributes:
        text: the question.
        images: shown after it, as PNG, or as JPEG within `side` pixels where `side` is not 0.
        side: see `images`.
        system: said before, as its own message.
        schema: JSON schema of the reply, if the server knows such.
    """

    text: str
    images: Sequence[Image.Image] = ()
    side: int = 0
    system: str = ""
    schema: Mapping[str, Any] | None = None

    def files(self) -> list[tuple[str, bytes]]:
        """(format, file) of each picture."""
        return [_encode(image, self.side) for image in self.images]


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
        self.config, self.wordings = config, Wordings(prompts_dir)
        self.usage = Usage()
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._connection = connection or Connection(
            url=config.url, timeout=config.timeout, retries=config.retries, headers=headers
        )
        self._cache_dir = cache_dir
        self._slots = threading.Semaphore(config.concurrency)
        self._lock = threading.Lock()
        self._served: str | None = None
        self._num_strangers = 0
        self._next = 0.0
        self.schema_refused = ""  # why the server takes no schema

    @property
    def version(self) -> str:
        """Model and sampling in one word; the wording is added by the benchmark."""
        return f"{self.config.model}-t{self.config.temperature:g}"

    @property
    def wants_json(self) -> bool:
        """Whether replies are to be JSON: official prompts have forms of their own."""
        return self.config.replies == "json" and self.wordings.are_ours

    def wording(self, benchmark: str, question: str, ours: str) -> Wording:
        """The prompt of a question; see `Wordings.get`."""
        return self.wordings.get(benchmark, question, ours)

    def ask(self, query: Query, *, attempt: int = 0) -> str:
        """What the judge says; another attempt, from 0, is another question.

        Raises:
            RewardUnavailable: it cannot be reached, says nothing, or refuses.
            JudgeChanged: another model answers than before.
        """
        files = query.files()
        key = self._key(query, [data for _, data in files], attempt)
        kept = self._read(key)
        if kept is not None:
            return kept
        if self._num_strangers >= _MOST_STRANGERS:
            raise JudgeChanged(
                f"not asked: {self.config.url} answered {self._num_strangers} times as another model than "
                f"{self._served!r}; score again with one judge"
            )
        with self._slots:
            self._wait()
            reply = self._post(query, files)
        said, tokens = self._said(reply)
        self._keep(key, said, tokens)
        return said

    def forget(self, query: Query, *, attempts: int) -> None:
        """Drop the kept replies to the first attempts of a question, so that another run asks it anew."""
        if self._cache_dir is None:
            return
        data = [file for _, file in query.files()]
        for attempt in range(attempts):
            self._path(self._key(query, data, attempt)).unlink(missing_ok=True)

    def cost(self) -> float | None:
        """What the questions of this process cost, in the currency of the prices; None without prices."""
        return self.config.price(self.usage.tokens_in, self.usage.tokens_out)

    def _post(self, query: Query, files: Sequence[tuple[str, bytes]]) -> Any:
        """Held to the schema; where the server refuses that, and takes the same question without, never
        again.
        """
        payload = self._payload(query, files)
        if query.schema is None or self.schema_refused:
            return self._connection.post("/chat/completions", payload)
        kind = {"name": "reply", "schema": dict(query.schema), "strict": True}
        held = {**payload, "response_format": {"type": "json_schema", "json_schema": kind}}
        try:
            return self._connection.post("/chat/completions", held)
        except RequestRefused as error:
            if error.status not in _NO_SUCH_OPTION:
                raise
            reply = self._connection.post("/chat/completions", payload)
            self.schema_refused = str(error)
            return reply

    def _payload(self, query: Query, files: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": query.text}]
        for kind, data in files:
            url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url, "detail": "high"}})
        before = [{"role": "system", "content": query.system}] if query.system else []
        return {
            "model": self.config.model,
            "messages": [*before, {"role": "user", "content": content}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }

    def _said(self, reply: Any) -> tuple[str, tuple[int, int]]:
        """(what it says, tokens in and out); counts the tokens also where what it says is no verdict."""
        message = message_of(reply, self.config.url)
        usage = reply.get("usage") or {}
        tokens = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        with self._lock:
            self.usage.asked += 1
            self.usage.tokens_in += tokens[0]
            self.usage.tokens_out += tokens[1]
        self._check_served(reply.get("model"))
        if message.get("refusal"):
            raise RewardUnavailable(f"{self.config.model} refused: {str(message['refusal'])[:200]!r}")
        said = message.get("content")
        if not isinstance(said, str) or not said.strip():
            reason = reply["choices"][0].get("finish_reason")
            raise RewardUnavailable(f"{self.config.model} said nothing (finish_reason {reason!r})")
        return said, tokens

    def _check_served(self, served: str | None) -> None:
        """Refuse the reply of another model than the first one heard."""
        with self._lock:
            if self._served is None:
                self._served = served
            if served == self._served:
                return
            self._num_strangers += 1
        raise JudgeChanged(
            f"{self.config.url} answered as {self._served!r} and now as {served!r}; scores of two judges do "
            "not mix, so score again with one, and with another --judge-cache if the first is gone"
        )

    def _wait(self) -> None:
        """Keep to the rate."""
        if not self.config.per_minute:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / self.config.per_minute
        time.sleep(start - now)

    def _key(self, query: Query, files: Sequence[bytes], attempt: int) -> str:
        config = self.config
        what = ["deepgen judge 1", config.model, config.temperature, config.max_tokens, attempt, query.text]
        what += [query.system] if query.system else []
        digest = hashlib.sha256(json.dumps(what).encode())
        for data in files:
            digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()

    def _read(self, key: str) -> str | None:
        """The reply that was kept; the model that gave it is the one all others have to be from."""
        if self._cache_dir is None:
            return None
        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
            said, served, tokens = kept["reply"], kept["model"], kept.get("tokens", (0, 0))
        except (OSError, ValueError, KeyError, TypeError):  # absent, or half a file of another program
            return None
        self._check_served(served)
        with self._lock:
            self.usage.cached += 1
            self.usage.cached_tokens_in += tokens[0]
            self.usage.cached_tokens_out += tokens[1]
        return said

    def _keep(self, key: str, said: str, tokens: tuple[int, int]) -> None:
        if self._cache_dir is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        kept = {"model": self._served, "reply": said, "tokens": tokens}
        part.write_text(json.dumps(kept), encoding="utf-8")
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
