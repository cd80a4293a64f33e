"""Small files in the form of the official ones, a model that needs no weights, and a judge that grades."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepgen.evaluation.models import CannotDraw


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def image(path: Path, color: tuple[int, int, int] = (200, 10, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), color).save(path)


def table(*rows: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_all(data: Path) -> Path:
    """A few items of every benchmark."""
    rows = [
        {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"},
        {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"},
        {
            "tag": "colors",
            "include": [{"class": "cat", "count": 1, "color": "red"}],
            "prompt": "a red cat",
        },
        {
            "tag": "counting",
            "include": [{"class": "cat", "count": 2}],
            "exclude": [{"class": "cat", "count": 3}],
            "prompt": "two cats",
        },
    ]
    write(data / "geneval/evaluation_metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for folder in ("CVTG", "CVTG-style"):  # the spelling of its README
        for area in (2, 3, 4, 5):
            words = " and ".join(f"'WORD{index}'" for index in range(area))
            row = {"index": 0, "prompt": f"a sign with {words}", "carrier_list": [], "sentence_list": []}
            write(data / f"cvtg2k/{folder}/{area}.json", {"data_list": [row]})
    for variant, end in (("legacy", ""), ("verified", "_verified")):
        for name, numbers in (
            ("cultural_common_sense", (1, 2)),
            ("spatio-temporal_reasoning", (401, 600)),
            ("natural_science", (701, 850, 950)),
        ):
            items = [
                {
                    "Prompt": f"thing {number}",
                    "Explanation": f"meaning {number}",
                    "Category": "",
                    "Subcategory": "",
                    "prompt_id": number,
                }
                for number in numbers
            ]
            write(data / f"wise/{variant}/{name}{end}.json", items)
    lines = [{"name": name, "text": f"a long text about {name}"} for name in ("0", "partiprompts97")]
    write(data / "dpg/prompts.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    questions = [
        {
            "item_id": name,
            "text": "",
            "keywords": "",
            "proposition_id": number,
            "dependency": parent,
            "category_broad": "",
            "category_detailed": "",
            "tuple": f"entity - whole ({name})",
            "question_natural_language": f"Is {name} there ({number})?",
        }
        for name in ("partiprompts97", "0")
        for number, parent in ((1, 0), (2, 1))
    ]
    write(data / "dpg/dpg_bench.csv", table(*questions))
    dims = {
        "Primary Categories": "Art",
        "Testpoints": ["Style", "Action - Hand"],
        "Testpoint Description": ["ink", "waving"],
    }
    write(
        data / "unigenbench/test_prompts_en.csv",
        table(*({"index": i, "prompt_en": f"prompt {i}", "sub_dims_en": json.dumps(dims)} for i in (0, 1))),
    )
    for task in ("R-LR", "R-BR", "R-HR", "R-PR", "R-GR", "R-AR", "R-CR", "R-RR"):
        entry = {"Prompt": "a riddle", "Checklist": [{"question": "is it so?", "tags": []}]}
        write(data / f"corebench/{task}.json", {f"{task}-001": entry})
    image(data / "imgedit/animal/1.jpg")
    write(
        data / "imgedit/basic_edit.json",
        {
            "10": {"id": "animal/1.jpg", "prompt": "add a hat", "edit_type": "add"},
            "11": {"id": "animal/1.jpg", "prompt": "as a sketch", "edit_type": "style"},
        },
    )
    image(data / "risebench/temporal_reasoning_images/1.png")
    image(data / "risebench/right.png")
    write(
        data / "risebench/data_total.json",
        [
            {
                "index": f"{category}_1",
                "category": category,
                "instruction": "what comes next?",
                "image": "temporal_reasoning_images/1.png",
                "reference": "an old banana",
                **extra,
            }
            for category, extra in (
                ("temporal_reasoning", {}),
                ("causal_reasoning", {"consistency_free": True}),
                ("spatial_reasoning", {"reference_img": "right.png"}),
                ("logical_reasoning", {"reference_txt": "7"}),
            )
        ],
    )
    image(data / "unireditbench/source.png")
    image(data / "unireditbench/target.png")
    write(
        data / "unireditbench/data.json",
        [
            {
                "name": name,
                "idx": 1,
                "instruction": "solve it ",
                "rules": rules,
                "original_image_path": "source.png",
                "reference_image_path": "target.png",
                "reference_effect": "solved",
            }
            for name, rules in (("maze", "walls are black"), ("melting", ""))
        ],
    )
    return data


def write_gedit(data: Path) -> None:
    from datasets import Dataset

    file = io.BytesIO()
    Image.new("RGB", (24, 16), (0, 120, 0)).save(file, "PNG")
    names = ("background_change", "text_change")
    rows = [
        {
            "key": f"{language}{index}",
            "task_type": task,
            "instruction": f"change it {index}",
            "instruction_language": language,
            "input_image": {"bytes": file.getvalue(), "path": None},
            "Intersection_exist": index == 0,
        }
        for language in ("en", "cn")
        for index, task in enumerate(names)
    ]
    (data / "gedit").mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(str(data / "gedit" / "train.parquet"))


class NoiseModel:
    """Colored noise of a seed; counts what it drew, and may refuse or be killed."""

    name, fingerprint, is_seeded, is_batched = "noise", "noise-1", True, True

    def __init__(self, killed_after: int | None = None, refuses: str = "") -> None:
        self.drawn: list[str] = []
        self.killed_after, self.refuses = killed_after, refuses

    def draw(self, items, seeds, settings, generator=None):
        images = []
        for item, seed in zip(items, seeds, strict=True):
            if self.killed_after is not None and len(self.drawn) >= self.killed_after:
                raise KeyboardInterrupt
            if self.refuses and self.refuses in item.prompt:
                raise CannotDraw("refused for its content")
            self.drawn.append(item.id)
            if generator is not None:
                seed = int(__import__("torch").randint(2**31, (), generator=generator))
            rng = np.random.default_rng(seed)
            shape = (settings.height, settings.width, 3)
            images.append(Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)))
        return images


# What a judge of ours says to each kind of question, told from our own wordings.
REPLIES = (
    ("three lines:\nConsistency", "Consistency: 2\nRealism: 1\nAesthetic Quality: 1"),
    ('"Score: 1"', "Score: 1"),
    ("one small word, yes or no, and", "yes"),
    ("one small word, yes or no.", "yes"),
    ("how well the instruction was followed", '{"score": [9, 4], "reasoning": "so"}'),
    ("how natural it looks", '{"score": [9, 9], "reasoning": "so"}'),
    ("Preservation: <1-5>", "A hat.\nInstruction: 4\nNaturalness: 3\nPreservation: 2"),
    ("Give 1 if it is fully right", "Yes. Final Score: 1"),
    ("Final Score", "Good. **Final Score**: 5"),
)


def judge_says(text: str) -> str:
    if "<analysis>" in text:  # every other of the numbered points is met
        count = len(re.findall(r"^\d+\. ", text, flags=re.MULTILINE))
        scores = [1 - index % 2 for index in range(count)]
        return f"<analysis>{['so'] * count}</analysis><score>{scores}</score>"
    return next(reply for part, reply in REPLIES if part in text)


def judge_answer(model: str = "stub", says=judge_says):
    """An answer for `reward_server.serving`."""

    def answer(path: str, document: Any) -> tuple[int, Any]:
        assert path == "/v1/chat/completions"
        text = document["messages"][0]["content"][0]["text"]
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return 200, {"model": model, "choices": [{"message": {"content": says(text)}}], "usage": usage}

    return answer


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }
