"""DPG-Bench (Hu et al., 2024): 1,065 long prompts, each with questions that depend on each other.

The official scorer asks mPLUG-large; here a judge is asked for one word, or in the variant `vqa` a local VQA
model as the official scorer asks its own. Neither gives numbers that are comparable with published ones.
`dpg_bench.csv` holds the questions: it is needed for scoring, not for drawing.

Known faults of the official scorer, repeated under "official": category scores look at the last tile only,
and an item with a question whose parent is missing (the first row of the table is skipped) drops out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.data.images import open_image
from deepgen.evaluation.benchmark import (
    Benchmark,
    DataFile,
    Item,
    ItemScore,
    Protocol,
    Settings,
    count_problem,
    mean,
)
from deepgen.evaluation.data_rows import items_of, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, yes_or_no
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.text_files import read_csv, read_jsonl
from deepgen.text_lines import read_text

LEVELS = ("global", "entity", "attribute", "relation", "other")
_ORIGIN = "https://github.com/TencentQQGYLab/ELLA, dpg_bench/ (revision 3c228f1)"
_RUBRIC = """\
Look at the picture and answer with one small word, yes or no, and nothing else.
{question}"""


@dataclass(frozen=True, kw_only=True)
class DPG(JudgeBenchmark):
    """Four pictures of each prompt; guidance is 7.5 in DeepGen's own script for this benchmark."""

    name = "dpg"
    variants = ("", "vqa")
    settings = Settings(num_samples=4, guidance_scale=7.5)
    rubrics = {"question": _RUBRIC}
    sheet_path = "images/{id}.png"
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
            texts = {file.stem: read_text(file).split("\n", 1)[0] for file in folder.glob("*.txt")}
        else:
            path = self.locate(data_dir, "prompts.jsonl", "dpg_bench/prompts.jsonl")
            lines = enumerate(read_jsonl(path), start=1)
            texts = {_name_in(row) or f"line{number}": row for number, row in lines}
        problems = count_problem(self.label, "prompts", 1065, len(texts))
        (file,) = self.scoring_files()
        table = self.locate(data_dir, file.path, *file.aliases)
        questions = _read_questions(table) if table.is_file() else {}
        if table.is_file():
            missing = sorted(set(texts) - set(questions))
            problems += [f"{self.label}: {table} has no questions for {name}" for name in missing]

        def item(name: str, row: Any) -> Item:
            if isinstance(row, Mapping) and _name_in(row) != name:
                raise ValueError(f"name is {row.get('name')!r} instead of a text")
            asked = questions.get(name, [])
            if isinstance(asked, str):
                raise ValueError(asked)
            return Item(
                id=name,
                category=name.rstrip("0123456789") or "number",
                prompt=text_of({"text": row} if isinstance(row, str) else row, "text").strip(),
                metadata={"questions": asked},
            )

        rows = sorted(texts.items(), key=lambda pair: f"{pair[0]}.txt")
        items, unreadable = items_of(self.label, rows, item)
        return items, [*unreadable, *problems]

    def check_scoring(self, items: Sequence[Item]) -> list[str]:
        """The table of questions."""
        lacking = sum(not item.fault and not item.metadata["questions"] for item in items)
        return (
            [f"dpg: {lacking} of {len(items)} items have no questions; put dpg_bench.csv there ({_ORIGIN})"]
            if lacking
            else []
        )

    def image_path(self, item: Item, sample: int) -> str:
        """Single pictures lie outside the official folder, in which only grids may lie."""
        return f"tiles/{item.id}/{sample}.png"

    def finish(self, folder: Path, item: Item, paths: Sequence[Path]) -> None:
        """images/NAME.png: the four pictures two by two."""
        from deepgen.data.png import image_grid, read_records, save_png

        opened = [open_image(path) for path in paths]
        (folder / "images").mkdir(exist_ok=True)
        grid = image_grid(opened, gap=0)
        save_png(grid, folder / "images" / f"{item.id}.png", read_records(grid))

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """One call a question."""
        return [
            Question(
                key=str(question["id"]),
                prompt="question",
                fields={"question": question["text"]},
                images=(image,),
            )
            for question in item.metadata["questions"]
        ]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """One word."""
        return yes_or_no()

    def read(self, item: Item, key: str, reply: str) -> Any:
        """The bare word; a judge's capital and full stop are forgiven, prose is no answer."""
        word = reply.strip().strip(".").lower()
        return is_yes(word) if word in ("yes", "no") else None

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """The tile's own score, and its answers."""
        questions = item.metadata["questions"]
        score = item_score(questions, [answers], "fixed")
        if score is None:
            raise ValueError("this item has no questions")
        return score, {"item": item.id, "questions": questions, "answers": dict(answers)}

    def item_values(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float | None]:
        """In [0, 1], by the protocol's rule; None for an item that the official scorer loses."""
        return {
            score.item: item_score(
                score.rows[0]["questions"], [row["answers"] for row in score.rows], protocol
            )
            if score.rows
            else None
            for score in scores
        }

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 100]."""
        items = [
            {"questions": score.rows[0]["questions"], "tiles": [row["answers"] for row in score.rows]}
            for score in scores
            if score.rows
        ]
        return aggregate(items, protocol)


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
        """The model; there is no prompt."""
        return Benchmark.scorer_version(self, scorers)

    def asker(self, scorers: Scorers) -> Callable[[Item, Question], tuple[Any, str]]:
        """Asks the bare question."""
        vqa = scorers.vqa
        if vqa is None:
            raise ValueError("dpg:vqa needs a model that answers questions; give --vqa")

        def ask(item: Item, question: Question) -> tuple[Any, str]:
            answer = vqa(question.images[0], question.fields["question"])
            return is_yes(answer), answer

        return ask


def make(*, variant: str = "", protocol: Protocol = "official") -> Benchmark:
    """The benchmark, asking a judge or a local model."""
    return (_WithVQA if variant == "vqa" else DPG)(variant=variant, protocol=protocol)


def _name_in(row: Any) -> str:
    """The name of a row, empty where it has none."""
    name = row.get("name") if isinstance(row, Mapping) else None
    return name if isinstance(name, str) else ""


def _read_questions(table: Path) -> dict[str, list[dict[str, Any]] | str]:
    """The questions of each item in the table's order, or in words why a row of it cannot be read."""
    questions: dict[str, list[dict[str, Any]] | str] = {}
    for index, row in enumerate(read_csv(table)):
        asked = questions.setdefault(row["item_id"], [])
        try:
            question = {
                "id": int(row["proposition_id"]),
                "parents": parents_of(row["dependency"]),
                "tuple": text_of(row, "tuple"),
                "text": text_of(row, "question_natural_language"),
                "is_first_row": index == 0,
            }
        except (KeyError, TypeError, ValueError) as error:
            questions[row["item_id"]] = f"row {index + 2} of {table.name}: {error}"
            continue
        if isinstance(asked, list):
            asked.append(question)
    return questions


