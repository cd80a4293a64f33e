"""Where a judge's prompts come from: our own texts, the user's files, or the user's copy of the official
repository.

Official prompts are not part of this package. From a checkout they are read as text out of the source files
(parsed, never run), and its git revision is recorded, or a hash of those files where it is no checkout.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepgen.text_lines import read_text


@dataclass(frozen=True, kw_only=True)
class JudgePrompt:
    """A prompt template of a judge, with {fields} to fill in; `system` is said before, as its own message."""

    text: str
    system: str = ""


@dataclass(frozen=True, kw_only=True)
class Official:
    """Where a prompt stands in an official repository.

    Attributes:
        paths: of the file, the first that is there.
        names: variables whose texts are joined by line breaks; a key of a JSON file; empty is the f-string
            that has all of `fields` in it.
        fields: what stands where one of ours goes, as {theirs: ours}.
        system: a variable that is the system message, or "role" for the text of the message with that role.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    system: str = ""


_WISE = {"{prompt_data['Prompt']}": "{prompt}", "{prompt_data['Explanation']}": "{explanation}"}
_RISE = {"{instruct}": "{instruction}"}
_IMGEDIT = ("Benchmark/Basic/prompts.json", "judge_prompt.json", "singleturn/judge_prompt.json")
_VIE = ("GEdit-Bench/viescore/vie_prompts.py", "viescore/vie_prompts.py")
_VIE_START = "_context_no_delimit"


def _variables(path: str, names: Mapping[str, str]) -> dict[str, Official]:
    return {
        question: Official(paths=(path,), names=(name,), fields=_RISE) for question, name in names.items()
    }


OFFICIAL: dict[str, dict[str, Official]] = {
    "wise": {
        "legacy": Official(paths=("WISE_legacy/gpt_eval.py", "gpt_eval.py"), fields=_WISE, system="role"),
        "verified": Official(paths=("vllm_eval.py",), fields=_WISE, system="role"),
    },
    "corebench": {
        "question": Official(
            paths=("evaluate.py",),
            names=("TEXT",),
            fields={"{METADATA['Prompt']}": "{prompt}", "{QUESTION['question']}": "{question}"},
            system="TEMPLATE",
        )
    },
    "risebench": _variables(
        "utils.py",
        {
            "consistency": "prompt_consist",
            "reasoning": "prompt_reasoning",
            "reasoning_two": "prompt_reasoning_w_input",
            "quality": "prompt_generation",
            "spatial_consistency": "prompt_spatial_cons",
            "spatial_reasoning": "prompt_spatial_ref",
            "spatial_reasoning_two": "prompt_spatial_ref_w_input",
            "spatial_reasoning_picture": "prompt_spatial_ref_img",
            "spatial_quality": "prompt_spatial_qual",
            "logical_consistency": "prompt_logical_cons",
            "logical_consistency_answer": "prompt_logical_cons_ans",
            "logical_reasoning": "prompt_logical_txt",
            "logical_reasoning_picture": "prompt_logical_img",
            "logical_reasoning_picture_alone": "prompt_logical_img_wo_q",
        },
    ),
    "unireditbench": _variables(
        "eval/utils.py",
        {
            "consistency": "prompt_consist",
            "reasoning": "prompt_reasoning_w_ref_image",
            "quality": "prompt_generation",
        },
    ),
    "imgedit": {
        kind: Official(paths=_IMGEDIT, names=(kind,), fields={"<edit_prompt>": "{instruction}"})
        for kind in (
            *("add", "adjust", "extract", "replace", "remove"),
            *("background", "style", "compose", "action"),
        )
    },
    "gedit": {
        "semantics": Official(
            paths=_VIE,
            names=(_VIE_START, "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC"),
            fields={"<instruction>": "{instruction}"},
        ),
        "quality": Official(paths=_VIE, names=(_VIE_START, "_prompts_0shot_rule_PQ")),
    },
}


