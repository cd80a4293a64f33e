"""DPG-Bench (Hu et al., 2024): 1,065 long prompts, each with questions that depend on each other.

The official scorer asks mPLUG-large; here a judge is asked for one word, or in the variant `vqa` a local VQA
model as the official scorer asks its own. Neither gives numbers that are comparable with published ones.
`dpg_bench.csv` holds the questions: it is needed for scoring, not for drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.eval.benchmark import Benchmark, DataFile, Item, ItemScore, Settings, count_problem
from deepgen.eval.forms import Form, yes_or_no
from deepgen.eval.judged import Judged, Question
from deepgen.eval.scorers import Scorers
from deepgen.eval.scoring import Protocol, dpg
from deepgen.eval.text_files import read_csv, read_jsonl

_ORIGIN = "https://github.com/TencentQQGYLab/ELLA, dpg_bench/ (revision 3c228f1)"
_RUBRIC = """\
Look at the picture and answer with one small word, yes or no, and nothing else.
{question}"""


@dataclass(frozen=True, kw_only=True)
class DPG(Judged):
    """Four pictures of each prompt; guidance is 7.5 in DeepGen's own script for this benchmark."""

    name = "dpg"
    variants = ("", "vqa")
    settings = Settings(num_samples=4, guidance_scale=7.5)
    rubrics = {"question": _RUBRIC}
    notes = {
        "official": "the first row of the table is not read, categories look at the last picture only",
        "fixed": "every row is read, categories look at every picture",
    }

    def files(self) -> tuple[DataFile, ...]:
        """Prompts as one file; a folder of text files does as well."""
        return (
            DataFile(
                path="prompts.jsonl",
                origin=f"{_ORIGIN}: the folder prompts/, or its texts as lines of name and text",
                sha256="b42e6f664eefd917c09847f6dada4356e3a9acf01ec225c399c32c0cb2482fd0",
                num_rows=1065,
                aliases=("dpg_bench/prompts.jsonl",),
            ),
        )

    def scoring_files(self) -> tuple[DataFile, ...]:
        """The table of questions; no hash of it is known."""
        return (DataFile(path="dpg_bench.csv", origin=_ORIGIN, aliases=("dpg_bench/dpg_bench.csv",)),)

    def _prompt_folder(self, data_dir: Path) -> Path:
        return self.locate(data_dir, "prompts", "dpg_bench/prompts")

    def check_files(self, data_dir: Path) -> tuple[list[str], list[str]]:
        """The folder of texts has no hash; its number of files is checked."""
        if self._prompt_folder(data_dir).is_dir():
            return [], []
        return super().check_files(data_dir)

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """Sorted by name as texts, with their questions where the table is there."""
        folder = self._prompt_folder(data_dir)
        if folder.is_dir():
            texts = {
                file.stem: next(iter(file.read_text(encoding="utf-8").splitlines()), "")
                for file in folder.glob("*.txt")
            }
        else:
            path = self.locate(data_dir, "prompts.jsonl", "dpg_bench/prompts.jsonl")
            texts = {row["name"]: row["text"] for row in read_jsonl(path)}
        problems = count_problem(self.label, "prompts", 1065, len(texts))
        questions: dict[str, list[dict[str, Any]]] = {}
        (file,) = self.scoring_files()
        table = self.locate(data_dir, file.path, *file.aliases)
        if table.is_file():
            for index, row in enumerate(read_csv(table)):
                questions.setdefault(row["item_id"], []).append(
                    {
                        "id": int(row["proposition_id"]),
                        "parents": dpg.parents_of(row["dependency"]),
                        "tuple": row["tuple"],
                        "text": row["question_natural_language"],
                        "is_first_row": index == 0,
                    }
                )
            missing = sorted(set(texts) - set(questions))
            problems += [f"{self.label}: {table} has no questions for {name}" for name in missing]
        items = [
            Item(
                id=name,
                category=name.rstrip("0123456789") or "number",
                prompt=text.strip(),
                metadata={"questions": questions.get(name, [])},
            )
            for name, text in sorted(texts.items(), key=lambda pair: f"{pair[0]}.txt")
        ]
        return items, problems

    def check_scoring(self, items: Sequence[Item]) -> list[str]:
        """The table of questions."""
        lacking = sum(not item.metadata["questions"] for item in items)
        return (
            [f"dpg: {lacking} of {len(items)} items have no questions; put dpg_bench.csv there ({_ORIGIN})"]
            if lacking
            else []
        )

    def picture_path(self, item: Item, sample: int) -> str:
        """Single pictures lie outside the official folder, in which only grids may lie."""
        return f"tiles/{item.id}/{sample}.png"

    def finish(self, folder: Path, item: Item, pictures: Sequence[Path]) -> None:
        """images/NAME.png: the four pictures two by two."""
        from deepgen.data.png import image_grid, save_png

        opened = [Image.open(path).convert("RGB") for path in pictures]
        (folder / "images").mkdir(exist_ok=True)
        save_png(image_grid(opened, gap=0), folder / "images" / f"{item.id}.png")

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """One call a question."""
        return [
            Question(
                key=str(question["id"]),
                wording="question",
                fields={"question": question["text"]},
                images=(image,),
            )
            for question in item.metadata["questions"]
        ]

    def form(self, item: Item, question: Question) -> Form:
        """One word."""
        return yes_or_no()

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The bare word; a judge's capital and full stop are forgiven, prose is no answer."""
        word = reply.strip().strip(".").lower()
        return dpg.is_yes(word) if word in ("yes", "no") else None

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """The tile's own score, and its answers."""
        questions = item.metadata["questions"]
        score = dpg.item_score(questions, [answers], "fixed")
        assert score is not None
        return score, {"item": item.id, "questions": questions, "answers": dict(answers)}

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 100]."""
        items = [
            {"questions": score.rows[0]["questions"], "tiles": [row["answers"] for row in score.rows]}
            for score in scores
            if score.rows
        ]
        return dpg.aggregate(items, protocol)


class _WithVQA(DPG):
    """Answered by a local model. Whatever is not the bare word yes is a no, as in the official scorer."""

    needs = ("vqa",)
    notes = {
        protocol: f"{note}; answered by a local model that is not the official mPLUG-large: not comparable "
        "with published scores"
        for protocol, note in DPG.notes.items()
    }

    def num_questions(self, items: Sequence[Item]) -> int:
        """No judge is asked."""
        return 0

    def scorer_version(self, scorers: Scorers) -> str:
        """The model; there is no wording."""
        return Benchmark.scorer_version(self, scorers)

    def asker(self, scorers: Scorers) -> Callable[[Item, Question], tuple[Any, str]]:
        """Asks the bare question."""
        vqa = scorers.vqa
        if vqa is None:
            raise ValueError("dpg:vqa needs a model that answers questions; give --vqa")

        def ask(item: Item, question: Question) -> tuple[Any, str]:
            answer = vqa(question.images[0], question.fields["question"])
            return dpg.is_yes(answer), answer

        return ask


def make(*, variant: str = "", protocol: Protocol = "official") -> Benchmark:
    """The benchmark, asking a judge or a local model."""
    return (_WithVQA if variant == "vqa" else DPG)(variant=variant, protocol=protocol)


benchmark = make
