"""A vision-language model as judge, behind any OpenAI-compatible endpoint (vLLM, SGLang, OpenAI).

Rewards and benchmarks ask through this one client. With a folder, replies are kept by content: model,
sampling, text, images and the number of the attempt, so the same question is sent once. A reply of another
model than the first is refused, because scores of two judges would be mixed; after some of them no question
is sent any more.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.moved import renamed
from deepgen.rewards.http import BrokenReply, Connection, RequestRefused
from deepgen.rewards.replies import after_thinking
from deepgen.rewards.reward import RewardUnavailable
from deepgen.rewards.wire import encode_image

_MOST_OTHER_MODELS = 8  # replies of another model before no question is sent any more
ATTEMPTS = 3  # that a reward makes for a reply; benchmarks have numbers of their own
MORE_TOKENS = 4  # times as many for a reply that was cut off, each time it is
_OWN_FIELDS = {"model", "messages", "temperature", "max_tokens", "response_format"}
_NO_SUCH_OPTION = {400, 404, 415, 422, 501}  # how servers refuse a response_format they do not know


class JudgeChanged(RewardUnavailable):
    """The endpoint answers with another model than before."""


class NoReply(RewardUnavailable):
    """The judge was reached and gave no text: it refused, or its message is empty."""


class CutOff(NoReply):
    """The reply ends in the middle, or in the thinking before it: `max_tokens` was too small for it."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """A chat endpoint, and how it is asked.

    Attributes:
        url: up to and with the version, such as http://gpu7:8000/v1.
        model: the name the endpoint serves it under.
        temperature, max_tokens: of the answer.
        timeout, retries: seconds of silence in a try, and tries after the first.
        longest_pause: seconds before such a try at most, also where the answer asks for more.
        concurrency: questions at once.
        extra: further fields of the request, such as {"chat_template_kwargs": {"enable_thinking": false}} for
            vLLM; those that are sent anyway cannot be given here.
    """

    url: str
    model: str
    temperature: float = 0.0
    max_tokens: int = 2048
    timeout: float = 120.0
    retries: int = 3
    longest_pause: float = 10.0
    concurrency: int = 16
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an empty model name, counts below 1 and extra fields that have options of their own."""
        if own := sorted(_OWN_FIELDS & set(self.extra)):
            raise ValueError(f"extra fields of a judge's request cannot be {', '.join(own)}")
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.model:
            raise ValueError("a judge has a model; give the name the endpoint serves it under")


@dataclass
class Usage:
    """Questions and tokens of this process, and the tokens of replies that were kept from before."""

    asked: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens_in: int = 0
    cached_tokens_out: int = 0