def is_yes(reply: str) -> bool:
    """Only the bare word counts."""
    return reply == "yes"


def parents_of(dependency: str) -> list[int]:
    """Proposition ids a question depends on; 0 stands for none."""
    return [int(part) for part in str(dependency).split(",") if part.strip() and int(part) != 0]


def category_of(tuple_text: str) -> tuple[str, str]:
    """(level 1, level 2) of a question: what stands before the bracket, and before its first hyphen."""
    level_2 = tuple_text.split("(")[0].strip()
    return level_2.split("-")[0].strip(), level_2


def tile_score(questions: Sequence[Mapping[str, Any]], answers: Mapping[int, bool]) -> float:
    """Score in [0, 1] of one picture: the mean of the answers, a no making every question below it a no.

    Args:
        questions: `id` and `parents` in the order of the table.
        answers: by id.

    Raises:
        KeyError: a question depends on one that is not there.
    """
    scores: dict[int, float] = {question["id"]: float(answers[question["id"]]) for question in questions}
    for question in questions:
        if any(scores[parent] == 0 for parent in question["parents"]):
            scores[question["id"]] = 0.0
    return mean(list(scores.values()))


def item_score(
    questions: Sequence[Mapping[str, Any]],
    tiles: Sequence[Mapping[int, bool] | Mapping[str, bool]],
    protocol: Protocol = "fixed",
) -> float | None:
    """Mean score of an item's tiles in [0, 1]; None where the official scorer would lose the item, as it does
    one whose only question is the first row of the table.

    A question with `is_first_row` is the first row of the official table, which its scorer does not read.
    """
    if protocol == "official":
        questions = [question for question in questions if not question.get("is_first_row")]
    answers = [{int(key): bool(value) for key, value in tile.items()} for tile in tiles]
    try:
        return mean([tile_score(questions, tile) for tile in answers])
    except (KeyError, ValueError):
        if protocol == "official":
            return None
        raise


def aggregate(items: Sequence[Mapping[str, Any]], protocol: Protocol = "fixed") -> dict[str, float]:
    """Scores in [0, 100]: `overall`, and of each category as `level1 NAME` and `level2 NAME`.

    Args:
        items: `questions` (`id`, `parents`, `tuple`) and `tiles`, the answers by id of each tile.
        protocol: "official" takes the categories from the last tile only.
    """
    scores, levels = [], dict[str, list[float]]()
    for item in items:
        score = item_score(item["questions"], item["tiles"], protocol)
        if score is None:
            continue
        scores.append(score)
        for tile in item["tiles"][-1:] if protocol == "official" else item["tiles"]:
            answers = {int(key): value for key, value in tile.items()}
            for question in item["questions"]:
                if protocol == "official" and question.get("is_first_row"):
                    continue
                level_1, level_2 = category_of(question["tuple"])
                for name in (f"level1 {level_1}", f"level2 {level_2}"):
                    levels.setdefault(name, []).append(float(answers[question["id"]]))
    return {
        "overall": 100 * mean(scores),
        **{name: 100 * mean(values) for name, values in sorted(levels.items())},
    }


benchmark = make
