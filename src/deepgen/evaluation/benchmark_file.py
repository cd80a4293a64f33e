"""Benchmarks of one's own, by the path of a file: a Python file with a class, or a small YAML.

The YAML names prompts and one of two rules, questions that a judge answers or a reward of this package:

    prompts: prompts.txt                # a prompt a line; or .jsonl, .csv, or a list of prompts
    samples: 2                          # pictures of each prompt; default 1
    settings: {height: 512, width: 512} # default: as published benchmarks draw
    rule: yes-no                        # share of questions answered with yes; or grade; or reward
    questions:                          # of every picture; a row of .jsonl may have its own
      - Is it night?

Paths are relative to the file. The fields of a prompt's row are `id`, `category`, `references` (pictures that
an edit starts from) and `questions`; the others are what a reward needs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from deepgen.evaluation.benchmark import (
    Benchmark,
    DataFile,
    Item,
    ItemScore,
    Protocol,
    Settings,
    mean,
    settings_with,
)
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, grades, yes_or_no
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.text_files import read_csv, read_jsonl
from deepgen.rewards.replies import after_thinking
from deepgen.suggestions import suggestion_or_all
from deepgen.text_lines import read_text
from deepgen.user_files import load_file, named_by
from deepgen.yaml_files import read_yaml

Rule = Literal["yes-no", "grade", "reward"]
RULES = ("yes-no", "grade", "reward")
_FILE = re.compile(r"(?P<path>.+\.(?:py|ya?ml))(?::(?P<variant>[^/\\]*))?")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_SEEN = "Go by what can clearly be seen in it, not by the prompt."
_YES_NO = f"""\
A picture was asked for with this prompt: {{prompt}}
Question about the picture: {{question}}
{_SEEN} Reply with one small word, yes or no."""
_GRADE = f"""\
A picture was asked for with this prompt: {{prompt}}
Grade this: {{question}}
{_SEEN} {{low}} is the worst and {{high}} the best. End with one line "Score: " and a whole number."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """What a YAML file says.

    Attributes:
        name: of the benchmark and of its folder in a run; default the file's name.
        version: raise it when scores change.
        prompts: a file, or the prompts themselves: texts, or rows with `prompt`.
        samples: pictures of each prompt.
        settings: of `deepgen.evaluation.benchmark.Settings`.
        rule: yes-no, grade or reward.
        questions: asked about every picture whose row has none of its own.
        scale: lowest and highest grade.
        reward: its name, and `options`.
        options: of the reward.
    """

    name: str
    version: str = "1"
    prompts: str | list[Any]
    samples: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    rule: Rule
    questions: Sequence[str] = ()
    scale: tuple[int, int] = (1, 5)
    reward: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that are no folder, rules there are not, and what a rule lacks."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} is no plain name of letters, digits, dots and dashes")
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}{suggestion_or_all(str(self.rule), RULES)}")
        if (self.rule == "reward") != bool(self.reward):
            raise ValueError("rule: reward needs the name of one, as reward: ocr, and other rules none")
        if not self.prompts or not isinstance(self.prompts, str | list):
            raise ValueError("prompts are a file's name or a list")
        if isinstance(self.questions, str) or not all(isinstance(text, str) for text in self.questions):
            raise ValueError("questions are a list of texts")
        if len(self.scale) != 2 or self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale is [lowest, highest] grade, got {list(self.scale)}")


def split_name(name: str) -> tuple[Path, str] | None:
    """(path, variant) where a benchmark's name is a file, `my/signs.yaml` or `signs.py:long`; else None."""
    match = _FILE.fullmatch(name)
    return None if match is None else (Path(match["path"]).expanduser(), match["variant"] or "")