def as_jpeg(image: Image.Image) -> tuple[str, bytes]:
    """("jpeg", file) of an image in its own size, quality 95: what rewards send."""
    return "jpeg", encode_image(image, "jpeg")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question.

    Attributes:
        content: texts and images of the message, in their order.
        encode: an image to (format, file).
        detail: OpenAI's `detail` of the images, such as "high"; not sent if empty.
        system: the system message; not sent if empty.
        schema: JSON schema of the reply, for servers that know such.
    """

    content: Sequence[str | Image.Image]
    encode: Callable[[Image.Image], tuple[str, bytes]] = as_jpeg
    detail: str = ""
    system: str = ""
    schema: Mapping[str, Any] | None = None

    def parts(self) -> list[str | tuple[str, bytes]]:
        """The content with its images as (format, file)."""
        return [part if isinstance(part, str) else self.encode(part) for part in self.content]


class Judge:
    """Asks one endpoint, with at most `concurrency` questions under way; may be used by many threads.

    Args:
        options: the endpoint.
        api_key: sent as a bearer token; not shown and not saved.
        per_minute: most questions a minute; 0 is no limit.
        cache_dir: where replies are kept; None keeps none.
        connection: instead of one made from the options.
    """

    def __init__(
        self,
        options: ChatOptions,
        *,
        api_key: str = "",
        per_minute: float = 0.0,
        cache_dir: Path | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.options = options
        self.usage = Usage()
        self.schema_refused = ""  # why the server takes no schema
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connection = connection or Connection(
            url=options.url,
            timeout=options.timeout,
            retries=options.retries,
            longest_backoff=options.longest_pause,
            headers=headers,
        )
        self._per_minute, self._cache_dir = per_minute, cache_dir
        self._slots = threading.Semaphore(options.concurrency)
        self._lock = threading.Lock()
        self._served: str | None = None
        self._num_other_models = 0
        self._next = 0.0

    @property
    def version(self) -> str:
        """Model, sampling and extra fields in one word; the prompts are named by who writes them."""
        extra = json.dumps(dict(self.options.extra), sort_keys=True) if self.options.extra else ""
        digest = f"-{hashlib.sha256(extra.encode()).hexdigest()[:8]}" if extra else ""
        return f"{self.options.model}-t{self.options.temperature:g}{digest}"

    def replies(self, query: Query, *, attempts: int = ATTEMPTS) -> Iterator[str]:
        """What the judge says, without its thinking, once an attempt; take no more when one can be read.

        An attempt in which it says nothing, or whose reply has no message in it, yields nothing; after one
        that was cut off, the next may take four times as many tokens.

        Raises:
            RewardUnavailable: it cannot be reached, or (BrokenReply) sent no message in any of the attempts.
            NoReply: it said nothing in any of the attempts.
            JudgeChanged: another model answers than before.
        """
        factor, has_said = 1, False
        error: RewardUnavailable | None = None
        for attempt in range(attempts):
            try:
                reply = after_thinking(self.ask(query, attempt=attempt, token_factor=factor))
                if reply is None:
                    raise CutOff(f"{self.options.model} was cut off while it was thinking")
            except CutOff as cut:
                factor, error = factor * MORE_TOKENS, cut
                continue
            except (NoReply, BrokenReply) as silence:
                error = silence
                continue
            has_said = True
            yield reply
        if not has_said and error is not None:
            raise error

    def ask(self, query: Query, *, attempt: int = 0, token_factor: int = 1) -> str:
        """The judge's reply as it is; another attempt, from 0, is another question.

        Args:
            query: the question.
            attempt: which one.
            token_factor: times `max_tokens` that the reply may take.

        Raises:
            RewardUnavailable: it cannot be reached.
            NoReply: it refuses, its message is empty, or (CutOff) it had no more tokens.
            JudgeChanged: another model answers than before.
        """
        parts = query.parts()
        key = self._key(query, parts, attempt)
        kept = self._read(key)
        if kept is not None and after_thinking(kept) is not None:
            return kept
        if self._num_other_models >= _MOST_OTHER_MODELS:
            raise JudgeChanged(
                f"not asked: {self.options.url} answered {self._num_other_models} times as another model "
                f"than {self._served!r}; score again with one judge"
            )
        with self._slots:
            self._wait()
            reply = self._post(query, parts, token_factor)
        text, tokens = self._text_of(reply)
        if after_thinking(text) is not None:  # cut off, it is no answer, and another run asks again
            self._keep(key, text, tokens)
        return text

    def ask_all(self, queries: Sequence[Query]) -> list[str | None]:
        """The reply to each; empty where the judge gave no text, None where it could not be reached.

        RewardUnavailable where it could be reached for none of them, with the last reason.
        """
        if not queries:
            return []
        with ThreadPoolExecutor(min(len(queries), self.options.concurrency)) as pool:
            replies = list(pool.map(self._ask_or_error, queries))
        errors = [reply for reply in replies if isinstance(reply, RewardUnavailable)]
        if len(errors) == len(replies):
            raise errors[-1]
        return [None if isinstance(reply, RewardUnavailable) else reply for reply in replies]

    def forget(self, query: Query, *, attempts: int) -> None:
        """Drop the kept replies to the first attempts of a question, so that another run asks it anew."""
        if self._cache_dir is None:
            return
        parts = query.parts()
        for attempt in range(attempts):
            self._path(self._key(query, parts, attempt)).unlink(missing_ok=True)

    def _ask_or_error(self, query: Query) -> str | RewardUnavailable:
        try:
            return next(self.replies(query))
        except NoReply:
            return ""
        except RewardUnavailable as error:
            return error

    def _post(self, query: Query, parts: Sequence[str | tuple[str, bytes]], token_factor: int) -> Any:
        """Held to the schema; where the server refuses that, and takes the same question without, never
        again.
        """
        payload = self._payload(query, parts, token_factor)
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

    def _payload(
        self, query: Query, parts: Sequence[str | tuple[str, bytes]], token_factor: int
    ) -> dict[str, Any]:
        detail = {"detail": query.detail} if query.detail else {}
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                url = f"data:image/{part[0]};base64,{base64.b64encode(part[1]).decode()}"
                content.append({"type": "image_url", "image_url": {"url": url, **detail}})
        before = [{"role": "system", "content": query.system}] if query.system else []
        return {
            "model": self.options.model,
            "messages": [*before, {"role": "user", "content": content}],
            "temperature": self.options.temperature,
            "max_tokens": self.options.max_tokens * token_factor,
            **self.options.extra,
        }

    def _text_of(self, reply: Any) -> tuple[str, tuple[int, int]]:
        """(text, tokens in and out); counts the tokens also where there is no text."""
        message = message_of(reply, self.options.url)
        usage = reply.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        tokens = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        with self._lock:
            self.usage.asked += 1
            self.usage.tokens_in += tokens[0]
            self.usage.tokens_out += tokens[1]
        self._check_served(reply.get("model"))
        if message.get("refusal"):
            raise NoReply(f"{self.options.model} refused: {str(message['refusal'])[:200]!r}")
        text = message.get("content")
        reason = reply["choices"][0].get("finish_reason")
        if reason == "length":
            raise CutOff(f"{self.options.model} was cut off after {tokens[1]} tokens")
        if not isinstance(text, str) or not text.strip():
            raise NoReply(f"{self.options.model} said nothing (finish_reason {reason!r})")
        return text, tokens

    def _check_served(self, served: str | None) -> None:
        """Refuse the reply of another model than the first one."""
        with self._lock:
            if self._served is None:
                self._served = served
            if served == self._served:
                return
            self._num_other_models += 1
        raise JudgeChanged(
            f"{self.options.url} answered as {self._served!r} and now as {served!r}; scores of two judges do "
            "not mix, so score again with one, and with another --judge-cache if the first is gone"
        )

    def _wait(self) -> None:
        """Keep to the rate."""
        if not self._per_minute:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / self._per_minute
        time.sleep(start - now)

    def _key(self, query: Query, parts: Sequence[str | tuple[str, bytes]], attempt: int) -> str:
        """What a reply is kept by. One text before all images is keyed as in the first release."""
        options = self.options
        texts = [part for part in parts if isinstance(part, str)]
        order = "".join("t" if isinstance(part, str) else "i" for part in parts)
        what = ["deepgen judge 1", options.model, options.temperature, options.max_tokens, attempt, *texts]
        what += [query.system] if query.system else []
        what += [dict(options.extra)] if options.extra else []
        what += [] if order.rstrip("i") == "t" else [f"order {order}"]
        digest = hashlib.sha256(json.dumps(what).encode())
        for part in parts:
            if not isinstance(part, str):
                digest.update(hashlib.sha256(part[1]).digest())
        return digest.hexdigest()

    def _read(self, key: str) -> str | None:
        """The reply that was kept; the model that gave it is the one all others have to be from."""
        if self._cache_dir is None:
            return None
        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
            text, served, tokens = kept["reply"], kept["model"], kept.get("tokens", (0, 0))
        except (OSError, ValueError, KeyError, TypeError):  # absent, or half a file of another program
            return None
        self._check_served(served)
        with self._lock:
            self.usage.cached += 1
            self.usage.cached_tokens_in += tokens[0]
            self.usage.cached_tokens_out += tokens[1]
        return text

    def _keep(self, key: str, text: str, tokens: tuple[int, int]) -> None:
        if self._cache_dir is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        part.write_text(
            json.dumps({"model": self._served, "reply": text, "tokens": tokens}), encoding="utf-8"
        )
        os.replace(part, path)  # noqa: PTH105

    def _path(self, key: str) -> Path:
        assert self._cache_dir is not None
        return self._cache_dir / key[:2] / f"{key[2:]}.json"


def message_of(reply: Any, url: str) -> Mapping[str, Any]:
    """The message in a chat endpoint's reply; BrokenReply where there is none."""
    try:
        message = reply["choices"][0]["message"]
    except (KeyError, IndexError, TypeError) as error:
        raise BrokenReply(f"{url} is no chat endpoint: {str(reply)[:120]!r}") from error
    if not isinstance(message, Mapping):
        raise BrokenReply(f"{url} is no chat endpoint: {str(reply)[:120]!r}")
    return message


def answer_in(text: str) -> str | None:
    """What stands in the last <answer> of a text, or None. What comes before it is thinking aloud."""
    found = re.findall(r"<answer>(.*?)</answer>", text, flags=re.DOTALL | re.IGNORECASE)
    return found[-1].strip() if found else None


def number_in(text: str, low: float, high: float) -> float | None:
    """The one number a text consists of, such as "7", "7.5" or "7/10"; None unless it is from low to high."""
    match = re.fullmatch(r"\**(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\**\.?", text.strip())
    value = None if match is None else float(match[1])
    return value if value is not None and low <= value <= high else None


__getattr__ = renamed(
    __name__,
    {name: f"deepgen.rewards.rubric_judge.{name}" for name in ("JudgeOptions", "Question", "calls_at_once")},
)
