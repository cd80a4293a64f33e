"""A judge with a rubric: the reward's own text or the user's file, with the prompt put in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deepgen.rewards.http import Connection
from deepgen.rewards.judge import ChatOptions, Judge, Query
from deepgen.text_lines import read_text

Question = Sequence[str | Image.Image]  # one message: texts and images in their order


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(ChatOptions):
    """Which judge, and how it is asked.

    Attributes:
        api_key_path: a file that holds the key, for endpoints that want one; a key itself would end up in the
            saved settings of a run.
        rubric_path: a file of UTF-8 text to use instead of our rubric; {prompt} stands for the prompt.
    """

    api_key_path: str | None = None
    rubric_path: str | None = None


class RubricJudge:
    """A `Judge` with the rubric of one reward."""

    def __init__(
        self,
        options: JudgeOptions,
        rubric: str,
        connection: Connection | None = None,
        *,
        needs_prompt: bool = True,
    ) -> None:
        """Reads the key and the rubric, if they are files; nothing is sent yet."""
        self.options = options
        self.rubric = rubric if options.rubric_path is None else _read(options.rubric_path)
        if needs_prompt and "{prompt}" not in self.rubric:
            raise ValueError(
                f"the rubric {options.rubric_path} does not say where the prompt goes: {{prompt}}"
            )
        key = "" if options.api_key_path is None else _read(options.api_key_path).strip()
        self._judge = Judge(options, api_key=key, connection=connection)

    @property
    def version(self) -> str:
        """Model, sampling and rubric in one word."""
        return f"{self._judge.version}-{hashlib.sha256(self.rubric.encode()).hexdigest()[:8]}"

    def rubric_for(self, prompt: str) -> str:
        """The rubric with a prompt put in."""
        return self.rubric.replace("{prompt}", prompt)

    def ask_all(self, questions: Sequence[Question]) -> list[str | None]:
        """The reply to each message of texts and images; see `Judge.ask_all`."""
        return self._judge.ask_all([Query(content=question) for question in questions])


def calls_at_once(options: JudgeOptions) -> int:
    """Calls of a few questions each that keep the judge busy; with more of them, each would wait for others
    and run into its time-out.
    """
    return max(2, options.concurrency // 4)


def _read(path: str) -> str:
    return read_text(Path(path).expanduser())