class JudgePrompts:
    """Prompts of a folder with one folder a benchmark, or our own where there is no folder.

    In FOLDER/BENCHMARK, files QUESTION.txt come first; without one, the prompt is looked for where a checkout
    of the official repository has it.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[tuple[str, str], tuple[JudgePrompt, Path]] = {}

    @property
    def are_ours(self) -> bool:
        """Whether our own prompts are used, whose scores are not comparable with published ones."""
        return self.folder is None

    def get(self, benchmark: str, question: str, ours: str) -> JudgePrompt:
        """The prompt of a question.

        Raises:
            FileNotFoundError: a folder was given, and neither a file nor an official prompt is there.
            ValueError: the official file is there and does not hold the prompt.
        """
        if self.folder is None:
            return JudgePrompt(text=ours)
        key = (benchmark, question)
        if key not in self._known:
            self._known[key] = self._find(self.folder / benchmark, benchmark, question, ours)
        return self._known[key][0]

    def check(self, benchmark: str, rubrics: Mapping[str, str]) -> None:
        """Look for all prompts of a benchmark before the first is asked.

        Raises:
            FileNotFoundError, ValueError: as `get`; where several are missing, all files are named.
        """
        errors: dict[str, Exception] = {}
        for question, ours in rubrics.items():
            try:
                self.get(benchmark, question, ours)
            except (FileNotFoundError, ValueError) as error:
                errors[question] = error
        if not errors:
            return
        first, *others = errors
        more = f"; so it is with {', '.join(f'{name}.txt' for name in others)}" if others else ""
        raise type(errors[first])(f"{errors[first]}{more}")

    def _find(self, folder: Path, benchmark: str, question: str, ours: str) -> tuple[JudgePrompt, Path]:
        path = folder / f"{question}.txt"
        fields = " and ".join(f"{{{name}}}" for name in re.findall(r"\{([a-z]+)\}", ours)) or "no field"
        if path.is_file():
            return JudgePrompt(text=read_text(path)), path
        official = OFFICIAL.get(benchmark, {}).get(question)
        if official is None:
            raise FileNotFoundError(
                f"{path} is missing: the judge's prompt for {question!r} of {benchmark}, which is not read "
                f"from checkouts; write it into that file, with {fields} for what differs by item, or "
                "leave --judge-prompts out to use our own wording"
            )
        found = next((folder / name for name in official.paths if (folder / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{path} is missing, and so is {' or '.join(official.paths)} of the official repository in "
                f"{folder}; put a checkout there, or write the prompt into {path.name} with {fields} for "
                "what differs by item, or leave --judge-prompts out to use our own prompts"
            )
        try:
            return read_official(found, official), found
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"{error}; or write the prompt into {path}, with {fields} for what differs by item"
            ) from error

    def source(self, benchmark: str) -> dict[str, Any]:
        """What the manifest says of the prompts used so far: where they are from, and which revision."""
        if self.folder is None:
            return {"from": "our own wording"}
        files = sorted({path for (name, _), (_, path) in self._known.items() if name == benchmark})
        folder = self.folder / benchmark
        return {
            "from": str(folder),
            "files": [str(path.relative_to(folder)) for path in files],
            "revision": revision(folder, files),
        }


def read_official(path: Path, official: Official) -> JudgePrompt:
    """A prompt out of an official file, with our fields in it; ValueError where it is not in there."""
    if path.suffix == ".json":
        texts = {key: text for key, text in json.loads(path.read_text("utf-8")).items() if text}
        found = [texts.get(name) for name in official.names]
        system = ""
    else:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = dict(assigned_texts(tree))
        found = [texts.get(name) for name in official.names] or [_holding(tree, tuple(official.fields))]
        system = _system(tree) if official.system == "role" else texts.get(official.system, "")
    if not all(found) or (official.system and not system):
        wanted = ", ".join(official.names) or f"a text with {', '.join(official.fields)}"
        raise ValueError(
            f"{path} does not hold the prompt ({wanted}); this may be another revision of the repository: "
            "check out the one in docs/evaluation.md"
        )
    text = "\n".join(str(part) for part in found)
    for theirs, ours in official.fields.items():
        text = text.replace(theirs, ours)
    return JudgePrompt(text=text, system=system)


def assigned_texts(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(variable, text) of every assignment of a text, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (text := _text(node.value)) is not None:
            yield from ((target.id, text) for target in node.targets if isinstance(target, ast.Name))


def _text(node: ast.expr) -> str | None:
    """A literal, an f-string with its expressions as {source}, or a sum of those."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [
            f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else _text(part)
            for part in node.values
        ]
        return None if None in parts else "".join(str(part) for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_text(node.left), _text(node.right)]
        return None if None in sides else "".join(str(side) for side in sides)
    return None


def _holding(tree: ast.AST, fields: tuple[str, ...]) -> str | None:
    """The longest text that has all fields in it."""
    texts = [_text(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    return max(
        (text for text in texts if text and all(name in text for name in fields)), key=len, default=None
    )


def _system(tree: ast.AST) -> str:
    """The text of the message whose role is system; empty where there is none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Dict):
            continue
        pairs = {
            key.value: value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
        role, content = pairs.get("role"), pairs.get("content")
        if isinstance(role, ast.Constant) and role.value == "system" and content is not None:
            texts = [_text(part) for part in ast.walk(content) if isinstance(part, ast.Constant)]
            return max((text for text in texts if text), key=len, default="")
    return ""


def revision(folder: Path, files: list[Path]) -> str:
    """`git COMMIT` where the folder is the top of a checkout, with `+changed` where files differ from it;
    else `sha256 DIGEST` of the files.
    """
    if (folder / ".git").exists() and shutil.which("git") is not None:
        asked = [
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *map(str, files)])
        ]
        if all(reply.returncode == 0 for reply in asked):
            return f"git {asked[0].stdout.strip()}{'+changed' if asked[1].stdout.strip() else ''}"
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return f"sha256 {digest.hexdigest()}"