def load_benchmark_file(path: Path, variant: str = "", protocol: Protocol = "official") -> Benchmark:
    """The benchmark of a file; the code of a .py file is run.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or what is wrong with it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no benchmark at {path}")
    path = path.resolve()
    made = _from_python(path) if path.suffix == ".py" else _from_yaml(path)
    return type(made.__name__, (made,), {"source_file": path})(variant=variant, protocol=protocol)


# --- Python -------------------------------------------------------------------------------------------------


def _from_python(path: Path) -> type[Benchmark]:
    made = getattr(load_file(path), "benchmark", None)
    if not (isinstance(made, type) and issubclass(made, Benchmark)):
        raise ValueError(
            f"{path} defines no benchmark: it ends with `benchmark = CLASS`, a subclass of "
            "deepgen.evaluation.benchmark.Benchmark"
        )
    if not _NAME.fullmatch(made.name):
        raise ValueError(f"{path}: the class says no plain name, as name = {path.stem!r}; got {made.name!r}")
    return made


# --- YAML ---------------------------------------------------------------------------------------------------


def _from_yaml(path: Path) -> type[Benchmark]:
    spec = _read_spec(path)
    base: type[_PromptsOfFile] = _RewardedFile if spec.rule == "reward" else _JudgedFile
    try:
        settings = settings_with(Settings(), **{"num_samples": spec.samples, **spec.settings})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: settings: {error}") from error
    base.check(spec, path)
    attributes = {
        "name": spec.name,
        "version": spec.version,
        "spec": spec,
        "settings": settings,
        "folder": path.parent,
        "is_edit": any(row.get("references") for row in _rows(spec, path.parent)),
        "__doc__": f"{spec.name}, from {path}.",
    }
    made: Any = type(base.__name__, (base,), attributes)
    return made


def _read_spec(path: Path) -> BenchmarkSpec:
    content = read_yaml(path, "benchmarks in YAML need PyYAML", "eval")
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no benchmark: it needs at least prompts and rule")
    known = [one.name for one in fields(BenchmarkSpec)]
    if unknown := [key for key in content if key not in known]:
        raise ValueError(f"{path}: unknown field {unknown[0]!r}{suggestion_or_all(str(unknown[0]), known)}")
    if lacking := [name for name in ("prompts", "rule") if name not in content]:
        raise ValueError(f"{path} lacks {' and '.join(lacking)}")
    content = {"name": path.stem, **content}
    if isinstance(content.get("reward"), str):
        content["reward"] = named_by(path, content["reward"], path.parent)
    if "version" in content:
        content["version"] = str(content["version"])
    if isinstance(content.get("scale"), list):
        content["scale"] = tuple(content["scale"])
    try:
        return BenchmarkSpec(**content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _rows(spec: BenchmarkSpec, folder: Path) -> list[dict[str, Any]]:
    """The prompts as rows; none where their file is missing, which is said when they are read."""
    if isinstance(spec.prompts, list):
        return [row if isinstance(row, dict) else {"prompt": str(row)} for row in spec.prompts]
    path = folder / spec.prompts
    if not path.is_file():
        return []
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".csv":
        return [dict(row) for row in read_csv(path)]
    lines = read_text(path).split("\n")
    return [{"prompt": line.strip()} for line in lines if line.strip()]


@dataclass(frozen=True, kw_only=True)
class _PromptsOfFile(Benchmark):
    """What both rules share: items and their files."""

    spec: ClassVar[BenchmarkSpec]
    folder: ClassVar[Path]

    @classmethod
    def check(cls, spec: BenchmarkSpec, path: Path) -> None:
        """ValueError where the rule lacks something."""

    def files(self) -> tuple[DataFile, ...]:
        """The file of prompts, where there is one."""
        if isinstance(self.spec.prompts, list):
            return ()
        return (DataFile(path=self.spec.prompts, origin=f"beside the file of {self.name}"),)

    def locate(self, data_dir: Path, path: str, *aliases: str) -> Path:
        """Beside the benchmark's own file."""
        return self.folder / path

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """In the order of the file."""
        items, problems = [], []
        for index, row in enumerate(_rows(self.spec, self.folder)):
            if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
                problems.append(f"{self.name}: row {index} has no prompt: {str(row)[:80]!r}")
                continue
            references = row.get("references") or []
            references = [references] if isinstance(references, str) else references
            items.append(
                Item(
                    id=str(row.get("id", f"{index:05d}")),
                    category=str(row.get("category", "all")),
                    prompt=row["prompt"].strip(),
                    references=tuple(self.folder / name for name in references),
                    metadata=row,
                )
            )
        return items, problems

    def image_path(self, item: Item, sample: int) -> str:
        """images/00000_0.png."""
        return f"images/{item.id}_{sample}.png"

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """`overall`, the mean over pictures, and that of each category where there are several."""
        pools: dict[str, list[float]] = defaultdict(list)
        for score in scores:
            pools[score.category] += [float(row["value"]) for row in score.rows]
        pools = {name: pool for name, pool in pools.items() if pool}
        table = {"overall": mean([value for pool in pools.values() for value in pool])}
        if len(pools) > 1:
            table |= {name: mean(pool) for name, pool in pools.items() if name != "overall"}
        return table


