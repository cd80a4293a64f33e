"""A vision-language model that is asked in words, behind any OpenAI-compatible endpoint (vLLM, SGLang).

A question that gets no answer in the form asked for is no verdict. One that reaches nobody has none either,
and a call of which every question reached nobody is an error.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.rewards.http import Connection
from deepgen.rewards.reward import RewardUnavailable
from deepgen.rewards.wire import encode_picture

Question = Sequence[str | Image.Image]  # one message: words and pictures in their order


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """A chat endpoint, and how it is asked.

    Attributes:
        url: up to and with the version, such as http://gpu7:8000/v1.
        model: the name the endpoint serves it under.
        temperature, max_tokens: of the answer.
        timeout, retries: seconds of silence in a try, and tries after the first.
        concurrency: questions at once.
    """

    url: str
    model: str
    temperature: float = 0.0
    max_tokens: int = 2048
    timeout: float = 120.0
    retries: int = 3
    concurrency: int = 16

    def __post_init__(self) -> None:
        """Refuse questions of nothing, and to nobody."""
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.model:
            raise ValueError("a judge has a model; give the name the endpoint serves it under")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(ChatOptions):
    """Which judge, and how it is asked.

    Attributes:
        api_key_path: a file that holds the key, for endpoints that want one; a key itself would end up in the
            saved settings of a run.
        rubric_path: a file of UTF-8 text to use instead of our wording; {prompt} stands for the prompt.
    """

    api_key_path: str | None = None
    rubric_path: str | None = None


class Judge:
    """Asks one endpoint; at most `concurrency` questions are under way at once, whoever asks."""

    def __init__(
        self,
        options: JudgeOptions,
        rubric: str,
        connection: Connection | None = None,
        *,
        needs_prompt: bool = True,
    ) -> None:
        """Reads the key and the rubric, if they are files; asks nobody anything yet."""
        self.options = options
        self.rubric = rubric if options.rubric_path is None else _read(options.rubric_path)
        if needs_prompt and "{prompt}" not in self.rubric:
            raise ValueError(
                f"the rubric {options.rubric_path} does not say where the prompt goes: {{prompt}}"
            )
        headers = {}
        if options.api_key_path is not None:
            headers["Authorization"] = f"Bearer {_read(options.api_key_path).strip()}"
        self._connection = connection or Connection(
            url=options.url, timeout=options.timeout, retries=options.retries, headers=headers
        )
        self._slots = threading.Semaphore(options.concurrency)

    @property
    def version(self) -> str:
        """Model, sampling and wording in one word."""
        wording = hashlib.sha256(self.rubric.encode()).hexdigest()[:8]
        return f"{self.options.model}-t{self.options.temperature:g}-{wording}"

    def in_words(self, prompt: str) -> str:
        """The rubric for a prompt."""
        return self.rubric.replace("{prompt}", prompt)

    def ask(self, question: Question) -> str:
        """What the judge says; RewardUnavailable where it cannot be reached or says nothing."""
        content = [_part(part) for part in question]
        payload = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.options.temperature,
            "max_tokens": self.options.max_tokens,
        }
        with self._slots:
            reply = self._connection.post("/chat/completions", payload)
        said = message_of(reply, self.options.url).get("content")
        return said if isinstance(said, str) else ""

    def ask_all(self, questions: Sequence[Question]) -> list[str | None]:
        """What the judge says to each, None where it could not be reached.

        RewardUnavailable where it could be reached for none of them, with the last reason.
        """
        if not questions:
            return []
        with ThreadPoolExecutor(min(len(questions), self.options.concurrency)) as pool:
            said = list(pool.map(self._ask_or_error, questions))
        errors = [answer for answer in said if isinstance(answer, RewardUnavailable)]
        if len(errors) == len(said):
            raise errors[-1]
        return [None if isinstance(answer, RewardUnavailable) else answer for answer in said]

    def _ask_or_error(self, question: Question) -> str | RewardUnavailable:
        try:
            return self.ask(question)
        except RewardUnavailable as error:
            return error


def message_of(reply: Any, url: str) -> Mapping[str, Any]:
    """The message in a chat endpoint's reply; RewardUnavailable where there is none."""
    try:
        message = reply["choices"][0]["message"]
    except (KeyError, IndexError, TypeError) as error:
        raise RewardUnavailable(f"{url} is no chat endpoint: {str(reply)[:120]!r}") from error
    if not isinstance(message, Mapping):
        raise RewardUnavailable(f"{url} is no chat endpoint: {str(reply)[:120]!r}")
    return message


def calls_at_once(options: JudgeOptions) -> int:
    """Calls of a few questions each that keep the judge busy; with more of them, each would wait for others
    and run into its time-out.
    """
    return max(2, options.concurrency // 4)


def answer_in(said: str) -> str | None:
    """What stands in the last <answer> of a text, or None. What comes before it is thinking aloud."""
    found = re.findall(r"<answer>(.*?)</answer>", said, flags=re.DOTALL | re.IGNORECASE)
    return found[-1].strip() if found else None


def number_in(text: str, low: float, high: float) -> float | None:
    """The one number a text consists of, such as "7", "7.5" or "7/10"; None unless it is from low to high."""
    match = re.fullmatch(r"\**(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\**\.?", text.strip())
    value = None if match is None else float(match[1])
    return value if value is not None and low <= value <= high else None


def _part(part: str | Image.Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(encode_picture(part, "jpeg")).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def _read(path: str) -> str:
    return Path(path).expanduser().read_text(encoding="utf-8")
