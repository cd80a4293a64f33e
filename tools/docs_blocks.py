"""Code blocks of the documentation, and what a page says about running them.

A block runs as it stands unless an HTML comment directly above its fence says otherwise:

    <!-- run: skip REASON -->            not run, for this reason
    <!-- run: small weights -->          Hub names are found in a cache, which holds small random weights
    <!-- run: small hub -->              a Hub on this machine serves them, and what it serves is downloaded
    <!-- run: files a.png=picture -->    inputs that are made first; the kinds are in docs_files.py
    <!-- run: replace OLD -> NEW -->     this text is another; `->` with nothing after it removes it
    <!-- run: two steps -->              trainings stop after two steps
    <!-- run: checkout -->               the folder holds the checkout's tools, examples and benchmarks
    <!-- run: needs PACKAGE -->          not run where that package is not installed
    <!-- run: slow -->                   left to `make docs` and `make test-slow`
    <!-- run: exit 1 -->                 its commands may end with this code
    <!-- run: write FILE -->             the block, of whatever language, is the content of that file

Several stand in one comment with `;` between them, or in comments one below the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LANGUAGES = ("python", "bash")
_BLOCK = re.compile(
    r"(?P<comments>(?:^<!-- run: [^\n]*-->\n)*)^```(?P<language>\w+)\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"^<!-- run: (.*?) *-->$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        page: its file.
        line: of its fence, from 1.
        language: python, bash, or any other where `write` names a file.
        code: as it is run, with replacements.
        skip: why it is not run; empty where it is.
        files: inputs that are made first, name to kind.
        replaced: texts that were replaced.
        needs: packages without which it is not run.
        exit: code that its commands may end with, beside 0.
        write: the file whose content it is.
        is_slow, has_small_weights, has_small_hub, has_two_steps, has_checkout: see the file's comment.
    """

    page: Path
    line: int
    language: str
    code: str
    skip: str = ""
    files: dict[str, str] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    exit: int = 0
    write: str = ""
    is_slow: bool = False
    has_small_weights: bool = False
    has_small_hub: bool = False
    has_two_steps: bool = False
    has_checkout: bool = False

    def __str__(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{page}:{self.line}"

    @property
    def substituted(self) -> list[str]:
        """In words, what differs from the page as it is read."""
        words = ["small random weights"] if self.has_small_weights else []
        words += ["a Hub on this machine with small random weights"] if self.has_small_hub else []
        words += ["two steps"] if self.has_two_steps else []
        return [*words, *(f"replaced {text!r}" for text in self.replaced)]


def read_blocks(page: Path) -> list[Block]:
    """Blocks of a page that run or are written, in order.

    Raises:
        ValueError: a comment says something unknown, or replaces what its block does not hold.
    """
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in _BLOCK.finditer(text):
        line = text[: match.start("language")].count("\n") + 1
        block = _read_block(page, line, match["language"], match["code"], match["comments"])
        if block.language in LANGUAGES or block.write:
            blocks.append(block)
    marked = len(_COMMENT.findall(text))
    used = sum(len(_COMMENT.findall(match["comments"])) for match in _BLOCK.finditer(text))
    if marked != used:
        raise ValueError(f"{page}: {marked - used} `<!-- run: ... -->` stand above no block")
    return blocks


def _read_block(page: Path, line: int, language: str, code: str, comments: str) -> Block:
    said: dict[str, object] = {}
    files: dict[str, str] = {}
    replaced, needs = [], []
    for comment in _COMMENT.findall(comments):
        for words in filter(None, (part.strip() for part in comment.split(";"))):
            verb, _, rest = words.partition(" ")
            if words == "slow":
                said["is_slow"] = True
            elif words in ("small weights", "small hub", "two steps", "checkout"):
                said[f"has_{words.replace(' ', '_')}"] = True
            elif verb in ("skip", "write") and rest:
                said[verb] = rest
            elif verb == "exit" and rest.isdigit():
                said["exit"] = int(rest)
            elif verb == "needs" and rest:
                needs += rest.split()
            elif verb == "files" and all("=" in word for word in rest.split()):
                files |= dict(word.split("=", 1) for word in rest.split())
            elif verb == "replace" and "->" in rest:
                old, new = (part.strip() for part in rest.split("->", 1))
                if old not in code:
                    raise ValueError(f"{page}:{line}: replaces {old!r}, which the block does not hold")
                code = code.replace(old, new)
                replaced.append(old)
            else:
                raise ValueError(f"{page}:{line}: unknown words {words!r} in a `run:` comment")
    return Block(
        page=page,
        line=line,
        language=language,
        code=code,
        files=files,
        replaced=tuple(replaced),
        needs=tuple(needs),
        **said,  # type: ignore[arg-type]
    )


def command_lines(code: str) -> list[str]:
    """Lines of a bash block with continuations joined, without blanks and comments."""
    joined = re.sub(r"\\\n\s*", " ", code).splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]