@dataclass(frozen=True, kw_only=True)
class _JudgedFile(_PromptsOfFile, JudgeBenchmark):
    """Questions that a judge answers: the share of yes, or the mean grade."""

    rubrics = {"yes-no": _YES_NO, "grade": _GRADE}

    @classmethod
    def check(cls, spec: BenchmarkSpec, path: Path) -> None:
        """Questions are texts, of all pictures or of each row."""
        for index, row in enumerate(_rows(spec, path.parent)):
            asked = row.get("questions") or spec.questions if isinstance(row, dict) else ()
            if isinstance(asked, str) or not asked:
                raise ValueError(f"{path}: rule {spec.rule} needs questions, a list; row {index} has none")

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """Each shows what an edit started from, and the picture."""
        low, high = (str(grade) for grade in self.spec.scale)
        return [
            Question(
                key=str(index),
                prompt=self.spec.rule,
                fields={"question": text, "low": low, "high": high, "prompt": item.prompt},
                images=(*references, image),
            )
            for index, text in enumerate(item.metadata.get("questions") or self.spec.questions)
        ]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """A word, or a whole number."""
        if self.spec.rule == "yes-no":
            return yes_or_no()
        return grades("Score", low=self.spec.scale[0], high=self.spec.scale[1])

    def read(self, item: Item, key: str, reply: str) -> float | None:
        """1 or 0 of yes and no, or a grade of the scale; None where a reply says neither, or both."""
        reply = after_thinking(reply) or ""
        if self.spec.rule == "yes-no":
            words = set(re.findall(r"\b(yes|no)\b", reply.lower()))
            return float(words == {"yes"}) if len(words) == 1 else None
        found = re.findall(r"\bscore\b\W*?(-?\d+(?:\.\d+)?)", reply, flags=re.IGNORECASE)
        grade = float(found[-1]) if found else None
        low, high = self.spec.scale
        return grade if grade is not None and low <= grade <= high else None

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """The mean of the answers."""
        value = mean([float(answer) for answer in answers.values()])
        return value, {"value": value}

    def scorer_version(self, scorers: Scorers) -> str:
        """The judge, its prompts, and the questions."""
        asked = json.dumps([self.spec.rule, self.spec.questions, self.spec.scale])
        return f"{super().scorer_version(scorers)} {hashlib.sha256(asked.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class _RewardedFile(_PromptsOfFile):
    """A reward of this package, given the fields of the prompt's row."""

    @classmethod
    def check(cls, spec: BenchmarkSpec, path: Path) -> None:
        """The reward is there, its options are right, and it looks at each picture alone."""
        from deepgen.rewards.scorers import REWARDS, option_problems, reward_class

        if problem := REWARDS.problem(spec.reward):
            raise ValueError(f"{path}: {problem}")
        if reward_class(spec.reward).kind != "pointwise":
            raise ValueError(f"{path}: {spec.reward} compares pictures, and a benchmark scores each alone")
        if problems := option_problems(spec.reward, spec.options):
            raise ValueError(f"{path}: {spec.reward}: {'; '.join(problems)}")

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Of each picture; one without a score is a problem of the item."""
        from deepgen.rewards.reward import Candidate

        reward = _reward(self.spec.reward, json.dumps(self.spec.options, sort_keys=True))
        references = tuple(item.open_references())
        given = {"prompt": item.prompt, "references": references, "metadata": item.metadata}
        results = reward([Candidate(image=image, **given) for image in images])
        values = [result.score for result in results if result.score is not None]
        return ItemScore(
            item=item.id,
            category=item.category,
            value=mean(values) if values else None,
            rows=tuple({"value": value} for value in values),
            words="\n".join(result.reason for result in results if result.score is not None),
            problems=tuple(
                f"sample {sample}: {result.reason}"
                for sample, result in enumerate(results)
                if result.score is None
            ),
            num_expected=len(images),
            num_scored=len(values),
        )

    def scorer_version(self, scorers: Scorers) -> str:
        """The reward's own."""
        reward = _reward(self.spec.reward, json.dumps(self.spec.options, sort_keys=True))
        return f"{super().scorer_version(scorers)} {self.spec.reward} {reward.version}"


@lru_cache(maxsize=8)
def _reward(name: str, options: str) -> Any:
    """Made once, since it may load a model."""
    from deepgen.rewards.scorers import make_reward

    return make_reward(name, **json.loads(options))
