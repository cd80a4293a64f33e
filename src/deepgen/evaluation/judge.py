"""The judge of benchmarks: the `deepgen.rewards.judge.Judge` of rewards, asked with a benchmark's prompts.

A question is asked again until its reply can be read. Kept replies to a question that never had a readable
one are dropped, so that another run asks it anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from deepgen.evaluation.judge_prompts import JudgePrompt, JudgePrompts
from deepgen.evaluation.scorers import JudgeRequest
from deepgen.image_colors import to_srgb
from deepgen.rewards.http import Connection
from deepgen.rewards.judge import ChatOptions, Judge, NoReply, Query, Usage
from deepgen.rewards.reward import RewardUnavailable


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(ChatOptions):
    """Which judge, and how it is asked.

    Attributes:
        api_key: sent as a bearer token; not shown and not saved.
        per_minute: most questions a minute; 0 is no limit.
        price_in, price_out: of a million tokens, for the estimate and the bill; 0 where not known.
        replies: "json" holds the judge to a JSON schema where the prompt is ours, and goes on without where
            the server refuses that; "words" never does.
    """

    max_tokens: int = 4096
    retries: int = 4
    longest_pause: float = 600.0  # nothing waits for a benchmark, so a 429 may ask for minutes
    concurrency: int = 8
    api_key: str = ""
    per_minute: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    replies: Literal["json", "words"] = "json"

    def prompt_source(self, benchmark: str) -> dict[str, Any]:
        """Where the prompts used so far are from, and which revision."""
        return self.prompts.source(benchmark)

    def price(self, tokens_in: float, tokens_out: float) -> float | None:
        """What tokens cost, in the currency of the prices; None without prices."""
        if not self.price_in and not self.price_out:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class PromptedJudge:
    """Asks with our prompts or those of a folder; a `deepgen.evaluation.scorers.BenchmarkJudge`.

    Args:
        config: the endpoint.
        cache_dir: where replies are kept; None keeps none.
        prompts_dir: see `JudgePrompts`; None takes our own prompts.
        connection: instead of one made from the config.
    """

    def __init__(
        self,
        config: JudgeConfig,
        *,
        cache_dir: Path | None = None,
        prompts_dir: Path | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.config, self.prompts = config, JudgePrompts(prompts_dir)
        self.concurrency = config.concurrency
        self._judge = Judge(
            config,
            api_key=config.api_key,
            per_minute=config.per_minute,
            cache_dir=cache_dir,
            connection=connection,
        )

    @property
    def version(self) -> str:
        """Model and sampling in one word."""
        return self._judge.version

    @property
    def usage(self) -> Usage:
        """Questions and tokens of this process."""
        return self._judge.usage

    @property
    def schema_refused(self) -> str:
        """Why the server takes no JSON schema; empty where it does."""
        return self._judge.schema_refused

    @property
    def wants_json(self) -> bool:
        """Whether replies are to be JSON: official prompts have forms of their own."""
        return self.config.replies == "json" and self.prompts.are_ours

    def describe(self, benchmark: str, rubrics: Mapping[str, str]) -> str:
        """Model, sampling and prompts; replies to others are not reused.

        Raises:
            FileNotFoundError, ValueError: prompts are missing; all of their files are named.
        """
        self.prompts.check(benchmark, rubrics)
        texts = [f"{name}={self._text_of(benchmark, name, rubric)}" for name, rubric in rubrics.items()]
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
        source = "ours" if self.prompts.are_ours else "given"
        return f"{self.version} prompts {source} {digest}{' json' if self.wants_json else ''}"

    def _text_of(self, benchmark: str, name: str, rubric: str) -> str:
        """A prompt in one text; one without system message is hashed as it is."""
        prompt = self.prompts.get(benchmark, name, rubric)
        return f"{prompt.system}\0{prompt.text}" if prompt.system else prompt.text

    def answer(self, request: JudgeRequest, read: Callable[[str], Any]) -> tuple[Any, str]:
        """(what `read` makes of the reply or None, the reply or the reason there is none)."""
        prompt = self.prompts.get(request.benchmark, request.prompt, request.rubric)
        query = self._query(request, prompt)
        schema = request.schema if self.wants_json else None
        said = ""
        try:
            for reply in self._judge.replies(query, attempts=request.attempts):
                said, text = reply, reply if schema is None else schema.read(reply)
                answer = None if text is None else _read(read, text)
                if answer is not None and text is not None:
                    return answer, text
        except NoReply as error:
            return None, f"no answer in {request.attempts} attempts, at last: {error}"
        except RewardUnavailable as error:  # the connection has been patient already
            return None, str(error)
        self._judge.forget(query, attempts=request.attempts)
        return None, f"no readable answer in {request.attempts} attempts, at last {said[:120]!r}"

    def _query(self, request: JudgeRequest, prompt: JudgePrompt) -> Query:
        schema = request.schema if self.wants_json else None
        return image_query(
            text=fill(prompt.text, request.fields) + ("" if schema is None else schema.request),
            images=request.images,
            side=request.side,
            system=prompt.system,
            schema=None if schema is None else schema.schema,
        )

    def ask(self, query: Query, *, attempt: int = 0) -> str:
        """The judge's reply; see `Judge.ask`."""
        return self._judge.ask(query, attempt=attempt)

    def prompt_source(self, benchmark: str) -> dict[str, Any]:
        """Where the prompts used so far are from, and which revision."""
        return self.prompts.source(benchmark)

    def price(self, tokens_in: float, tokens_out: float) -> float | None:
        """What tokens cost; None without prices."""
        return self.config.price(tokens_in, tokens_out)

    def cost(self) -> float | None:
        """What the questions of this process cost, in the currency of the prices; None without prices."""
        return self.price(self.usage.tokens_in, self.usage.tokens_out)

    def bill(self) -> dict[str, Any]:
        """Questions, tokens and cost of this process, and why the server takes no schema."""
        return {**asdict(self.usage), "cost": self.cost(), "schema_refused": self.schema_refused}


def _read(read: Callable[[str], Any], text: str) -> Any:
    """What a benchmark's rule reads, None also where the rule stumbles: a reply may hold anything."""
    try:
        return read(text)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, MemoryError):
        return None


def image_query(
    *,
    text: str,
    images: Sequence[Image.Image] = (),
    side: int = 0,
    system: str = "",
    schema: Mapping[str, Any] | None = None,
) -> Query:
    """A text with images after it, as PNG, or as JPEG within `side` pixels where `side` is not 0."""
    return Query(
        content=(text, *images),
        encode=partial(encode_image, side=side),
        detail="high",
        system=system,
        schema=schema,
    )


def fill(prompt: str, fields: Mapping[str, str]) -> str:
    """A prompt with its fields put in; other braces stay, since prompts show JSON."""
    for name, value in fields.items():
        prompt = prompt.replace(f"{{{name}}}", value)
    return prompt


def encode_image(image: Image.Image, side: int) -> tuple[str, bytes]:
    """(format, file) of an image: PNG, or JPEG within `side` pixels where `side` is not 0."""
    image = to_srgb(image)
    buffer = BytesIO()
    if not side:
        image.save(buffer, "PNG", compress_level=1)
        return "png", buffer.getvalue()
    image = image.copy()
    image.thumbnail((side, side))
    image.save(buffer, "JPEG", quality=95)
    return "jpeg", buffer.getvalue()
